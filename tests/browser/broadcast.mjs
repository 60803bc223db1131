/**
 * A broadcaster: ffmpeg sends its colour and tone as plain RTP into a room, by the HTTP API in both its dialects; a person
 * in the room sees and hears it on the page, and it receives the person's sound. It goes when it is deleted, and when it
 * falls silent.
 * Options: seconds to watch, fps that ffmpeg sends, silenceMs that the server bears.
 */
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { person } from './lib/browser.mjs';
import { VOICES } from './lib/fakes.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

const VIDEO = { ssrc: 22220001, payloadType: 101 };
const AUDIO = { ssrc: 22220002, payloadType: 100 };
const DEVICE = { flag: 'ffmpeg', name: 'FFmpeg', version: '1' };

/** The server's HTTP API about one room. */
class Api {
  constructor(url, room) {
    this.base = `${url.replace(/\/$/, '')}/rooms/${encodeURIComponent(room)}`;
  }

  async #fetch(method, path, body) {
    const json = { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
    return fetch(this.base + path, body === undefined ? { method } : json);
  }

  async status(method, path, body) {
    return (await this.#fetch(method, path, body)).status;
  }

  async call(method, path, body, wanted) {
    const answer = await this.#fetch(method, path, body);
    const text = await answer.text();
    check(answer.status === wanted, `${method} ${path}: ${answer.status} instead of ${wanted}: ${text}`);
    const isJson = answer.headers.get('content-type')?.includes('json');
    return isJson ? JSON.parse(text) : text;
  }
}

await scenario('broadcast', async (context) => {
  const { seconds = 5, fps = 20, silenceMs = 3000 } = context.args;
  const red = await person(context, 'red');
  const room = `broadcast ${Date.now()}`;
  const api = new Api(context.url, room);
  check((await api.status('GET', '')) === 404, 'a room that nobody is in answers');
  await red.join(room, { simulcast: '0' });
  await red.until('sends sound and picture', () => window.tureen.call.producing().length === 2);
  const { codecs } = await api.call('GET', '', undefined, 200);
  check(codecs.length > 0, 'no codecs in the capabilities of the room');

  const camera = await classic(api, codecs);
  const sending = publish(context, fps, camera);
  const blue = { voice: 'blue' };
  await Promise.all([red.sees(blue), red.hears(blue)]);
  log('the classic broadcaster is seen and heard');
  const seen = await red.watch(blue, seconds);
  check(
    seen.colour >= 0.9 && seen.moved >= 0.5 && seen.tone >= 0.4,
    `not a picture: ${JSON.stringify(seen)}`,
  );
  check(seen.fps >= fps / 2, `${seen.fps} frames/s of ${fps}`);
  check((await api.status('POST', '/broadcasters', camera.introduced)) === 500, 'two of one id');
  await api.call('DELETE', '/broadcasters/blue', undefined, 200);
  await red.seesNobodyBut([]);
  sending.kill('SIGKILL');
  check((await api.status('DELETE', '/broadcasters/blue')) === 404, 'a deleted broadcaster is there');
  log('and is gone when it is deleted');

  const newer = await typescript(api);
  const again = publish(context, fps, newer);
  await Promise.all([red.sees(blue), red.hears(blue)]);
  log('the newer broadcaster is seen and heard');
  const packets = await receive(context, api, codecs);
  log(`it receives: ${packets} packets of sound`);
  const sentUntil = Date.now();
  again.kill('SIGKILL');
  await red.until(
    'sees that the silent one is gone',
    () => window.tureen.peers.length === 0,
    undefined,
    30_000,
  );
  const goneAfterMs = Date.now() - sentUntil;
  check(goneAfterMs >= silenceMs / 2, `gone after ${goneAfterMs} ms, before it was silent for ${silenceMs}`);
  log(`and is gone ${goneAfterMs} ms after its last packet`);
  return { fps: seen.fps, packets, goneAfterMs };
});

/** Creates a broadcaster with a transport for each medium. Where to send them. */
async function classic(api, codecs) {
  const introduced = { id: 'blue', displayName: 'blue', device: DEVICE, rtpCapabilities: { codecs } };
  const { peers } = await api.call('POST', '/broadcasters', introduced, 200);
  check(peers.length === 1 && peers[0].producers.length === 2, `who is here: ${JSON.stringify(peers)}`);
  const ports = {};
  for (const [kind, rtpParameters] of Object.entries(media())) {
    const transports = '/broadcasters/blue/transports';
    const plain = { type: 'plain', rtcpMux: false, comedia: true };
    const transport = await api.call('POST', transports, plain, 200);
    ports[kind] = transport;
    const producer = await api.call(
      'POST',
      `${transports}/${transport.id}/producers`,
      { kind, rtpParameters },
      200,
    );
    check(typeof producer.id === 'string', 'a producer has an id');
  }
  return { introduced, ...ports };
}

/** The same in the newer dialect. */
async function typescript(api) {
  const introduced = { peerId: 'blue', displayName: 'blue', device: DEVICE };
  await api.call('POST', '/broadcasters', introduced, 201);
  const ports = {};
  for (const kind of ['video', 'audio']) {
    const plain = { direction: 'producer', comedia: true, rtcpMux: false };
    ports[kind] = await api.call('POST', '/broadcasters/blue/transports', plain, 201);
  }
  await api.call('POST', '/broadcasters/blue/join', {}, 200);
  for (const [kind, rtpParameters] of Object.entries(media())) {
    const { transportId } = ports[kind];
    const appData = { source: kind };
    const { producerId } = await api.call(
      'POST',
      '/broadcasters/blue/producers',
      { transportId, kind, rtpParameters, appData },
      201,
    );
    check(typeof producerId === 'string', 'a producer has an id');
  }
  return { introduced, ...ports };
}

/** Lets the broadcaster receive the person's sound on a socket. How many packets came, once there are fifty. */
async function receive({ onEnd }, api, codecs) {
  const socket = createSocket('udp4');
  onEnd(async () => socket.close());
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { transportId } = await api.call(
    'POST',
    '/broadcasters/blue/transports',
    { direction: 'consumer', comedia: false, rtcpMux: true },
    201,
  );
  const address = { ip: '127.0.0.1', port: socket.address().port };
  await api.call('POST', `/broadcasters/blue/transports/${transportId}/connect`, address, 200);
  const infos = await api.call('GET', '/broadcasters/blue/peerProducersInfos', undefined, 200);
  const { producers } = infos.peerProducersInfos[0];
  const { producerId, consumableCodecs } = producers.find(({ kind }) => kind === 'audio');
  check(consumableCodecs.length > 0, 'nothing could be consumed');
  const wanted = { transportId, producerId, paused: true, rtpCapabilities: { codecs } };
  const { consumerId, rtpParameters } = await api.call('POST', '/broadcasters/blue/consumers', wanted, 201);
  let packets = 0;
  const enough = new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`only ${packets} packets in 20 s`)), 20_000);
    socket.on('message', (message) => {
      const ofThis = message.length > 12 && message.readUInt32BE(8) === rtpParameters.encodings[0].ssrc;
      if (ofThis && ++packets === 50) {
        clearTimeout(late);
        resolve(packets);
      }
    });
  });
  await api.call('POST', `/broadcasters/blue/consumers/${consumerId}/resume`, {}, 200);
  return enough;
}

