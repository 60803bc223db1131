/** What each source is sent as. Pure: from a track's size to mediasoup-client's produce options. */
import type { types } from 'mediasoup-client';
import type { Source } from './protocol';

type SendOptions = Pick<types.ProducerOptions, 'encodings' | 'codecOptions'>;

/** Ceilings per simulcast layer, from a quarter of the size to the whole. */
const LAYERS = [
  { scaleResolutionDownBy: 4, maxBitrate: 150_000 },
  { scaleResolutionDownBy: 2, maxBitrate: 500_000 },
  { scaleResolutionDownBy: 1, maxBitrate: 1_800_000 },
];

const TEMPORAL_LAYERS = 'L1T3';

/**
 * Camera: VP8 simulcast, as many layers as libwebrtc sends at this height (it drops the upper ones of a small
 * picture, so asking for three of 480p would lose the full size). Screen: one layer with room for text.
 * Microphone: Opus with in-band FEC; no DTX, which saves little in a call and costs the first syllable.
 */
export function sendOptions(source: Source, height: number, simulcast: boolean): SendOptions {
  switch (source) {
    case 'microphone':
      return { codecOptions: { opusStereo: false, opusFec: true, opusDtx: false } };
    case 'screen':
      return {
        encodings: [{ maxBitrate: 2_500_000, scalabilityMode: 'L1T1' }],
        codecOptions: { videoGoogleStartBitrate: 1000 },
      };
    case 'camera':
      return {
        encodings: simulcast
          ? LAYERS.slice(-layersFor(height)).map((layer) => ({ ...layer, scalabilityMode: TEMPORAL_LAYERS }))
          : LAYERS.slice(-1),
        codecOptions: { videoGoogleStartBitrate: 1000 },
      };
  }
}

function layersFor(height: number): number {
  if (height >= 540) return 3;
  return height >= 270 ? 2 : 1;
}
