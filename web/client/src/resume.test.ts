import { FakeMediaStreamTrack } from 'fake-mediastreamtrack';
import { FakeHandler, testFakeParameters as fake } from 'mediasoup-client';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Call, type CallState } from './call';
import { FakeServer } from './fake-server';
import type { Source } from './protocol';

const devices = {
  open: (source: Source) =>
    Promise.resolve<MediaStreamTrack>(
      new FakeMediaStreamTrack({ kind: source === 'microphone' ? 'audio' : 'video' }),
    ),
};

let server: FakeServer;
let call: Call;
let states: CallState[];

const waitFor = <T>(check: () => T) => vi.waitFor(check, 5000);
const connections = (count: number) => waitFor(() => expect(server.connections).toBe(count));
const count = (method: string) => server.asked.filter((asked) => asked.method === method).length;

function newCall(url: string | string[]): Call {
  const made = new Call({
    url,
    peerId: 'me',
    displayName: 'Me',
    devices,
    camera: { simulcast: true },
    handlerFactory: FakeHandler.createFactory(fake),
  });
  made.on('state', (state) => states.push(state));
  return made;
}

beforeEach(async () => {
  server = new FakeServer();
  server.token = 'secret';
  await server.listen();
  states = [];
  call = newCall(server.url);
  call.join();
  await call.setCamera(true);
  await waitFor(() => expect(call.state).toBe('joined'));
  await waitFor(() => expect(count('produce')).toBe(1));
});

afterEach(async () => {
  call.leave();
  await server.close();
});

it('goes on with the same session, transports and producers after the connection broke', async () => {
  await server.offer('ada', 'c1', 'video');
  const track = call.peers.get('ada')?.tracks.get('camera')?.track;
  server.break();
  await connections(2);
  expect(server.queries[1]?.get('resume')).toBe('secret');
  await call.setCamera(false);
  expect(count('closeProducer')).toBe(1);
  expect([count('join'), count('createWebRtcTransport'), count('produce')]).toEqual([1, 2, 1]);
  expect(call.peers.get('ada')?.tracks.get('camera')?.track).toBe(track);
  expect(track?.readyState).toBe('live');
  expect(states).not.toContain('reconnecting');
});

it('hears once and in order what was said while it was away', async () => {
  const heard: string[] = [];
  call.on('peer', ({ id }) => heard.push(id));
  server.notify('newPeer', { id: 'before', displayName: '' });
  await waitFor(() => expect(heard).toEqual(['before']));
  server.deaf = true;
  for (let i = 0; i < 100; i++) server.notify('newPeer', { id: `p${i}`, displayName: '' });
  server.deaf = false;
  server.break();
  server.notify('newPeer', { id: 'after', displayName: '' });
  await waitFor(() => expect(heard.at(-1)).toBe('after'));
  expect(heard).toEqual(['before', ...Array.from({ length: 100 }, (_, i) => `p${i}`), 'after']);
  // What it has is told, so that the server need not keep it.
  await waitFor(() => expect(server.received.at(-1)).toBeGreaterThan(100));
});

it('asks again what was not answered, and what is asked meanwhile', async () => {
  server.deaf = true;
  const lost = call.setCamera(false);
  await new Promise((resolve) => setTimeout(resolve, 0));
  server.break();
  const meanwhile = call.setMicrophone(true);
  server.deaf = false;
  await Promise.all([lost, meanwhile]);
  expect(server.asked.slice(-2).map(({ method }) => method)).toEqual(['closeProducer', 'produce']);
  expect(call.state).toBe('joined');
});

it('says an answer again that was not heard', async () => {
  server.deaf = true;
  const offered = server.offer('ada', 'c1', 'video');
  server.deaf = false;
  server.break();
  await connections(2);
  await offered;
  server.deaf = true;
  void server.offer('ada', 'c2', 'audio');
  server.deaf = false;
  expect(server.answered).toHaveLength(1);
});

it('joins anew when the session cannot be had back', async () => {
  server.token = 'another';
  server.break();
  await waitFor(() => expect(count('join')).toBe(2));
  await waitFor(() => expect(count('produce')).toBe(2));
  expect(server.queries.map((query) => query.get('resume'))).toEqual([null, 'secret', null]);
  expect(call.state).toBe('joined');
});

it('joins anew when the server says that the session is over', async () => {
  server.drop(4001);
  await waitFor(() => expect(count('join')).toBe(2));
  expect(server.queries.map((query) => query.get('resume'))).toEqual([null, null]);
});

it('goes to the next address when one is gone', async () => {
  const servers = [new FakeServer(), new FakeServer()];
  for (const one of servers) {
    one.token = 'secret';
    await one.listen();
  }
  const second = newCall(servers.map(({ url }) => url));
  second.join();
  await waitFor(() => expect(second.state).toBe('joined'));
  await servers[0]?.close();
  await waitFor(() => expect(servers[1]?.queries[0]?.get('resume')).toBe('secret'));
  second.leave();
  await servers[1]?.close();
});

it('leaves for good with a goodbye', async () => {
  call.leave();
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(server.connections).toBe(1);
});
