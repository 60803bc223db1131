import { FakeMediaStreamTrack } from 'fake-mediastreamtrack';
import { FakeHandler, testFakeParameters as fake, type types } from 'mediasoup-client';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Call, type CallState } from './call';
import { type Devices, explain } from './devices';
import { FakeServer } from './fake-server';
import type { Source } from './protocol';

class FakeDevices implements Devices {
  readonly opened: MediaStreamTrack[] = [];
  refused = new Set<Source>();

  open(source: Source): Promise<MediaStreamTrack> {
    if (this.refused.has(source)) return Promise.reject(explain(source, 'refused'));
    const track = new FakeMediaStreamTrack({ kind: source === 'microphone' ? 'audio' : 'video' });
    this.opened.push(track);
    return Promise.resolve(track);
  }
}

let server: FakeServer;
let devices: FakeDevices;
let call: Call;
let handlers: Pick<FakeHandler, 'setConnectionState' | 'receive'>[];
let states: [CallState, string | undefined][];

/** mediasoup-client's fake handler, kept so that a test can play the network. */
function handlerFactory(): types.HandlerFactory {
  const { factory, ...rest } = FakeHandler.createFactory(fake);
  return {
    ...rest,
    factory: (options) => {
      const handler = factory(options);
      handlers.push(handler as unknown as (typeof handlers)[number]);
      return handler;
    },
  };
}

beforeEach(async () => {
  server = new FakeServer();
  await server.listen();
  devices = new FakeDevices();
  handlers = [];
  states = [];
  call = new Call({
    url: server.url,
    peerId: 'me',
    displayName: 'Me',
    devices,
    camera: { simulcast: true },
    handlerFactory: handlerFactory(),
  });
  call.on('state', (state, reason) => states.push([state, reason]));
});

afterEach(async () => {
  call.leave();
  await server.close();
});

const state = (wanted: CallState) => vi.waitFor(() => expect(call.state).toBe(wanted), 3000);

/** Offers a consumer whose set-up stops halfway; the result lets it finish. */
async function holdConsume(peerId: string, id: string): Promise<() => Promise<void>> {
  const handler = handlers.at(-1);
  if (!handler) throw new Error('no receive transport');
  const receive = handler.receive.bind(handler);
  const gate = new EventTarget();
  const opened = new Promise((resolve) => gate.addEventListener('open', resolve));
  await new Promise<void>((halfway) => {
    vi.spyOn(handler, 'receive').mockImplementationOnce(async (options) => {
      const result = await receive(options);
      halfway();
      await opened;
      return result;
    });
    void server.offer(peerId, id, 'video');
  });
  return async () => {
    gate.dispatchEvent(new Event('open'));
    // A later offer is answered after whatever the old consume leads to.
    await server.offer('bob', `after-${id}`, 'audio');
  };
}

const asked = (method: string, times = 1) =>
  vi.waitFor(() => expect(server.methods().filter((name) => name === method)).toHaveLength(times), 3000);

describe('joining', () => {
  it('uses one send and one receive transport and tells who is there', async () => {
    server.peers = [{ id: 'ada', displayName: 'Ada' }];
    call.join();
    await state('joined');
    expect(server.methods()).toEqual([
      'getRouterRtpCapabilities',
      'createWebRtcTransport',
      'createWebRtcTransport',
      'join',
    ]);
    expect(call.peers.get('ada')?.displayName).toBe('Ada');
  });

  it('works without devices and says why one is missing', async () => {
    devices.refused.add('camera');
    const problems: string[] = [];
    call.on('problem', (message) => problems.push(message));
    call.join();
    await call.setCamera(true);
    await state('joined');
    expect(problems).toEqual([explain('camera', 'refused').message]);
    expect(call.isOn('camera')).toBe(false);
  });

  it('tells what it sends once the server has it', async () => {
    call.join();
    await state('joined');
    expect(call.producing()).toEqual([]);
    await call.setCamera(true);
    await asked('produce');
    await vi.waitFor(() => expect(call.producing()).toEqual(['camera']), 3000);
  });

  it('ends with the reason when the server refuses', async () => {
    server.answers.set('join', () => {
      throw new Error('the room is locked');
    });
    call.join();
    await state('closed');
    expect(states.at(-1)?.[1]).toContain('the room is locked');
  });

  it('tries again when the server is full for the moment', async () => {
    server.answers.set('createWebRtcTransport', () => {
      throw Object.assign(new Error('too many requests'), { code: 429 });
    });
    call.join();
    await vi.waitFor(() => expect(states.at(-1)?.[1]).toContain('too many requests'), 3000);
    expect(call.state).toBe('connecting');
    server.answers.clear();
    await state('joined');
  });

  it('keeps trying, and says so, while the server is away', async () => {
    const { port } = server;
    await server.close();
    call.join();
    await vi.waitFor(() => expect(states.at(-1)?.[1]).toContain('cannot be reached'), 3000);
    await server.listen(port);
    await state('joined');
  });
});

