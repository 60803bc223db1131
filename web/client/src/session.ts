/**
 * One stay in a room over one signaling connection: the device, one send and one receive transport, producers and
 * consumers. A session never reconnects; when its connection or its media is lost it is closed and `Call` makes
 * another. It must not touch devices (tracks come from outside and outlive it) nor draw anything.
 */
import type { types } from 'mediasoup-client';
import type { DeviceLoader } from './device-loader';
import { Emitter } from './emitter';
import { type CameraOptions, sendOptions } from './encodings';
import { type NewConsumer, type PeerInfo, type Source, type TransportInfo, sourceOf } from './protocol';
import { ConnectionLostError, type Signaling } from './signaling';

/** How long after an ICE restart a transport may take before the session is given up. */
const RESTART_DEADLINE_MS = 8_000;
/** A transport that is merely `disconnected` often comes back by itself; after this it is helped. */
const DISCONNECTED_GRACE_MS = 6_000;

/** How often it is looked whether media has come, and for how long at most. */
const FLOWS_LOOK_MS = 30;
const FLOWS_WITHIN_MS = 4_000;

interface Transports {
  send: types.Transport;
  recv: types.Transport;
}

/** What the session consumes, with what the server last said about it. */
export interface RemoteConsumer {
  readonly consumer: types.Consumer;
  readonly peerId: string;
  readonly source: Source;
  /** The producer is paused: the peer is muted, or its camera covered. */
  paused: boolean;
  spatialLayer: number | null;
  temporalLayer: number | null;
}

interface SessionEvents {
  consumer: [consumer: RemoteConsumer];
  /** Paused, resumed or moved to another layer. */
  consumerChanged: [consumer: RemoteConsumer];
  consumerClosed: [consumer: RemoteConsumer];
  /** Media flows on both directions in use, or has stopped to. */
  media: [state: 'connected' | 'interrupted'];
  /** ICE did not come back, even by a restart: only a new session helps. */
  failed: [];
}

export interface SessionOptions {
  displayName: string;
  camera: CameraOptions;
}

export class Session extends Emitter<SessionEvents> {
  readonly consumers = new Map<string, RemoteConsumer>();
  readonly producers = new Map<Source, types.Producer>();
  #transports: Transports | undefined;
  /** What the session had before it migrated, until the server has closed it. */
  #old: Transports | undefined;
  /** What a producer takes the place of, by its `appData`. */
  readonly #replaced = new WeakMap<object, string>();
  #device: types.Device | undefined;
  /** Offered by the server and not set up yet; what it says about them meanwhile is kept here. */
  readonly #offers = new Map<string, { peerId: string; producerId: string; paused: boolean }>();
  /** Producers of others that were replaced by new ones, in a migration. */
  readonly #replacedProducers = new Set<string>();
  /** Which transport a consumer is on. */
  readonly #carriers = new WeakMap<types.Consumer, types.Transport>();
  readonly #timers = new Map<types.Transport, ReturnType<typeof setTimeout>>();
  #joined: Promise<{ peers: PeerInfo[] }> | undefined;
  #closed = false;

  constructor(
    private readonly signaling: Signaling,
    private readonly devices: DeviceLoader,
    private readonly options: SessionOptions,
  ) {
    super();
  }

  get closed(): boolean {
    return this.#closed;
  }

  get sendTransport(): types.Transport | undefined {
    return this.#transports?.send;
  }

  get recvTransport(): types.Transport | undefined {
    return this.#transports?.recv;
  }

