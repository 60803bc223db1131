/** Tureen's client: a call over protoo signaling and mediasoup-client media, for any page. */
export { Call, type CallOptions, type CallState, type ConsumerInfo, type RemotePeer } from './call';
export { BrowserDevices, type Devices, DeviceError } from './devices';
export { type CameraOptions, VIDEO_CODECS, type VideoCodec } from './encodings';
export { type Source, signalingUrl } from './protocol';
export type { CallStats, StreamStats } from './stats';
