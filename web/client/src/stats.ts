/**
 * Figures for the statistics overlay: WebRTC's cumulative counters turned into what happened since the last look.
 * One report per transport and look, whatever the number of consumers.
 */
import type { Source } from './protocol';
import type { Session } from './session';

export interface StreamStats {
  width: number | undefined;
  height: number | undefined;
  fps: number | undefined;
  /** Bits per second since the last look. */
  bitrate: number | undefined;
  /** Share of packets lost since the last look, 0 to 1. */
  loss: number | undefined;
  /** Round-trip time to the server, in milliseconds. */
  rttMs: number | undefined;
  codec: string | undefined;
  /** What the server says that it forwards; sent layers on the own side. */
  layers: string | undefined;
}

export interface CallStats {
  local: Partial<Record<Source, StreamStats>>;
  /** By consumer id. */
  remote: Record<string, StreamStats>;
}

/** Fields of the W3C's dictionaries that TypeScript's DOM types leave out or leave open. */
interface RtpStats {
  id: string;
  type: string;
  kind?: string;
  timestamp: number;
  trackIdentifier?: string;
  mediaSourceId?: string;
  codecId?: string;
  mimeType?: string;
  rid?: string;
  active?: boolean;
  frameWidth?: number;
  frameHeight?: number;
  framesPerSecond?: number;
  bytesReceived?: number;
  bytesSent?: number;
  packetsReceived?: number;
  packetsLost?: number;
  localId?: string;
  fractionLost?: number;
  nominated?: boolean;
  state?: string;
  currentRoundTripTime?: number;
}

interface Sample {
  at: number;
  bytes: number;
  packets: number;
  lost: number;
}

export class StatsReader {
  #samples = new Map<string, Sample>();

  async read(session: Session | undefined): Promise<CallStats> {
    const stats: CallStats = { local: {}, remote: {} };
    if (!session || session.closed) return stats;
    const [sent, received] = await Promise.all([
      session.sendTransport?.getStats().catch(() => undefined),
      session.recvTransport?.getStats().catch(() => undefined),
    ]);
    const samples = this.#samples;
    this.#samples = new Map();
    if (received) this.#readRemote(list(received), session, samples, stats);
    if (sent) this.#readLocal(list(sent), session, samples, stats);
    return stats;
  }

  #readRemote(report: RtpStats[], session: Session, samples: Map<string, Sample>, stats: CallStats): void {
    const rttMs = roundTrip(report);
    for (const { consumer, spatialLayer, temporalLayer } of session.consumers.values()) {
      const inbound = report.find(
        ({ type, trackIdentifier }) => type === 'inbound-rtp' && trackIdentifier === consumer.track.id,
      );
      if (!inbound) continue;
      const rate = this.#rate(samples, inbound, inbound.bytesReceived ?? 0, inbound.packetsReceived ?? 0);
      stats.remote[consumer.id] = {
        ...rate,
        width: inbound.frameWidth,
        height: inbound.frameHeight,
        fps: inbound.framesPerSecond,
        rttMs,
        codec: codecName(report, inbound),
        layers: spatialLayer === null ? undefined : `S${spatialLayer} T${temporalLayer ?? 0}`,
      };
    }
  }

  #readLocal(report: RtpStats[], session: Session, samples: Map<string, Sample>, stats: CallStats): void {
    const rttMs = roundTrip(report);
    for (const [source, producer] of session.producers) {
      const trackId = producer.track?.id;
      const media = report.find(
        ({ type, trackIdentifier }) => type === 'media-source' && trackIdentifier === trackId,
      );
      const layers = report.filter(
        ({ type, mediaSourceId }) => type === 'outbound-rtp' && mediaSourceId === media?.id,
      );
      if (!media || layers.length === 0) continue;
      const rates = layers.map((layer) => this.#rate(samples, layer, layer.bytesSent ?? 0, 0).bitrate ?? 0);
      const moving = layers.filter((layer) => (layer.framesPerSecond ?? 0) > 0);
      const largest = moving.reduce<RtpStats | undefined>(
        (best, layer) => ((layer.frameHeight ?? 0) > (best?.frameHeight ?? 0) ? layer : best),
        undefined,
      );
      const losses = report
        .filter(
          ({ type, localId }) => type === 'remote-inbound-rtp' && layers.some(({ id }) => id === localId),
        )
        .map(({ fractionLost }) => fractionLost ?? 0);
      stats.local[source] = {
        width: largest?.frameWidth,
        height: largest?.frameHeight,
        fps: largest?.framesPerSecond,
        bitrate: rates.reduce((sum, rate) => sum + rate, 0),
        loss: losses.length > 0 ? Math.max(...losses) : undefined,
        rttMs,
        codec: codecName(report, layers[0]),
        layers: source === 'camera' ? `${moving.length} of ${layers.length}` : undefined,
      };
    }
  }

  #rate(samples: Map<string, Sample>, stats: RtpStats, bytes: number, packets: number) {
    const now: Sample = { at: stats.timestamp, bytes, packets, lost: stats.packetsLost ?? 0 };
    this.#samples.set(stats.id, now);
    const before = samples.get(stats.id);
    if (!before || now.at <= before.at) return { bitrate: undefined, loss: undefined };
    const lost = Math.max(0, now.lost - before.lost);
    const expected = now.packets - before.packets + lost;
    return {
      bitrate: (Math.max(0, now.bytes - before.bytes) * 8000) / (now.at - before.at),
      loss: expected > 0 ? lost / expected : 0,
    };
  }
}

function list(report: RTCStatsReport): RtpStats[] {
  return [...report.values()] as RtpStats[];
}

function roundTrip(report: RtpStats[]): number | undefined {
  const pair = report.find(
    ({ type, nominated, state }) => type === 'candidate-pair' && nominated && state === 'succeeded',
  );
  return pair?.currentRoundTripTime === undefined ? undefined : pair.currentRoundTripTime * 1000;
}

function codecName(report: RtpStats[], stats: RtpStats | undefined): string | undefined {
  return report.find(({ type, id }) => type === 'codec' && id === stats?.codecId)?.mimeType?.split('/')[1];
}