  /** Prepares both transports and joins: two round trips. Resolves with the peers that are there already. */
  async join(): Promise<PeerInfo[]> {
    const [routerRtpCapabilities, send, recv] = await Promise.all([
      this.signaling.request('getRouterRtpCapabilities', {}),
      this.signaling.request('createWebRtcTransport', { forceTcp: false, producing: true, consuming: false }),
      this.signaling.request('createWebRtcTransport', { forceTcp: false, producing: false, consuming: true }),
    ]);
    const device = await this.devices.load(routerRtpCapabilities);
    if (this.#closed) throw new ConnectionLostError();
    this.#device = device;
    this.#transports = {
      send: this.#watch(device.createSendTransport(transportOptions(send))),
      recv: this.#watch(device.createRecvTransport(transportOptions(recv))),
    };
    this.#joined = this.signaling.request('join', {
      displayName: this.options.displayName,
      device: thisDevice(device.handlerName),
      rtpCapabilities: device.recvRtpCapabilities,
      migrate: true,
    });
    const { peers } = await this.#joined;
    return peers;
  }

  /** Sends a track. The caller keeps the track: closing the producer leaves it running. */
  async produce(source: Source, track: MediaStreamTrack, replaced?: string): Promise<void> {
    const transport = this.#transports?.send;
    if (!transport || this.#closed) return;
    const appData = source === 'screen' ? { source, share: true } : { source };
    if (replaced !== undefined) this.#replaced.set(appData, replaced);
    const producer = await transport.produce({
      track,
      ...sendOptions(source, track.getSettings().height ?? 720, this.options.camera),
      ...(source === 'camera' ? this.#codec() : {}),
      stopTracks: false,
      appData,
    });
    this.producers.set(source, producer);
    if (producer.paused) await this.signaling.request('pauseProducer', { producerId: producer.id });
  }

  /**
   * Makes new transports, on another node: from now on all that is produced and consumed is on these, while the old ones
   * go on until `migrated`.
   */
  async migrate(): Promise<void> {
    const device = this.#device;
    if (!device || !this.#transports || this.#old) throw new Error('nothing to migrate');
    const make = (producing: boolean) =>
      this.signaling.request('createWebRtcTransport', { forceTcp: false, producing, consuming: !producing });
    const send = await make(true);
    // The last one, and at once in its place: the server's offers follow it.
    const recv = await make(false);
    if (this.#closed) throw new ConnectionLostError();
    this.#old = this.#transports;
    for (const transport of [this.#old.send, this.#old.recv]) this.#setTimer(transport, undefined);
    this.#transports = {
      send: this.#watch(device.createSendTransport(transportOptions(send))),
      recv: this.#watch(device.createRecvTransport(transportOptions(recv))),
    };
  }

  /** Sends on the new transport what is sent on the old one. */
  async replace(source: Source): Promise<void> {
    const old = this.producers.get(source);
    if (!old || !this.#old || old.closed || !old.track) return;
    await this.produce(source, old.track, old.id);
  }

  /** Once all that was received and sent flows on the new transports, has the server close the old ones. */
  async migrated(withinMs: number): Promise<void> {
    const [old, transports] = [this.#old, this.#transports];
    if (!old || !transports) return;
    const end = Date.now() + withinMs;
    while (!this.#closed && Date.now() < end && !(await this.#hasArrived(old))) {
      await new Promise((resolve) => setTimeout(resolve, FLOWS_LOOK_MS));
    }
    await this.signaling.request('migrated', {});
    this.#old = undefined;
    close(old);
  }

  async #hasArrived(old: Transports): Promise<boolean> {
    const sends = this.#transports?.send;
    if (this.producers.size > 0 && sends?.connectionState !== 'connected') return false;
    const all = [...this.consumers.values()];
    const isOld = ({ consumer }: RemoteConsumer) => this.#carriers.get(consumer) === old.recv;
    const fresh = new Map(all.filter((one) => !isOld(one)).map((one) => [one.consumer.producerId, one]));
    for (const { consumer } of all.filter(isOld)) {
      const remote = fresh.get(consumer.producerId);
      if (!remote || !(await this.#hasCome(remote))) return false;
    }
    return true;
  }

  /** The codec that was asked for, where both sides have it. */
  #codec(): { codec?: types.RtpCodecCapability } {
    const wanted = this.options.camera.codec;
    if (wanted === undefined) return {};
    const codecs = this.#device?.sendRtpCapabilities.codecs ?? [];
    const codec = codecs.find(({ mimeType }) => mimeType.toLowerCase() === `video/${wanted}`);
    if (!codec) throw new Error(`${wanted.toUpperCase()} is not available here`);
    return { codec };
  }

  async stopProducing(source: Source): Promise<void> {
    const producer = this.producers.get(source);
    if (!producer) return;
    this.producers.delete(source);
    producer.close();
    await this.signaling.request('closeProducer', { producerId: producer.id });
  }

  async setPaused(source: Source, paused: boolean): Promise<void> {
    const producer = this.producers.get(source);
    if (!producer || producer.paused === paused) return;
    if (paused) producer.pause();
    else producer.resume();
    await this.signaling.request(paused ? 'pauseProducer' : 'resumeProducer', { producerId: producer.id });
  }

  /** Sets up what the server offers; it sends media once `accept` is called. */
  async consume(offer: NewConsumer, accept: () => void, reject: (error: Error) => void): Promise<void> {
    const recv = [this.#transports?.recv, this.#old?.recv];
    const transport = recv.find((one) => one?.id === offer.transportId) ?? recv[0];
    if (!transport || this.#closed) {
      reject(new Error('no receive transport'));
      return;
    }
    const { peerId, producerId, replaces } = offer;
    this.#offers.set(offer.id, { peerId, producerId, paused: offer.producerPaused });
    const before = this.#producerOf(replaces);
    if (before !== undefined && before !== producerId) this.#replacedProducers.add(before);
    try {
      const source = sourceOf(offer.kind, offer.appData);
      const consumer = await transport.consume({
        id: offer.id,
        producerId: offer.producerId,
        kind: offer.kind,
        rtpParameters: offer.rtpParameters,
        // Audio and camera of a peer play in step; its screen keeps its own pace.
        streamId: `${offer.peerId}-${source === 'screen' ? 'screen' : 'camera'}`,
        appData: offer.appData,
      });
      const state = this.#offers.get(offer.id);
      if (this.closed) {
        // No answer: the connection that asked is gone, and another one may be up by now.
        consumer.close();
        return;
      }
      if (!state) {
        consumer.close();
        reject(new Error('closed meanwhile'));
        return;
      }
      const remote: RemoteConsumer = {
        consumer,
        peerId: offer.peerId,
        source,
        paused: state.paused,
        spatialLayer: null,
        temporalLayer: null,
      };
      this.#carriers.set(consumer, transport);
      this.consumers.set(consumer.id, remote);
      this.emit('consumer', remote);
      accept();
    } catch (error) {
      if (!this.closed) reject(error instanceof Error ? error : new Error(String(error)));
    } finally {
      this.#offers.delete(offer.id);
    }
  }

  #producerOf(consumerId: string | undefined): string | undefined {
    if (consumerId === undefined) return undefined;
    return this.consumers.get(consumerId)?.consumer.producerId ?? this.#offers.get(consumerId)?.producerId;
  }

  /**
   * What to show of a peer's source: while peers migrate there may be several consumers of it, in any order. One whose
   * producer has not been replaced by another, and of these the last.
   */
  newest(peerId: string, source: Source): RemoteConsumer | undefined {
    const all = [...this.consumers.values()].filter((one) => one.peerId === peerId && one.source === source);
    return all.findLast((one) => !this.isReplaced(one)) ?? all.at(-1);
  }

  /** Whether its peer sends the same anew: this is about to end. */
  isReplaced({ consumer }: RemoteConsumer): boolean {
    return this.#replacedProducers.has(consumer.producerId);
  }

  consumerPaused(consumerId: string, paused: boolean): void {
    const offer = this.#offers.get(consumerId);
    if (offer) offer.paused = paused;
    const remote = this.consumers.get(consumerId);
    if (!remote) return;
    remote.paused = paused;
    this.emit('consumerChanged', remote);
  }

  consumerLayers(consumerId: string, spatialLayer: number | null, temporalLayer: number | null): void {
    const remote = this.consumers.get(consumerId);
    if (!remote) return;
    remote.spatialLayer = spatialLayer;
    remote.temporalLayer = temporalLayer;
    this.emit('consumerChanged', remote);
  }

  consumerClosed(consumerId: string): void {
    this.#offers.delete(consumerId);
    const remote = this.consumers.get(consumerId);
    if (!remote) return;
    this.consumers.delete(consumerId);
    remote.consumer.close();
    this.emit('consumerClosed', remote);
  }

  /** Whatever came, or was about to come, from this peer. */
  peerClosed(peerId: string): void {
    for (const [id, remote] of [...this.consumers, ...this.#offers]) {
      if (remote.peerId === peerId) this.consumerClosed(id);
    }
  }

  /** Resolves when the first picture or sound of a consumer is here, or none comes. */
  async flows(remote: RemoteConsumer): Promise<void> {
    const end = Date.now() + FLOWS_WITHIN_MS;
    while (!this.#closed && Date.now() < end && !(await this.#hasCome(remote))) {
      await new Promise((resolve) => setTimeout(resolve, FLOWS_LOOK_MS));
    }
  }

  /** Whether a consumer has brought a picture or a sound, or none is to be waited for. */
  async #hasCome({ consumer, paused }: RemoteConsumer): Promise<boolean> {
    if (paused || consumer.closed) return true;
    for (const stats of (await consumer.getStats()).values() as Iterable<Partial<RTCInboundRtpStreamStats>>) {
      const { type, framesDecoded, packetsReceived } = stats;
      const came = consumer.kind === 'video' ? framesDecoded : packetsReceived;
      if (type === 'inbound-rtp' && (came ?? 0) > 0) return true;
    }
    return false;
  }

  /** Says nothing more, while media goes on in both directions until `close()`: its successor takes it over first. */
  supersede(): void {
    this.#closed = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  /** Stops sending and says nothing more; what was received last stays on the screen until `close()`. */
  retire(): void {
    this.supersede();
    this.#transports?.send.close();
    this.#old?.send.close();
  }

  close(): void {
    this.retire();
    if (this.#transports) close(this.#transports);
    if (this.#old) close(this.#old);
  }

  #watch(transport: types.Transport): types.Transport {
    transport.on('connect', ({ dtlsParameters }, done, fail) => {
      this.signaling
        .request('connectWebRtcTransport', { transportId: transport.id, dtlsParameters })
        .then(() => done(), fail);
    });
    transport.on('produce', ({ kind, rtpParameters, appData }, done, fail) => {
      // Setting up the sender may overlap with the join; the server wants the join first.
      const transportId = transport.id;
      Promise.resolve(this.#joined)
        .then(() => {
          const replaces = this.#replaced.get(appData);
          const data = { transportId, kind, rtpParameters, appData };
          return this.signaling.request('produce', replaces === undefined ? data : { ...data, replaces });
        })
        .then(done, fail);
    });
    transport.on('connectionstatechange', (state) => this.#connectionState(transport, state));
    return transport;
  }

  #connectionState(transport: types.Transport, state: types.ConnectionState): void {
    // What is left behind may end as it likes.
    if (this.#closed || transport === this.#old?.send || transport === this.#old?.recv) return;
    switch (state) {
      case 'connected':
        this.#setTimer(transport, undefined);
        if (this.#timers.size === 0) this.emit('media', 'connected');
        break;
      case 'disconnected':
        this.emit('media', 'interrupted');
        this.#setTimer(
          transport,
          setTimeout(() => void this.#restartIce(transport), DISCONNECTED_GRACE_MS),
        );
        break;
      case 'failed':
        this.emit('media', 'interrupted');
        void this.#restartIce(transport);
        break;
      default:
        break;
    }
  }

  async #restartIce(transport: types.Transport): Promise<void> {
    this.#setTimer(
      transport,
      setTimeout(() => this.emit('failed'), RESTART_DEADLINE_MS),
    );
    try {
      const iceParameters = await this.signaling.request('restartIce', { transportId: transport.id });
      if (!this.#closed) await transport.restartIce({ iceParameters });
    } catch (error) {
      // A lost connection brings a new session anyway; any other refusal means that the transport is gone.
      if (!this.#closed && !(error instanceof ConnectionLostError)) this.emit('failed');
    }
  }

  #setTimer(transport: types.Transport, timer: ReturnType<typeof setTimeout> | undefined): void {
    clearTimeout(this.#timers.get(transport));
    if (timer === undefined) this.#timers.delete(transport);
    else this.#timers.set(transport, timer);
  }
}

function close({ send, recv }: Transports): void {
  send.close();
  recv.close();
}

function transportOptions({ id, iceParameters, iceCandidates, dtlsParameters }: TransportInfo) {
  return { id, iceParameters, iceCandidates, dtlsParameters };
}

function thisDevice(handlerName: string) {
  const userAgent = typeof navigator === 'undefined' ? '' : navigator.userAgent;
  const [, browser = 'browser', version = ''] = /(Firefox|Edg|Chrome|Version)\/(\d+)/.exec(userAgent) ?? [];
  return { flag: handlerName.toLowerCase(), name: browser === 'Version' ? 'Safari' : browser, version };
}
