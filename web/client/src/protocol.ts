/**
 * The classic mediasoup-demo dialect of protoo, as types: what the page asks of the server, what the server asks of
 * the page, and what the server announces. Fields are mediasoup's own; unknown ones are ignored by both sides.
 */
import type { types } from 'mediasoup-client';

export interface DeviceInfo {
  flag: string;
  name: string;
  version: string;
}

export interface PeerInfo {
  id: string;
  displayName: string;
  device?: DeviceInfo;
}

/** Where a track comes from. It travels in `appData.source`; mediasoup-demo's own `share: true` is understood too. */
export type Source = 'microphone' | 'camera' | 'screen';

export interface TransportInfo {
  id: string;
  iceParameters: types.IceParameters;
  iceCandidates: types.IceCandidate[];
  dtlsParameters: types.DtlsParameters;
}

/** Requests that the client sends: what goes with each, and what comes back. */
export interface Requests {
  getRouterRtpCapabilities: { data: object; reply: types.RtpCapabilities };
  createWebRtcTransport: {
    data: { forceTcp: boolean; producing: boolean; consuming: boolean };
    reply: TransportInfo;
  };
  connectWebRtcTransport: {
    data: { transportId: string; dtlsParameters: types.DtlsParameters };
    reply: object;
  };
  join: {
    /** `migrate`: this client takes its media elsewhere when it is told to. */
    data: {
      displayName: string;
      device: DeviceInfo;
      rtpCapabilities: types.RtpCapabilities;
      migrate: boolean;
    };
    /** `resume`: by which this session is had back when its connection breaks. */
    reply: { peers: PeerInfo[]; resume?: { token: string } };
  };
  restartIce: { data: { transportId: string }; reply: types.IceParameters };
  produce: {
    data: {
      transportId: string;
      kind: types.MediaKind;
      rtpParameters: types.RtpParameters;
      appData: types.AppData;
      /** The own producer that it takes the place of, in a migration. */
      replaces?: string;
    };
    reply: { id: string };
  };
  /** All media is on the new transports; answered when the server has closed the old ones. */
  migrated: { data: object; reply: object };
  closeProducer: { data: { producerId: string }; reply: object };
  pauseProducer: { data: { producerId: string }; reply: object };
  resumeProducer: { data: { producerId: string }; reply: object };
  setConsumerPreferredLayers: {
    data: { consumerId: string; spatialLayer: number; temporalLayer?: number };
    reply: object;
  };
}

/** The one request that the server sends; the answer tells it to resume the consumer. */
export interface NewConsumer {
  peerId: string;
  producerId: string;
  id: string;
  kind: types.MediaKind;
  rtpParameters: types.RtpParameters;
  type: string;
  appData: types.AppData;
  producerPaused: boolean;
  transportId?: string;
  /** The consumer that it takes the place of, in a migration of either side. */
  replaces?: string;
}

/** Notifications that the server sends and the client acts on. */
export interface Notifications {
  newPeer: PeerInfo;
  peerClosed: { peerId: string };
  peerDisplayNameChanged: { peerId: string; displayName: string };
  consumerClosed: { consumerId: string };
  consumerPaused: { consumerId: string };
  consumerResumed: { consumerId: string };
  consumerLayersChanged: {
    consumerId: string;
    spatialLayer: number | null;
    temporalLayer: number | null;
  };
  /** The node with this client's transports is to be empty: make new ones, and say `migrated` in time. */
  migrate: { withinMs: number };
  activeSpeaker: { peerId: string | null; volume?: number };
}

/** A notification with its data, as a union that `switch (event.method)` narrows. */
export type ServerNotification = {
  [M in keyof Notifications]: { method: M; data: Notifications[M] };
}[keyof Notifications];

export function sourceOf(kind: types.MediaKind, appData: types.AppData | undefined): Source {
  if (kind === 'audio') return 'microphone';
  const { source, share } = appData ?? {};
  return share === true || source === 'screen' || source === 'screensharing' ? 'screen' : 'camera';
}

/** What a client may show besides its ids. */
export interface Credentials {
  /** A server may let in only who has a token. */
  token?: string | undefined;
  /** A secret of 16 to 128 characters: once a peer has connected with one, only who has it takes its place. */
  peerKey?: string | undefined;
}

/** The WebSocket address of the server that served a page at `page`. */
export function signalingUrl(
  page: string,
  roomId: string,
  peerId: string,
  { token, peerKey }: Credentials = {},
): string {
  const url = new URL('/', page);
  url.protocol = url.protocol === 'http:' ? 'ws:' : 'wss:';
  url.search = new URLSearchParams({
    roomId,
    peerId,
    ...(token === undefined ? {} : { token }),
    ...(peerKey === undefined ? {} : { peerKey }),
  }).toString();
  return url.href;
}
