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

/** How a camera is sent. */
export interface CameraOptions {
  /** Several layers, by simulcast or by a layered codec, whichever `codec` has. */
  simulcast: boolean;
  /** Which codec; left out, the first that server and browser share. */
  codec?: VideoCodec;
  /** The layers of each encoding, by a name of W3C's WebRTC-SVC; left out, what suits the codec. */
  scalabilityMode?: string;
}

export const VIDEO_CODECS = ['vp8', 'vp9', 'h264', 'av1'] as const;
export type VideoCodec = (typeof VIDEO_CODECS)[number];

/** Spatial layers that do not need each other but in key frames: a viewer is sent one of them only. */
const LAYERED = 'L3T3_KEY';
const TEMPORAL_LAYERS = 'L1T3';

/**
 * Camera: simulcast, as many layers as libwebrtc sends at this height (it drops the upper ones of a small
 * picture, so asking for three of 480p would lose the full size); VP9 and AV1 have their layers in one stream.
 * Screen: one layer with room for text. Microphone: Opus with in-band FEC; no DTX, which saves little in a call and
 * costs the first syllable.
 */
export function sendOptions(source: Source, height: number, camera: CameraOptions): SendOptions {
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
        encodings: cameraEncodings(height, camera),
        codecOptions: { videoGoogleStartBitrate: 1000 },
      };
  }
}

function cameraEncodings(height: number, { simulcast, codec, scalabilityMode }: CameraOptions) {
  const whole = LAYERS.slice(-1);
  const mode = (scalabilityMode: string | undefined) =>
    scalabilityMode === undefined ? {} : { scalabilityMode };
  if (codec === 'vp9' || codec === 'av1') {
    return whole.map((layer) => ({
      ...layer,
      ...mode(scalabilityMode ?? (simulcast ? LAYERED : undefined)),
    }));
  }
  if (!simulcast) return whole.map((layer) => ({ ...layer, ...mode(scalabilityMode) }));
  // Each encoding is a spatial layer: it may have temporal ones only.
  return LAYERS.slice(-layersFor(height)).map((layer) => ({
    ...layer,
    ...mode(scalabilityMode ?? TEMPORAL_LAYERS),
  }));
}

function layersFor(height: number): number {
  if (height >= 540) return 3;
  return height >= 270 ? 2 : 1;
}
