import { expect, it } from 'vitest';
import { sendOptions } from './encodings';

it.each([
  [720, 3],
  [480, 2],
  [180, 1],
])('sends a camera of %i lines in %i layers, the last one whole', (height, layers) => {
  const { encodings } = sendOptions('camera', height, true);
  expect(encodings).toHaveLength(layers);
  expect(encodings?.at(-1)?.scaleResolutionDownBy).toBe(1);
  expect(encodings?.every(({ scalabilityMode }) => scalabilityMode === 'L1T3')).toBe(true);
});

it('sends one plain layer without simulcast', () => {
  const { encodings } = sendOptions('camera', 720, false);
  expect(encodings).toHaveLength(1);
  expect(encodings?.[0]?.scalabilityMode).toBeUndefined();
});
