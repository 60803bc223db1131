/** A person without a browser: mediasoup-client and protoo-client in Node over @roamhq/wrtc, in the classic dialect. */
import { createRequire } from 'node:module';
import { VOICES } from './fakes.mjs';

const require = createRequire(import.meta.url);
const wrtc = require('@roamhq/wrtc');
for (const name of [
  'RTCPeerConnection',
  'RTCSessionDescription',
  'RTCIceCandidate',
  'MediaStream',
  'MediaStreamTrack',
]) {
  globalThis[name] = wrtc[name];
}
const { Device } = require('mediasoup-client');
const { Peer, WebSocketTransport } = require('protoo-client');
const { RTCAudioSink, RTCAudioSource, RTCVideoSink, RTCVideoSource } = wrtc.nonstandard;

const [WIDTH, HEIGHT, FRAME_MS] = [320, 240, 66];
const SAMPLE_RATE = 48_000;

export class NodePeer {
  framesReceived = 0;
  #peers = new Map();
  #seen = new Map();
  #heard = new Map();
  #connections = [];

  constructor(voice) {
    this.voice = voice;
  }

  static async join({ url, onEnd }, roomId, voice) {
    const peer = new NodePeer(voice);
    await peer.#join(url, roomId, voice, onEnd);
    return peer;
  }

  /** Whether the last frame from the person of this voice had its colour. */
  shows(voice) {
    const rgb = this.#seen.get(voice);
    return rgb !== undefined && rgb.every((value, index) => Math.abs(value - VOICES[voice].rgb[index]) <= 40);
  }

  /** Whether the last syllable from the person of this voice had its pitch. */
  hears(voice) {
    const hertz = this.#heard.get(voice);
    return hertz !== undefined && Math.abs(hertz - VOICES[voice].hertz) < 25;
  }

  async srtpCiphers() {
    const ciphers = [];
    for (const connection of this.#connections) {
      const stats = await connection.getStats();
      for (const { type, srtpCipher } of stats.values())
        if (type === 'transport' && srtpCipher) ciphers.push(srtpCipher);
    }
    return ciphers;
  }

  async #join(url, roomId, voice, onEnd) {
    const address = new URL('/', url);
    address.protocol = address.protocol.replace('http', 'ws');
    address.search = new URLSearchParams({ roomId, peerId: `node-${voice}` }).toString();
    const protoo = new Peer(new WebSocketTransport(address.href));
    onEnd(async () => protoo.close());
    await new Promise((resolve, reject) => {
      protoo.on('open', resolve);
      protoo.on('close', () => reject(new Error('the server closed the connection')));
    });
    const device = new Device({ handlerName: 'Chrome74' });
    await device.load({ routerRtpCapabilities: await protoo.request('getRouterRtpCapabilities') });
    const create = (producing) =>
      protoo.request('createWebRtcTransport', { forceTcp: false, producing, consuming: !producing });
    const send = this.#watch(protoo, device.createSendTransport(await create(true)));
    const recv = this.#watch(protoo, device.createRecvTransport(await create(false)));
    onEnd(async () => [send, recv].forEach((transport) => transport.close()));
    protoo.on('notification', ({ method, data }) => {
      if (method === 'newPeer') this.#peers.set(data.id, data.displayName);
    });
    protoo.on('request', (request, accept, reject) => {
      this.#consume(recv, request.data, onEnd).then(accept, (error) => reject(500, error.message));
    });
    const { peers } = await protoo.request('join', {
      displayName: voice,
      device: { flag: 'node', name: 'wrtc', version: '0' },
      rtpCapabilities: device.rtpCapabilities,
    });
    for (const { id, displayName } of peers) this.#peers.set(id, displayName);
    await send.produce({ track: colourTrack(VOICES[voice].rgb, onEnd), appData: { source: 'camera' } });
    await send.produce({ track: toneTrack(VOICES[voice].hertz, onEnd), appData: { source: 'microphone' } });
  }

  #watch(protoo, transport) {
    this.#connections.push(transport.handler._pc);
    transport.on('connect', ({ dtlsParameters }, done, fail) => {
      protoo
        .request('connectWebRtcTransport', { transportId: transport.id, dtlsParameters })
        .then(done, fail);
    });
    transport.on('produce', (parameters, done, fail) => {
      protoo.request('produce', { transportId: transport.id, ...parameters }).then(done, fail);
    });
    return transport;
  }

  async #consume(recv, { id, peerId, producerId, kind, rtpParameters }, onEnd) {
    const { track } = await recv.consume({ id, producerId, kind, rtpParameters });
    const voice = () => this.#peers.get(peerId);
    if (kind === 'video') {
      const sink = new RTCVideoSink(track);
      sink.onframe = ({ frame }) => {
        this.framesReceived++;
        this.#seen.set(voice(), colourOf(frame));
      };
      onEnd(async () => sink.stop());
    } else {
      const sink = new RTCAudioSink(track);
      const pitch = pitchMeter();
      sink.ondata = (data) => {
        const hertz = pitch(data);
        if (hertz !== undefined) this.#heard.set(voice(), hertz);
      };
      onEnd(async () => sink.stop());
    }
  }
}

