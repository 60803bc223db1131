import { FakeMediaStreamTrack } from 'fake-mediastreamtrack';
import { FakeHandler, testFakeParameters as fake } from 'mediasoup-client';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Call, type CallState } from './call';
import { FakeServer } from './fake-server';

let server: FakeServer;
let call: Call;
let states: CallState[];
/** Consumers that have brought something. */
let come: Set<string>;
let handlers: { setConnectionState: (state: 'connected' | 'failed') => void }[];

const waitFor = <T>(check: () => T) => vi.waitFor(check, 5000);
const of = (method: string) => server.asked.filter((asked) => asked.method === method);
const shown = () => call.peers.get('ada')?.tracks.get('camera')?.consumerId;

beforeEach(async () => {
  server = new FakeServer();
  server.token = 'secret';
  await server.listen();
  states = [];
  come = new Set();
  handlers = [];
  const { factory, ...rest } = FakeHandler.createFactory(fake);
  call = new Call({
    url: server.url,
    peerId: 'me',
    displayName: 'Me',
    devices: {
      open: (source) =>
        Promise.resolve(new FakeMediaStreamTrack({ kind: source === 'microphone' ? 'audio' : 'video' })),
    },
    camera: { simulcast: true },
    handlerFactory: {
      ...rest,
      factory: (options) => {
        const handler = factory(options);
        handlers.push(handler as unknown as (typeof handlers)[number]);
        vi.spyOn(handler, 'getReceiverStats').mockImplementation((localId) =>
          Promise.resolve(
            new Map(
              come.has(localId) || come.has('all')
                ? [[localId, { type: 'inbound-rtp', framesDecoded: 1, packetsReceived: 1 }]]
                : [],
            ) as unknown as RTCStatsReport,
          ),
        );
        return handler;
      },
    },
  });
  call.on('state', (state) => states.push(state));
  call.join();
  await call.setCamera(true);
  await call.setMicrophone(true);
  await waitFor(() => expect(of('produce')).toHaveLength(2));
  await waitFor(() => expect(call.producing()).toHaveLength(2));
});

afterEach(async () => {
  call.leave();
  await server.close();
});

it('takes all media to new transports within its session, and says so once all is there', async () => {
  expect(of('join')[0]?.data).toMatchObject({ migrate: true });
  await server.offer('ada', 'c1', 'video');
  await call.setMicrophone(false);
  server.notify('migrate', { withinMs: 10_000 });
  await waitFor(() => expect(of('produce')).toHaveLength(4));
  const [camera, microphone] = of('produce').map(
    ({ data }) => data as { transportId: string; replaces?: string },
  );
  const again = of('produce')
    .slice(2)
    .map(({ data }) => data as typeof camera);
  expect(again.map((data) => data?.replaces).every((id) => id?.startsWith('producer-'))).toBe(true);
  expect([camera?.replaces, microphone?.replaces]).toEqual([undefined, undefined]);
  expect(again.every((data) => data?.transportId !== camera?.transportId)).toBe(true);
  // Whoever is muted stays so.
  await waitFor(() => expect(of('pauseProducer')).toHaveLength(2));

  void server.offer('ada', 'c2', 'video', {}, { producerId: 'producer-of-c1', replaces: 'c1' });
  await waitFor(() => expect(call.consumers()).toHaveLength(2));
  handlers.at(-2)?.setConnectionState('connected');
  expect([shown(), of('migrated').length]).toEqual(['c1', 0]);
  come.add('all');
  await waitFor(() => expect(of('migrated')).toHaveLength(1));
  await waitFor(() => expect(shown()).toBe('c2'));
  server.notify('consumerClosed', { consumerId: 'c1' });
  await waitFor(() => expect(call.consumers().map(({ id }) => id)).toEqual(['c2']));
  expect(shown()).toBe('c2');
  expect([of('join').length, server.connections, states]).toEqual([1, 1, ['connecting', 'joined']]);
});

it('shows what another peer sent from its old node until the new picture is there', async () => {
  await server.offer('ada', 'c1', 'video');
  await server.offer('ada', 'c2', 'video', {}, { replaces: 'c1' });
  expect(shown()).toBe('c1');
  come.add('all');
  await waitFor(() => expect(shown()).toBe('c2'));
});

it('shows what is newest when both move, in whatever order it is offered', async () => {
  await server.offer('ada', 'c1', 'video');
  come.add('all');
  // What ada sends anew, from her new node; then what she sent from the old one, by the own new transport.
  await server.offer('ada', 'c2', 'video', {}, { replaces: 'c1' });
  await waitFor(() => expect(shown()).toBe('c2'));
  await server.offer('ada', 'c3', 'video', {}, { producerId: 'producer-of-c1', replaces: 'c1' });
  await server.offer('ada', 'c4', 'video', {}, { producerId: 'producer-of-c2', replaces: 'c2' });
  await waitFor(() => expect(shown()).toBe('c4'));
  for (const consumerId of ['c1', 'c4', 'c3']) server.notify('consumerClosed', { consumerId });
  await waitFor(() => expect(call.consumers().map(({ id }) => id)).toEqual(['c2']));
  expect(shown()).toBe('c2');
});

it('stays with what it has where the server has no place for it, and tries again when told', async () => {
  server.answers.set('createWebRtcTransport', () => {
    throw new Error('this peer already has a send transport');
  });
  server.notify('migrate', { withinMs: 10_000 });
  await waitFor(() => expect(of('createWebRtcTransport')).toHaveLength(3));
  server.answers.clear();
  server.notify('migrate', { withinMs: 10_000 });
  await waitFor(() => expect(of('produce')).toHaveLength(4));
  expect(states).toEqual(['connecting', 'joined']);
});
