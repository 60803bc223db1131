/**
 * Loads mediasoup-client's Device once per set of router capabilities. Loading asks the browser for an offer, tens of
 * milliseconds that a re-join to a router of the same kind need not spend again.
 */
import { Device, type types } from 'mediasoup-client';

export class DeviceLoader {
  #loaded: { key: string; device: Device } | undefined;

  /** `handlerFactory` is for tests: mediasoup-client's fake handler in place of the browser's. */
  constructor(private readonly handlerFactory?: types.HandlerFactory) {}

  async load(routerRtpCapabilities: types.RtpCapabilities): Promise<Device> {
    const key = JSON.stringify(routerRtpCapabilities);
    if (this.#loaded?.key === key) return this.#loaded.device;
    const device = await Device.factory(this.handlerFactory ? { handlerFactory: this.handlerFactory } : {});
    await device.load({ routerRtpCapabilities });
    this.#loaded = { key, device };
    return device;
  }
}
