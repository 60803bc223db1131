/**
 * A call, from join to leave: what the person wants on (microphone, camera, screen), who else is there, and keeping
 * both true across lost connections, dead workers and ICE failures without anyone touching the page.
 */
import type { types } from 'mediasoup-client';
import { DeviceLoader } from './device-loader';
import { type Devices, DeviceError, explain } from './devices';
import { Emitter } from './emitter';
import type { CameraOptions } from './encodings';
import type { PeerInfo, ServerNotification, Source } from './protocol';
import { type RemoteConsumer, Session } from './session';
import { ConnectionLostError, MOVED, RequestError, Signaling } from './signaling';
import { type CallStats, StatsReader } from './stats';

export type CallState = 'new' | 'connecting' | 'joined' | 'reconnecting' | 'closed';

export interface RemotePeer {
  readonly id: string;
  displayName: string;
  /** Present while the server knows the peer; a track's `paused` is the sender's own mute. */
  readonly tracks: Map<Source, { track: MediaStreamTrack; consumerId: string; paused: boolean }>;
}

/** What `consumers()` tells about each. */
export interface ConsumerInfo {
  id: string;
  peerId: string;
  kind: types.MediaKind;
  source: Source;
  spatialLayer: number | null;
  temporalLayer: number | null;
  paused: boolean;
}

interface CallEvents {
  /** `reason` is for the person: why it closed, or what is being waited for. */
  state: [state: CallState, reason: string | undefined];
  /** Someone came, went, was renamed, or has other tracks than before. */
  peer: [peer: RemotePeer];
  peerLeft: [peerId: string];
  /** The own track of this source is now this, muted or not; `undefined` when off. */
  local: [source: Source, track: MediaStreamTrack | undefined, muted: boolean];
  activeSpeaker: [peerId: string | null];
  media: [state: 'connected' | 'interrupted'];
  problem: [message: string];
}

export interface CallOptions {
  /** WebSocket address with room and peer id; of a cluster, several may be given, which are tried in turn. */
  url: string | readonly string[];
  peerId: string;
  displayName: string;
  devices: Devices;
  camera: CameraOptions;
  /** For tests: mediasoup-client's fake handler in place of the browser's. */
  handlerFactory?: types.HandlerFactory;
}

/** A re-join that the server refuses is tried again, more and more slowly. */
const REJOIN_FIRST_MS = 200;
const REJOIN_MOST_MS = 4_000;
/** A server that answers takes a fraction of this for a join. */
const JOIN_DEADLINE_MS = 8_000;
/** How long a peer's last picture may stand after a re-join without a new consumer taking its place. */
const STALE_TRACK_MS = 3_000;
/** An interruption that is over before this is not worth a word. */
const INTERRUPTED_MS = 1_000;
/** How long the media of a room's old node is kept after the join at its new one, until everybody is there. */
const MOVED_MS = 5_000;
/** A migration is declared done so long before its deadline, whatever has not come by then. */
const MIGRATED_BEFORE_MS = 2_000;
/** A limit is reached: later there may be room again. */
const TOO_MANY = 429;
/** What close code 4000 can mean. */
const ENDED_BY_SERVER = 'The server ended this call: the room is full, or you joined it elsewhere.';

export class Call extends Emitter<CallEvents> {
  readonly peers = new Map<string, RemotePeer>();
  readonly #tracks = new Map<Source, MediaStreamTrack>();
  readonly #wanted = new Set<Source>();
  readonly #changes = new Map<Source, Promise<void>>();
  readonly #stats = new StatsReader();
  readonly #loader: DeviceLoader;
  #signaling: Signaling | undefined;
  #session: Session | undefined;
  /** Sessions before this one, whose last pictures still stand. */
  readonly #retired: Session[] = [];
  #state: CallState = 'new';
  #rejoinDelay = REJOIN_FIRST_MS;
  #rejoinTimer: ReturnType<typeof setTimeout> | undefined;
  #interruptedTimer: ReturnType<typeof setTimeout> | undefined;
  /** The room has moved: what is received from its old node stays until the new one has it. */
  #moved = false;
  /** Those whom the present session knows. */
  #present = new Set<string>();