function media() {
  const feedback = [
    { type: 'nack', parameter: '' },
    { type: 'nack', parameter: 'pli' },
  ];
  const vp8 = { mimeType: 'video/VP8', clockRate: 90000, parameters: {}, rtcpFeedback: feedback };
  const opus = { mimeType: 'audio/opus', clockRate: 48000, channels: 2, parameters: {} };
  return {
    video: {
      codecs: [{ ...vp8, payloadType: VIDEO.payloadType }],
      encodings: [{ ssrc: VIDEO.ssrc }],
    },
    audio: {
      codecs: [{ ...opus, payloadType: AUDIO.payloadType }],
      encodings: [{ ssrc: AUDIO.ssrc }],
    },
  };
}

/** ffmpeg with blue's colour, a bar that wanders, and blue's tone. */
function publish({ onEnd }, fps, { video, audio }) {
  const { rgb, hertz } = VOICES.blue;
  const colour = rgb.map((value) => value.toString(16).padStart(2, '0')).join('');
  const picture =
    `color=0x${colour}:size=320x240:rate=${fps}[back];` +
    `color=white:size=32x60:rate=${fps}[bar];[back][bar]overlay=x='mod(n*9,288)'`;
  const to = ({ ip, port, rtcpPort }) => `rtp://${ip}:${port}?rtcpport=${rtcpPort}`;
  const child = spawn(
    'ffmpeg',
    [
      ...'-hide_banner -loglevel warning -nostdin -re -f lavfi -i'.split(' '),
      picture,
      ...'-re -f lavfi -i'.split(' '),
      `sine=frequency=${hertz}:sample_rate=48000`,
      ...'-map 0:v -c:v libvpx -pix_fmt yuv420p -deadline realtime -cpu-used 8 -b:v 400k -g'.split(' '),
      String(fps),
      ...`-ssrc ${VIDEO.ssrc} -payload_type ${VIDEO.payloadType} -f rtp`.split(' '),
      to(video),
      ...'-map 1:a -c:a libopus -ac 2'.split(' '),
      ...`-ssrc ${AUDIO.ssrc} -payload_type ${AUDIO.payloadType} -f rtp`.split(' '),
      to(audio),
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  onEnd(async () => child.kill('SIGKILL'));
  return child;
}
