import { expect, it } from 'vitest';
import { statsLines } from './stats-lines';

const known = { width: 1280, height: 720, fps: 29.7, bitrate: 1_830_000, loss: 0.012, rttMs: 12.4 };

it('shows units and rounds to what can be read', () => {
  const audio = { width: undefined, height: undefined, fps: undefined, bitrate: 31_900, loss: 0 };
  const rest = { codec: undefined, layers: undefined };
  expect(
    statsLines({ ...known, codec: 'VP8', layers: 'S2 T2' }, { ...audio, ...rest, rttMs: undefined }),
  ).toEqual([
    ['Video', '1280×720 30 fps VP8'],
    ['Layers', 'S2 T2'],
    ['Rate', '1.8 Mbit/s + 32 kbit/s'],
    ['Loss', '1.2% + 0%'],
    ['RTT', '12 ms'],
  ]);
});

it('shows nothing of streams that are not there', () => {
  expect(statsLines(undefined, undefined)).toEqual([]);
});
