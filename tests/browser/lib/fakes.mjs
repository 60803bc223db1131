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

/**
 * Writes a Y4M clip that loops without a jump. With `noise`, every pixel's brightness differs by up to that much from
 * frame to frame: such a picture costs whatever bit rate the encoder is allowed, as a real camera's does.
 */
export async function writeVideo(path, rgb, { width = 640, height = 480, fps = 20, noise = 0 } = {}) {
  const [y, u, v] = toYuv(rgb);
  const file = await open(path, 'w');
  await file.write(`YUV4MPEG2 W${width} H${height} F${fps}:1 Ip A1:1 C420jpeg\n`);
  const barWidth = Math.floor(width / 10);
  for (let frame = 0; frame < BAR_FRAMES; frame++) {
    const luma = Buffer.alloc(width * height, y);
    const left = Math.floor((frame * (width - barWidth)) / BAR_FRAMES);
    for (let row = 0; row < height / 2; row++)
      luma.fill(235, row * width + left, row * width + left + barWidth);
    if (noise > 0) addNoise(luma, noise, frame);
    const chroma = (width / 2) * (height / 2);
    await file.write(
      Buffer.concat([Buffer.from('FRAME\n'), luma, Buffer.alloc(chroma, u), Buffer.alloc(chroma, v)]),
    );
  }
  await file.close();
}

const SCENE_FRAMES = 60;

/**
 * Writes a Y4M clip that costs an encoder about what a camera's does: a still, textured room, in front of it a textured
 * oval that sways, and a sensor's noise over all of it. Two seconds that loop without a jump.
 */
export async function writeScene(path, rgb, { width = 1280, height = 720, fps = 30 } = {}) {
  const [y, u, v] = toYuv(rgb);
  const random = generator(1);
  const room = texture(width, height, y, 24);
  const face = texture(width, height, 235 - y / 2, 40);
  // Noise is drawn once and shifted from frame to frame: drawing it anew takes minutes.
  const noise = Int8Array.from({ length: width * height * 2 }, () => Math.round((random() - 0.5) * 5));
  const file = await open(path, 'w');
  await file.write(`YUV4MPEG2 W${width} H${height} F${fps}:1 Ip A1:1 C420jpeg\n`);
  const chroma = Buffer.concat([u, v].map((value) => Buffer.alloc((width / 2) * (height / 2), value)));
  for (let frame = 0; frame < SCENE_FRAMES; frame++) {
    const angle = (2 * Math.PI * frame) / SCENE_FRAMES;
    const [dx, dy] = [
      Math.round(Math.sin(angle) * width * 0.06),
      Math.round(Math.sin(angle * 2) * height * 0.03),
    ];
    const luma = Buffer.from(room);
    const shift = Math.floor(random() * width * height);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const at = row * width + column;
        const [x, z] = [column - dx - width / 2, row - dy - height / 2];
        const oval = (x / (width * 0.18)) ** 2 + (z / (height * 0.42)) ** 2 < 1;
        const value = oval ? face[(row - dy) * width + column - dx] : luma[at];
        luma[at] = Math.max(16, Math.min(235, (value ?? 16) + noise[at + shift]));
      }
    }
    await file.write(Buffer.concat([Buffer.from('FRAME\n'), luma, chroma]));
  }
  await file.close();
}

/** Smooth hills of luma around `middle`, with finer ones on them. */
function texture(width, height, middle, depth) {
  const luma = Buffer.alloc(width * height);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const [x, z] = [column / width, row / height];
      const hills =
        Math.sin(x * 17 + Math.sin(z * 11) * 2) +
        Math.sin(z * 23 + x * 5) / 2 +
        Math.sin(x * 90 + z * 130) / 4;
      luma[row * width + column] = Math.max(16, Math.min(235, middle + depth * hills));
    }
  return luma;
}

/** Numbers from 0 to 1 that are the same in every run (mulberry32). */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The same noise on every run: a xorshift of the frame's number. */
function addNoise(luma, noise, frame) {
  let state = 0x9e3779b9 ^ (frame + 1);
  for (let at = 0; at < luma.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    luma[at] = Math.max(16, Math.min(235, luma[at] + ((state >>> 8) % (2 * noise + 1)) - noise));
  }
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