describe('media', () => {
  beforeEach(async () => {
    call.join();
    await state('joined');
  });

  it('mutes by pausing and unmutes the same producer', async () => {
    await call.setMicrophone(true);
    await call.setMicrophone(false);
    await call.setMicrophone(true);
    expect(server.methods().slice(4)).toEqual([
      'connectWebRtcTransport',
      'produce',
      'pauseProducer',
      'resumeProducer',
    ]);
    expect(devices.opened).toHaveLength(1);
  });

  it('releases the camera when it is switched off', async () => {
    await call.setCamera(true);
    await call.setCamera(false);
    await asked('closeProducer');
    expect(devices.opened[0]?.readyState).toBe('ended');
  });

  it('ends with one producer after off and on in a hurry', async () => {
    await Promise.all([call.setCamera(true), call.setCamera(false), call.setCamera(true)]);
    await asked('produce', 2);
    await asked('closeProducer', 1);
    expect(call.localTrack('camera')?.readyState).toBe('live');
  });

  it('answers newConsumer once the track is there', async () => {
    await server.offer('ada', 'c1', 'video');
    expect(call.peers.get('ada')?.tracks.get('camera')?.consumerId).toBe('c1');
    server.notify('consumerPaused', { consumerId: 'c1' });
    await vi.waitFor(() => expect(call.consumers()[0]?.paused).toBe(true));
    server.notify('consumerClosed', { consumerId: 'c1' });
    await vi.waitFor(() => expect(call.consumers()).toEqual([]));
    expect(call.peers.get('ada')?.tracks.size).toBe(0);
  });

  it('forgets an offer that is withdrawn before it is set up', async () => {
    server.notify('newPeer', { id: 'ada', displayName: 'Ada' });
    void server.offer('ada', 'c1', 'video');
    server.notify('consumerClosed', { consumerId: 'c1' });
    void server.offer('ada', 'c2', 'audio');
    server.notify('peerClosed', { peerId: 'ada' });
    await server.offer('bob', 'c3', 'video');
    expect(call.consumers().map(({ id }) => id)).toEqual(['c3']);
    expect([...call.peers.keys()]).toEqual(['bob']);
  });

  it.each([{ share: true }, { source: 'screen' }, { source: 'screensharing' }])(
    'takes %o for a shared screen',
    async (appData) => {
      await server.offer('ada', 'c1', 'video', appData);
      expect(call.consumers()[0]?.source).toBe('screen');
    },
  );
});

describe('recovery', () => {
  beforeEach(async () => {
    call.join();
    await call.setMicrophone(true);
    await call.setCamera(true);
    await state('joined');
    await asked('produce', 2);
  });

  it('joins again and sends the same tracks after a dropped connection', async () => {
    server.drop(4001);
    await vi.waitFor(() => expect(server.connections).toBe(2), 3000);
    await asked('produce', 2);
    expect(states.map(([name]) => name)).toContain('reconnecting');
    expect(call.state).toBe('joined');
    expect(devices.opened).toHaveLength(2);
    expect(devices.opened.map(({ readyState }) => readyState)).toEqual(['live', 'live']);
  });

  it('does not come back after code 4000', async () => {
    server.drop(4000);
    await state('closed');
    expect(server.connections).toBe(1);
    expect(states.at(-1)?.[1]).toMatch(/full.*elsewhere/);
  });

  it('lets those go who left during the interruption', async () => {
    server.notify('newPeer', { id: 'ada', displayName: 'Ada' });
    await vi.waitFor(() => expect(call.peers.has('ada')).toBe(true));
    server.drop(4001);
    await vi.waitFor(() => expect(call.peers.has('ada')).toBe(false), 3000);
  });

  it('leaves the new session alone when the old one finishes a consume', async () => {
    server.notify('newPeer', { id: 'ada', displayName: 'Ada' });
    server.notify('newPeer', { id: 'bob', displayName: 'Bob' });
    const finish = await holdConsume('ada', 'old-ada');
    server.peers = [{ id: 'bob', displayName: 'Bob' }];
    server.drop(4001);
    await vi.waitFor(() => expect(call.peers.has('ada')).toBe(false), 3000);
    await server.offer('bob', 'new-bob', 'video');
    await finish();
    expect([...call.peers.keys()]).toEqual(['bob']);
    expect(call.peers.get('bob')?.tracks.get('camera')?.consumerId).toBe('new-bob');
    expect(server.answered).toEqual([
      { ok: true, connection: 2 },
      { ok: true, connection: 2 },
    ]);
  });

  it('keeps the new track of a peer whose old one was being set up', async () => {
    server.peers = [{ id: 'ada', displayName: 'Ada' }];
    server.notify('newPeer', { id: 'ada', displayName: 'Ada' });
    const finish = await holdConsume('ada', 'old');
    server.drop(4001);
    await vi.waitFor(() => expect(server.connections).toBe(2), 3000);
    await asked('join');
    await server.offer('ada', 'new', 'video');
    await finish();
    expect(call.peers.get('ada')?.tracks.get('camera')?.consumerId).toBe('new');
  });

  it('restarts ICE when it fails', async () => {
    handlers.at(-2)?.setConnectionState('failed');
    await asked('restartIce');
    expect(server.connections).toBe(1);
  });

  it('joins anew when ICE cannot be restarted', async () => {
    server.answers.set('restartIce', () => {
      throw new Error('no such transport');
    });
    handlers.at(-2)?.setConnectionState('failed');
    await vi.waitFor(() => expect(server.connections).toBe(2), 3000);
    await asked('produce', 2);
  });
});