function colourTrack(rgb, onEnd) {
  const source = new RTCVideoSource();
  const rgba = new Uint8ClampedArray(WIDTH * HEIGHT * 4);
  const i420 = { width: WIDTH, height: HEIGHT, data: new Uint8ClampedArray((WIDTH * HEIGHT * 3) / 2) };
  let frame = 0;
  const timer = setInterval(() => {
    frame++;
    const left = (frame * 8) % (WIDTH - 32);
    for (let index = 0; index < WIDTH * HEIGHT; index++) {
      const [x, y] = [index % WIDTH, Math.floor(index / WIDTH)];
      const inBar = y < HEIGHT / 2 && x >= left && x < left + 32;
      for (let c = 0; c < 3; c++) rgba[index * 4 + c] = inBar ? 255 : rgb[c];
      rgba[index * 4 + 3] = 255;
    }
    wrtc.nonstandard.rgbaToI420({ width: WIDTH, height: HEIGHT, data: rgba }, i420);
    source.onFrame(i420);
  }, FRAME_MS);
  onEnd(async () => clearInterval(timer));
  return source.createTrack();
}

function toneTrack(hertz, onEnd) {
  const source = new RTCAudioSource();
  const count = SAMPLE_RATE / 100;
  let position = 0;
  const started = performance.now();
  // A timer is late now and then: as many 10 ms blocks as are due.
  const timer = setInterval(() => {
    while ((position / SAMPLE_RATE) * 1000 < performance.now() - started) {
      const samples = new Int16Array(count);
      for (let index = 0; index < count; index++) {
        samples[index] = Math.sin((2 * Math.PI * hertz * (position + index)) / SAMPLE_RATE) * 12_000;
      }
      position += count;
      source.onData({
        samples,
        sampleRate: SAMPLE_RATE,
        bitsPerSample: 16,
        channelCount: 1,
        numberOfFrames: count,
      });
    }
  }, 10);
  onEnd(async () => clearInterval(timer));
  return source.createTrack();
}

/** The mean of a patch in the lower half of an I420 frame, BT.601. */
function colourOf({ width, height, data }) {
  const [x, y] = [width >> 1, Math.floor(height * 0.75)];
  const chroma = width * height + (y >> 1) * (width >> 1) + (x >> 1);
  const luma = 1.164 * (data[y * width + x] - 16);
  const [u, v] = [data[chroma] - 128, data[chroma + ((width * height) >> 2)] - 128];
  return [luma + 1.596 * v, luma - 0.392 * u - 0.813 * v, luma + 2.017 * u].map(Math.round);
}

/** Counts rising zero crossings of a tenth of a second, of the first channel; quiet stretches are no answer. */
function pitchMeter() {
  let crossings = 0;
  let counted = 0;
  let loudest = 0;
  let quiet = 0;
  let previous = 0;
  return ({ samples, sampleRate, channelCount }) => {
    let blockLoudest = 0;
    for (let index = 0; index < samples.length; index += channelCount) {
      const sample = samples[index];
      if (previous < 0 && sample >= 0) crossings++;
      previous = sample;
      blockLoudest = Math.max(blockLoudest, Math.abs(sample));
      counted++;
    }
    loudest = Math.max(loudest, blockLoudest);
    if (blockLoudest < 300) quiet++;
    if (counted < sampleRate / 10) return undefined;
    const hertz = (crossings * sampleRate) / counted;
    const clear = loudest > 1000 && quiet === 0;
    [crossings, counted, loudest, quiet] = [0, 0, 0, 0];
    return clear ? hertz : undefined;
  };
}
