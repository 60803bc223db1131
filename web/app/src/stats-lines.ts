/** Stream figures as the overlay's lines: short, with units, and only what is known. */
import type { StreamStats } from '@tureen/client';

export type Line = [term: string, value: string];

export function statsLines(video: StreamStats | undefined, audio: StreamStats | undefined): Line[] {
  const lines: Line[] = [];
  if (video) {
    const size = video.width && video.height ? `${video.width}×${video.height}` : 'no picture';
    const fps = video.fps === undefined ? '' : ` ${Math.round(video.fps)} fps`;
    lines.push(['Video', `${size}${fps}${video.codec ? ` ${video.codec}` : ''}`]);
    if (video.layers !== undefined) lines.push(['Layers', video.layers]);
  }
  const rates = [video?.bitrate, audio?.bitrate].filter((rate) => rate !== undefined);
  if (rates.length > 0) lines.push(['Rate', rates.map(bitrate).join(' + ')]);
  const losses = [video?.loss, audio?.loss].filter((loss) => loss !== undefined);
  if (losses.length > 0) lines.push(['Loss', losses.map(percent).join(' + ')]);
  const rttMs = video?.rttMs ?? audio?.rttMs;
  if (rttMs !== undefined) lines.push(['RTT', `${Math.round(rttMs)} ms`]);
  return lines;
}

function bitrate(bitsPerSecond: number): string {
  return bitsPerSecond >= 1e6
    ? `${(bitsPerSecond / 1e6).toFixed(1)} Mbit/s`
    : `${Math.round(bitsPerSecond / 1e3)} kbit/s`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
}
