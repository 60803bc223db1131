import { expect, it } from 'vitest';
import { sendOptions } from './encodings';

it.each([
  [720, 3],
  [480, 2],
  [180, 1],
])('sends a camera of %i lines in %i layers, the last one whole', (height, layers) => {
  const { encodings } = sendOptions('camera', height, { simulcast: true });
  expect(encodings).toHaveLength(layers);
  expect(encodings?.at(-1)?.scaleResolutionDownBy).toBe(1);
  expect(encodings?.every(({ scalabilityMode }) => scalabilityMode === 'L1T3')).toBe(true);
});

it('sends one plain layer without simulcast', () => {
  const { encodings } = sendOptions('camera', 720, { simulcast: false });
  expect(encodings).toHaveLength(1);
  expect(encodings?.[0]?.scalabilityMode).toBeUndefined();
});

it('sends layered codecs as one stream, in the layers that were asked for', () => {
  const vp9 = sendOptions('camera', 720, { simulcast: true, codec: 'vp9' }).encodings;
  expect(vp9).toMatchObject([{ scalabilityMode: 'L3T3_KEY' }]);
  const av1 = { simulcast: true, codec: 'av1', scalabilityMode: 'L3T3' } as const;
  expect(sendOptions('camera', 720, av1).encodings).toMatchObject([{ scalabilityMode: 'L3T3' }]);
  const plain = sendOptions('camera', 720, { simulcast: false, codec: 'vp9' }).encodings;
  expect(plain).toHaveLength(1);
  expect(plain?.[0]?.scalabilityMode).toBeUndefined();
  const h264 = sendOptions('camera', 720, { simulcast: true, codec: 'h264' }).encodings;
  expect(h264).toHaveLength(3);
});