  constructor(private readonly options: CallOptions) {
    super();
    this.#loader = new DeviceLoader(options.handlerFactory);
  }

  get state(): CallState {
    return this.#state;
  }

  get peerId(): string {
    return this.options.peerId;
  }

  /** Connects and joins. Never rejects: what happens is told by `state`, and lost connections are retried. */
  join(): void {
    if (this.#state !== 'new') return;
    this.#setState('connecting');
    this.#connect();
  }

  /** Leaves for good and releases the devices. */
  leave(): void {
    this.#end(undefined);
  }

  /** Switches the microphone; off is a mute that keeps the device, so that on is instant. */
  setMicrophone(on: boolean): Promise<void> {
    return this.#switch('microphone', on);
  }

  /** Switches the camera; off releases the device, and its light goes out. */
  setCamera(on: boolean): Promise<void> {
    return this.#switch('camera', on);
  }

  startScreen(): Promise<void> {
    return this.#switch('screen', true);
  }

  stopScreen(): Promise<void> {
    return this.#switch('screen', false);
  }

  /** Hands over a track that was opened before the call, by the preview of the join form. */
  adopt(source: Source, track: MediaStreamTrack): void {
    this.#wanted.add(source);
    this.#setTrack(source, track);
  }

  isOn(source: Source): boolean {
    return this.#wanted.has(source);
  }

  localTrack(source: Source): MediaStreamTrack | undefined {
    return this.#tracks.get(source);
  }

  /** Asks the server for at most these layers of a consumer (0 is the lowest). */
  async setPreferredLayers(consumerId: string, spatialLayer: number, temporalLayer?: number): Promise<void> {
    await this.#signaling?.request('setConsumerPreferredLayers', {
      consumerId,
      spatialLayer,
      ...(temporalLayer === undefined ? {} : { temporalLayer }),
    });
  }

  /** What the server has taken to be sent: a producer each. */
  producing(): Source[] {
    return [...(this.#session?.producers.keys() ?? [])];
  }

  consumers(): ConsumerInfo[] {
    return [...(this.#session?.consumers.values() ?? [])].map(
      ({ consumer, peerId, source, spatialLayer, temporalLayer, paused }) => ({
        id: consumer.id,
        peerId,
        kind: consumer.kind,
        source,
        spatialLayer,
        temporalLayer,
        paused,
      }),
    );
  }

  /** Figures since the last call, per own source and per consumer. */
  async stats(): Promise<CallStats> {
    return this.#stats.read(this.#session);
  }

  #connect(): void {
    const signaling = new Signaling(this.options.url);
    this.#signaling = signaling;
    signaling.on('open', () => void this.#openSession(signaling));
    signaling.on('interrupted', () => {
      // Media goes on, and so does the call: nothing changes but that nothing can be asked for now.
      this.#interruptedTimer = setTimeout(() => {
        this.#setState(this.#state, 'Connection lost. Reconnecting…');
      }, INTERRUPTED_MS);
    });
    signaling.on('resumed', () => {
      clearTimeout(this.#interruptedTimer);
      this.#setState(this.#state);
    });
    signaling.on('failed', () => {
      if (signaling.interrupted) return;
      this.#setState(
        this.#state === 'joined' ? 'reconnecting' : this.#state,
        'The server cannot be reached. Trying again…',
      );
    });
    signaling.on('lost', (code) => {
      clearTimeout(this.#interruptedTimer);
      if (code === MOVED && this.#state === 'joined') {
        this.#moved = true;
        return;
      }
      this.#setState(
        this.#state === 'joined' ? 'reconnecting' : this.#state,
        'Connection lost. Reconnecting…',
      );
    });
    signaling.on('closed', () => {
      if (this.#signaling === signaling) this.#end(ENDED_BY_SERVER);
    });
    signaling.on('newConsumer', (offer, accept, reject) => {
      if (this.#session) void this.#session.consume(offer, accept, reject);
      else reject(new Error('not joined'));
    });
    signaling.on('notification', (notification) => this.#notified(notification));
  }

  async #openSession(signaling: Signaling): Promise<void> {
    const moved = this.#moved;
    this.#moved = false;
    this.#retireSession(moved);
    const session = new Session(signaling, this.#loader, this.options);
    this.#session = session;
    this.#listen(session, moved);
    const deadline = setTimeout(() => {
      if (this.#session === session) this.#rejoin('The server does not answer. Trying again…');
    }, JOIN_DEADLINE_MS);
    try {
      const peers = await session.join();
      if (this.#session !== session || session.closed) return;
      this.#rejoinDelay = REJOIN_FIRST_MS;
      this.#replacePeers(peers, moved);
      this.#setState('joined');
      setTimeout(() => this.#dropStaleTracks(session), moved ? MOVED_MS : STALE_TRACK_MS);
      for (const source of this.#wanted) void this.#queue(source, () => this.#produce(session, source));
    } catch (error) {
      if (this.#session === session && this.#state !== 'closed') this.#joinFailed(error);
    } finally {
      clearTimeout(deadline);
    }
  }

  #joinFailed(error: unknown): void {
    if (error instanceof ConnectionLostError) return; // 'open' follows.
    const refused = error instanceof RequestError && error.code >= 400 && error.code < 500;
    if (refused && error.code === TOO_MANY) {
      this.#rejoin(`The server cannot take you in now: ${error.message}. Trying again…`);
      return;
    }
    if (refused && this.#state === 'connecting') {
      this.#end(`The server refused the join: ${error.message}.`);
      return;
    }
    const unsupported = error instanceof Error && error.name === 'UnsupportedError';
    if (unsupported) {
      this.#end('This browser lacks the WebRTC functions that a call needs.');
      return;
    }
    this.#rejoin('Joining did not work. Trying again…');
  }

  /** Starts over on a new connection; the server replaces the old one, which has the same peer id. */
  #rejoin(reason: string): void {
    if (this.#state === 'closed' || this.#rejoinTimer !== undefined) return;
    if (this.#state === 'joined') this.#setState('reconnecting', reason);
    else this.#setState(this.#state, reason);
    this.#retireSession();
    const old = this.#signaling;
    this.#signaling = undefined;
    clearTimeout(this.#interruptedTimer);
    old?.close();
    this.#rejoinTimer = setTimeout(() => {
      this.#rejoinTimer = undefined;
      this.#connect();
    }, this.#rejoinDelay);
    this.#rejoinDelay = Math.min(this.#rejoinDelay * 2, REJOIN_MOST_MS);
  }

  #listen(session: Session, moved: boolean): void {
    session.on('consumer', (remote) => void this.#show(session, remote, moved));
    session.on('consumerChanged', (remote) => {
      const peer = this.peers.get(remote.peerId);
      if (peer?.tracks.get(remote.source)?.consumerId !== remote.consumer.id) return;
      peer.tracks.set(remote.source, trackOf(remote));
      this.emit('peer', peer);
    });
    session.on('consumerClosed', (remote) => {
      const peer = this.peers.get(remote.peerId);
      if (peer?.tracks.get(remote.source)?.consumerId !== remote.consumer.id) return;
      const left = session.newest(remote.peerId, remote.source);
      if (left) peer.tracks.set(remote.source, trackOf(left));
      else peer.tracks.delete(remote.source);
      this.emit('peer', peer);
    });
    session.on('media', (state) => {
      if (this.#session === session) this.emit('media', state);
    });
    session.on('failed', () => {
      if (this.#session === session) this.#rejoin('No media gets through. Reconnecting…');
    });
  }

  /**
   * Shows a new track; one that takes the place of another, by a migration of either side, once it has something to show:
   * until then the other's picture is shown and its sound is heard, and never both.
   */
  async #show(session: Session, remote: RemoteConsumer, moved: boolean): Promise<void> {
    const shown = this.peers.get(remote.peerId)?.tracks.get(remote.source);
    if (shown && (moved || session.consumers.has(shown.consumerId))) await session.flows(remote);
    if (this.#session !== session || !session.consumers.has(remote.consumer.id)) return;
    const now = this.peers.get(remote.peerId)?.tracks.get(remote.source);
    const other = now && session.consumers.get(now.consumerId);
    // What is replaced may come later than what replaces it, by a longer way.
    if (other && session.isReplaced(remote) && !session.isReplaced(other)) return;
    this.#peer(remote.peerId).tracks.set(remote.source, trackOf(remote));
    this.#peerChanged(remote.peerId);
  }

  #notified({ method, data }: ServerNotification): void {
    switch (method) {
      case 'newPeer':
        this.#present.add(data.id);
        this.#peer(data.id).displayName = data.displayName;
        this.#peerChanged(data.id);
        break;
      case 'peerClosed':
        this.#present.delete(data.peerId);
        this.#session?.peerClosed(data.peerId);
        if (this.peers.delete(data.peerId)) this.emit('peerLeft', data.peerId);
        break;
      case 'peerDisplayNameChanged':
        this.#peer(data.peerId).displayName = data.displayName;
        this.#peerChanged(data.peerId);
        break;
      case 'consumerClosed':
        this.#session?.consumerClosed(data.consumerId);
        break;
      case 'consumerPaused':
      case 'consumerResumed':
        this.#session?.consumerPaused(data.consumerId, method === 'consumerPaused');
        break;
      case 'consumerLayersChanged':
        this.#session?.consumerLayers(data.consumerId, data.spatialLayer, data.temporalLayer);
        break;
      case 'migrate':
        if (this.#session) void this.#migrate(this.#session, data.withinMs);
        break;
      case 'activeSpeaker':
        this.emit('activeSpeaker', data.peerId);
        break;
      default:
        break; // The server may say more than this page shows.
    }
  }

  /** Takes all media to the node that the server has chosen. Where it does not work out, the server says what is next. */
  async #migrate(session: Session, withinMs: number): Promise<void> {
    const until = Date.now() + withinMs - MIGRATED_BEFORE_MS;
    try {
      await session.migrate();
      const sources = [...session.producers.keys()];
      await Promise.all(sources.map((source) => this.#queue(source, () => session.replace(source))));
      await session.migrated(until - Date.now());
    } catch {
      // The old transports go on; who is late is sent to join again.
    }
  }

  /** After a (re-)join: who is gone goes; who stays keeps his last picture until the new consumer brings one. */
  #replacePeers(peers: PeerInfo[], moved: boolean): void {
    this.#present = new Set(peers.map(({ id }) => id));
    // To a room that has moved, all come at about the same time.
    if (!moved) this.#dropAbsent();
    for (const { id, displayName } of peers) {
      this.#peer(id).displayName = displayName;
      this.#peerChanged(id);
    }
  }

  #dropAbsent(): void {
    for (const id of [...this.peers.keys()]) {
      if (this.#present.has(id)) continue;
      this.peers.delete(id);
      this.emit('peerLeft', id);
    }
  }

  #retireSession(moved = false): void {
    if (!this.#session) return;
    if (moved) this.#session.supersede();
    else this.#session.retire();
    this.#retired.push(this.#session);
    this.#session = undefined;
  }

  #dropStaleTracks(session: Session): void {
    if (this.#session !== session) return;
    for (const retired of this.#retired.splice(0)) retired.close();
    this.#dropAbsent();
    for (const peer of this.peers.values()) {
      const stale = [...peer.tracks].filter(([, { consumerId }]) => !session.consumers.has(consumerId));
      for (const [source] of stale) peer.tracks.delete(source);
      if (stale.length > 0) this.emit('peer', peer);
    }
  }

  #peer(id: string): RemotePeer {
    const known = this.peers.get(id);
    if (known) return known;
    const peer: RemotePeer = { id, displayName: '', tracks: new Map() };
    this.peers.set(id, peer);
    return peer;
  }

  #peerChanged(id: string): void {
    this.emit('peer', this.#peer(id));
  }

  #switch(source: Source, on: boolean): Promise<void> {
    return this.#queue(source, () => this.#apply(source, on));
  }

  /** Changes to one source run one after the other, so that a quick off-on ends on, with one producer. */
  #queue(source: Source, change: () => Promise<void>): Promise<void> {
    const turn = (this.#changes.get(source) ?? Promise.resolve()).then(change);
    this.#changes.set(
      source,
      turn.catch(() => undefined),
    );
    return turn;
  }

  async #apply(source: Source, on: boolean): Promise<void> {
    if (on === this.#wanted.has(source)) return;
    try {
      if (on) await this.#switchOn(source);
      else await this.#switchOff(source);
    } catch (error) {
      // What could not be said to the server now is part of the next join.
      if (error instanceof ConnectionLostError) return;
      this.emit('problem', error instanceof DeviceError ? error.message : explain(source, 'unknown').message);
      if (on && !(error instanceof DeviceError)) await this.#switchOff(source).catch(() => undefined);
    }
  }

  async #switchOn(source: Source): Promise<void> {
    if (source === 'microphone' && this.#tracks.has(source)) {
      this.#wanted.add(source);
      this.#announceLocal(source);
      const session = this.#session;
      if (session?.producers.has(source)) await session.setPaused(source, false);
      else if (session) await this.#produce(session, source);
      return;
    }
    this.adopt(source, await this.options.devices.open(source));
    if (this.#session && this.#state === 'joined') await this.#produce(this.#session, source);
  }

  async #switchOff(source: Source): Promise<void> {
    this.#wanted.delete(source);
    if (source === 'microphone') {
      this.#announceLocal(source);
      await this.#session?.setPaused(source, true);
      return;
    }
    this.#setTrack(source, undefined);
    await this.#session?.stopProducing(source);
  }

  async #produce(session: Session, source: Source): Promise<void> {
    const track = this.#tracks.get(source);
    if (!track || session.closed || session.producers.has(source)) return;
    try {
      await session.produce(source, track);
    } catch (error) {
      if (this.#session !== session || error instanceof ConnectionLostError) return;
      const reason = error instanceof Error ? error.message : String(error);
      this.emit('problem', `Your ${source} could not be sent: ${reason}.`);
    }
  }

  #setTrack(source: Source, track: MediaStreamTrack | undefined): void {
    this.#tracks.get(source)?.stop();
    if (track) {
      this.#tracks.set(source, track);
      // Unplugged, or sharing stopped from the browser's own bar.
      track.addEventListener('ended', () => {
        if (this.#tracks.get(source) !== track) return;
        this.#tracks.delete(source);
        void this.#queue(source, () => this.#dropEnded(source));
      });
    } else {
      this.#tracks.delete(source);
    }
    this.#announceLocal(source);
  }

  async #dropEnded(source: Source): Promise<void> {
    this.#wanted.delete(source);
    this.#announceLocal(source);
    if (source !== 'screen') this.emit('problem', `Your ${source} was disconnected.`);
    await this.#session?.stopProducing(source).catch(() => undefined);
  }

  #announceLocal(source: Source): void {
    const muted = !this.#wanted.has(source);
    this.emit('local', source, this.#tracks.get(source), muted);
  }

  #setState(state: CallState, reason?: string): void {
    if (this.#state === 'closed') return;
    this.#state = state;
    this.emit('state', state, reason);
  }

  #end(reason: string | undefined): void {
    if (this.#state === 'closed') return;
    clearTimeout(this.#rejoinTimer);
    clearTimeout(this.#interruptedTimer);
    const signaling = this.#signaling;
    this.#signaling = undefined;
    this.#retireSession();
    for (const retired of this.#retired.splice(0)) retired.close();
    signaling?.close();
    for (const source of [...this.#tracks.keys()]) {
      this.#wanted.delete(source);
      this.#setTrack(source, undefined);
    }
    this.peers.clear();
    this.#setState('closed', reason);
  }
}

function trackOf({ consumer, paused }: RemoteConsumer) {
  return { track: consumer.track, consumerId: consumer.id, paused };
}
