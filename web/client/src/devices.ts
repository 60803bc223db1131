/**
 * Microphone, camera and screen: asking for them, and saying in plain words why one is not to be had.
 * Nothing here knows about rooms or servers.
 */
import type { Source } from './protocol';

/** Where tracks come from; a test hands in its own. */
export interface Devices {
  open(source: Source): Promise<MediaStreamTrack>;
}

/** Why a device could not be opened, in words for the person at the page. */
export class DeviceError extends Error {
  constructor(
    readonly source: Source,
    readonly reason: 'refused' | 'missing' | 'busy' | 'insecure' | 'unknown',
    message: string,
  ) {
    super(message);
    this.name = 'DeviceError';
  }
}

const MICROPHONE: MediaTrackConstraints = {
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
};

/** The browser's own devices. `camera` narrows the picture that is asked for; 720p at 30 frames/s if left out. */
export class BrowserDevices implements Devices {
  constructor(private readonly camera: MediaTrackConstraints = {}) {}

  async open(source: Source): Promise<MediaStreamTrack> {
    // Absent on pages that came by plain HTTP from another machine, whatever the type says.
    const devices = navigator.mediaDevices as MediaDevices | undefined;
    if (!devices) throw explain(source, 'insecure');
    try {
      const stream = await this.#ask(devices, source);
      const track = stream.getTracks().find(({ kind }) => (kind === 'audio') === (source === 'microphone'));
      if (!track) throw explain(source, 'missing');
      return track;
    } catch (error) {
      throw error instanceof DeviceError ? error : explain(source, reasonOf(error));
    }
  }

  #ask(devices: MediaDevices, source: Source): Promise<MediaStream> {
    switch (source) {
      case 'microphone':
        return devices.getUserMedia({ audio: MICROPHONE });
      case 'camera':
        return devices.getUserMedia({
          video: {
            width: { ideal: 1280 },
            height: { ideal: 720 },
            frameRate: { ideal: 30, max: 30 },
            ...this.camera,
          },
        });
      case 'screen':
        return devices.getDisplayMedia({ video: { frameRate: { ideal: 15, max: 30 } }, audio: false });
    }
  }
}

function reasonOf(error: unknown): DeviceError['reason'] {
  switch (error instanceof Error ? error.name : '') {
    case 'NotAllowedError':
    case 'SecurityError':
      return 'refused';
    case 'NotFoundError':
    case 'OverconstrainedError':
      return 'missing';
    case 'NotReadableError':
    case 'AbortError':
      return 'busy';
    default:
      return 'unknown';
  }
}

const NAMES: Record<Source, string> = {
  microphone: 'microphone',
  camera: 'camera',
  screen: 'screen',
};

export function explain(source: Source, reason: DeviceError['reason']): DeviceError {
  return new DeviceError(source, reason, explanation(source, reason));
}

function explanation(source: Source, reason: DeviceError['reason']): string {
  const name = NAMES[source];
  if (source === 'screen') {
    return reason === 'refused'
      ? 'Screen sharing was not allowed.'
      : 'This browser cannot share the screen here.';
  }
  switch (reason) {
    case 'refused':
      return `The ${name} is blocked for this page. Allow it beside the address bar, then switch it on.`;
    case 'missing':
      return `No ${name} was found. You can take part without one.`;
    case 'busy':
      return `The ${name} is in use by another program.`;
    case 'insecure':
      return `Browsers hand out the ${name} only to pages loaded over HTTPS. You can still watch and listen.`;
    case 'unknown':
      return `The ${name} could not be started.`;
  }
}
