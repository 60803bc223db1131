/** The tracks that the join form holds, at most one a device, and why one is missing. No DOM. */
import { DeviceError, type Devices } from '@tureen/client';

export type LobbyDevice = 'microphone' | 'camera';

export class LobbyDevices {
  readonly tracks = new Map<LobbyDevice, MediaStreamTrack>();
  readonly problems = new Map<LobbyDevice, string>();
  #handedOver = false;

  constructor(
    private readonly devices: Devices,
    readonly wanted: Record<LobbyDevice, boolean>,
  ) {}

  /** Resolves when the person has answered the browser's question, which may be after another toggle. */
  async open(device: LobbyDevice): Promise<void> {
    try {
      const track = await this.devices.open(device);
      if (this.#handedOver || !this.wanted[device]) {
        track.stop();
        return;
      }
      // Off and on again during the question asks twice and is answered twice.
      this.tracks.get(device)?.stop();
      this.tracks.set(device, track);
      this.problems.delete(device);
    } catch (error) {
      if (this.#handedOver) return;
      this.close(device);
      if (error instanceof DeviceError) this.problems.set(device, error.message);
    }
  }

  close(device: LobbyDevice): void {
    this.wanted[device] = false;
    this.tracks.get(device)?.stop();
    this.tracks.delete(device);
  }

  /** From here on the tracks are the caller's; what is opened later is stopped at once. */
  handOver(): Map<LobbyDevice, MediaStreamTrack> {
    this.#handedOver = true;
    return this.tracks;
  }
}
