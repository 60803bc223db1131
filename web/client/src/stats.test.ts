import { expect, it } from 'vitest';
import type { Session } from './session';
import { StatsReader } from './stats';

/** A session with one consumer whose counters are set by the test. */
function sessionWith(counters: { at: number; bytes: number; packets: number; lost: number }) {
  const report = new Map(
    [
      { id: 'codec', type: 'codec', mimeType: 'video/VP8' },
      {
        id: 'pair',
        type: 'candidate-pair',
        nominated: true,
        state: 'succeeded',
        currentRoundTripTime: 0.012,
      },
      {
        id: 'in',
        type: 'inbound-rtp',
        trackIdentifier: 'track',
        codecId: 'codec',
        timestamp: counters.at,
        bytesReceived: counters.bytes,
        packetsReceived: counters.packets,
        packetsLost: counters.lost,
        frameWidth: 640,
        frameHeight: 480,
        framesPerSecond: 20,
      },
    ].map((stats) => [stats.id, stats]),
  );
  const consumer = { id: 'c1', track: { id: 'track' } };
  return {
    closed: false,
    sendTransport: undefined,
    recvTransport: { getStats: () => Promise.resolve(report) },
    consumers: new Map([['c1', { consumer, spatialLayer: 1, temporalLayer: 2 }]]),
    producers: new Map(),
  } as unknown as Session;
}

it('reports what happened since the last look', async () => {
  const reader = new StatsReader();
  const first = await reader.read(sessionWith({ at: 1000, bytes: 5000, packets: 10, lost: 0 }));
  expect(first.remote.c1).toMatchObject({ width: 640, fps: 20, bitrate: undefined, loss: undefined });
  const second = await reader.read(sessionWith({ at: 3000, bytes: 255_000, packets: 100, lost: 10 }));
  expect(second.remote.c1).toEqual({
    width: 640,
    height: 480,
    fps: 20,
    bitrate: 1_000_000,
    loss: 0.1,
    rttMs: 12,
    codec: 'VP8',
    layers: 'S1 T2',
  });
});

it('has nothing to say without a session', async () => {
  expect(await new StatsReader().read(undefined)).toEqual({ local: {}, remote: {} });
});
