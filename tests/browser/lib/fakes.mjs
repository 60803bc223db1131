/**
 * Files that Chromium plays as camera and microphone: a colour with a bar that wanders across its upper half, and a
 * tone that comes and goes like syllables (a steady one would be taken for noise and suppressed).
 */
import { open, writeFile } from 'node:fs/promises';

/** Colours far enough apart to be told from each other after VP8, with a tone for each. */
export const VOICES = {
  red: { rgb: [190, 40, 40], hertz: 440 },
  blue: { rgb: [40, 60, 190], hertz: 930 },
  green: { rgb: [40, 150, 60], hertz: 1510 },
  yellow: { rgb: [200, 180, 40], hertz: 2230 },
};

const BAR_FRAMES = 30;
const SAMPLE_RATE = 48_000;

/** Writes a Y4M clip that loops without a jump. */
export async function writeVideo(path, rgb, { width = 640, height = 480, fps = 20 } = {}) {
  const [y, u, v] = toYuv(rgb);
  const file = await open(path, 'w');
  await file.write(`YUV4MPEG2 W${width} H${height} F${fps}:1 Ip A1:1 C420jpeg\n`);
  const barWidth = Math.floor(width / 10);
  for (let frame = 0; frame < BAR_FRAMES; frame++) {
    const luma = Buffer.alloc(width * height, y);
    const left = Math.floor((frame * (width - barWidth)) / BAR_FRAMES);
    for (let row = 0; row < height / 2; row++)
      luma.fill(235, row * width + left, row * width + left + barWidth);
    const chroma = (width / 2) * (height / 2);
    await file.write(
      Buffer.concat([Buffer.from('FRAME\n'), luma, Buffer.alloc(chroma, u), Buffer.alloc(chroma, v)]),
    );
  }
  await file.close();
}

/** Writes two seconds of syllables at `hertz`: 420 ms of tone, 80 ms of nothing. */
export async function writeTone(path, hertz) {
  const samples = Buffer.alloc(SAMPLE_RATE * 2 * 2);
  for (let index = 0; index < SAMPLE_RATE * 2; index++) {
    const ms = ((index / SAMPLE_RATE) * 1000) % 500;
    const loudness = Math.max(0, Math.min(1, ms / 15, (420 - ms) / 15));
    const value = Math.sin((2 * Math.PI * hertz * index) / SAMPLE_RATE) * loudness * 0.4;
    samples.writeInt16LE(Math.round(value * 32_767), index * 2);
  }
  await writeFile(path, Buffer.concat([waveHeader(samples.length), samples]));
}

function waveHeader(bytes) {
  const header = Buffer.alloc(44);
  header.write('RIFF', 0);
  header.writeUInt32LE(36 + bytes, 4);
  header.write('WAVEfmt ', 8);
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20); // PCM
  header.writeUInt16LE(1, 22); // one channel
  header.writeUInt32LE(SAMPLE_RATE, 24);
  header.writeUInt32LE(SAMPLE_RATE * 2, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write('data', 36);
  header.writeUInt32LE(bytes, 40);
  return header;
}

/** BT.601, limited range. */
function toYuv([r, g, b]) {
  return [
    16 + 0.257 * r + 0.504 * g + 0.098 * b,
    128 - 0.148 * r - 0.291 * g + 0.439 * b,
    128 + 0.439 * r - 0.368 * g - 0.071 * b,
  ].map(Math.round);
}
