/**
 * Chromium's own data channels, without a client library: two pages in one room exchange messages both ways, ordered and not,
 * up to the longest that the server takes. What comes is counted, compared by hash, and checked for its order.
 */
import { chromium } from 'playwright-core';
import { executable, FLAGS } from './lib/browser.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

const SMALL = 500;
const LONGEST = 262_144;

await scenario('data', async (context) => {
  const browser = await chromium.launch({ executablePath: await executable(context.folder), args: FLAGS });
  context.onEnd(() => browser.close());
  const url = new URL('/', context.url);
  const [ann, bob] = await Promise.all(
    ['ann', 'bob'].map(async (name) => {
      const page = await browser.newPage({ ignoreHTTPSErrors: true });
      page.on('console', (message) => log(`${name}: ${message.text()}`));
      await page.goto(url.href);
      await page.evaluate(peer, { name, longest: LONGEST });
      return page;
    }),
  );
  const room = `data-${Date.now()}`;
  await ann.evaluate((roomId) => window.join(roomId), room);
  await bob.evaluate((roomId) => window.join(roomId), room);
  const directions = [];
  for (const [from, to, name] of [
    [ann, bob, 'ann'],
    [bob, ann, 'bob'],
  ]) {
    for (const options of [{ ordered: true }, { ordered: false }, { ordered: false, maxRetransmits: 3 }]) {
      const label = `${name}-${JSON.stringify(options)}`;
      await from.evaluate(({ label, options }) => window.open_(label, options), { label, options });
      await to.evaluate((label) => window.ready(label), label);
      // The server resumes the data consumer once it is accepted: what is sent before is lost.
      await from.evaluate(({ label }) => window.greet(label), { label });
      await to.evaluate((label) => window.greeted(label), label);
      const sent = await from.evaluate(({ label, small }) => window.talk(label, small), {
        label,
        small: SMALL,
      });
      const reliable = options.maxRetransmits === undefined;
      const got = await to.evaluate(({ label, count, reliable }) => window.heard(label, count, reliable), {
        label,
        count: sent.length,
        reliable,
      });
      // A message that is repeated three times at most may be given up, even here, where buffers overflow and links lose
      // nothing; nine of ten arrive, and none that was not sent or came before.
      const missing = [...sent];
      const strange = got.filter((one) => {
        const at = missing.indexOf(one);
        if (at >= 0) missing.splice(at, 1);
        return at < 0;
      });
      check(strange.length === 0, `${label}: ${strange.length} came that were not sent, or twice`);
      const most = reliable ? 0 : sent.length / 10;
      check(missing.length <= most, `${label}: ${missing.length} of ${sent.length} did not come`);
      if (options.ordered) check(JSON.stringify(got) === JSON.stringify(sent), `${label}: out of order`);
      log(`${label}: ${got.length} messages`);
      directions.push({ label, messages: got.length });
    }
  }
  await ann.evaluate(() => window.leave());
  await bob.evaluate(() => window.silenced());
  log('the data channels closed with their sender');
  return { directions };
});

/** Runs in the page: protoo, two transports of which only SCTP is used, and channels by label. */
function peer({ name, longest }) {
  const waiting = new Map();
  const channels = new Map();
  const inbox = new Map();
  const wakes = new Set();
  let socket, send, receive;
  let [told, gone] = [0, 0];

  const until = async (condition) => {
    const end = Date.now() + 30_000;
    while (!condition()) {
      if (Date.now() > end) throw new Error(`${name} waited in vain for ${condition}`);
      await new Promise((resolve) => {
        wakes.add(resolve);
        setTimeout(resolve, 1000);
      });
    }
  };
  const wake = () => {
    for (const resolve of wakes) resolve();
    wakes.clear();
  };
  const digest = async (data) => {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : new Uint8Array(data);
    let hash = 2166136261;
    for (const byte of bytes) hash = Math.imul(hash ^ byte, 16777619) >>> 0;
    return `${typeof data} ${bytes.length} ${hash}`;
  };
  const request = (method, data = {}) =>
    new Promise((resolve, reject) => {
      const id = Math.floor(Math.random() * 1e7);
      waiting.set(id, { resolve, reject });
      socket.send(JSON.stringify({ request: true, id, method, data }));
    });

  /** A peer connection whose other end is the server's transport. Its one section is the data channels'. */
  const transport = async (producing) => {
    const told = await request('createWebRtcTransport', {
      forceTcp: false,
      producing,
      consuming: !producing,
      sctpCapabilities: { numStreams: { OS: 1024, MIS: 1024 } },
    });
    const connection = new RTCPeerConnection();
    connection.createDataChannel('first', { negotiated: true, id: 1023 });
    await connection.setLocalDescription();
    const offer = connection.localDescription.sdp;
    const [, algorithm, value] = /a=fingerprint:(\S+) (\S+)/.exec(offer);
    const ours = told.dtlsParameters.fingerprints.find((one) => one.algorithm === 'sha-256');
    const candidates = told.iceCandidates.map(
      (one) =>
        `a=candidate:${one.foundation} 1 ${one.protocol} ${one.priority} ${one.address ?? one.ip} ${one.port} typ host` +
        (one.protocol === 'tcp' ? ' tcptype passive' : ''),
    );
    const sdp = [
      'v=0',
      'o=- 1 1 IN IP4 0.0.0.0',
      's=-',
      't=0 0',
      'a=ice-lite',
      'a=group:BUNDLE 0',
      `a=fingerprint:${ours.algorithm} ${ours.value}`,
      'm=application 7 UDP/DTLS/SCTP webrtc-datachannel',
      'c=IN IP4 127.0.0.1',
      'a=mid:0',
      `a=ice-ufrag:${told.iceParameters.usernameFragment}`,
      `a=ice-pwd:${told.iceParameters.password}`,
      ...candidates,
      'a=end-of-candidates',
      'a=setup:passive',
      'a=sctp-port:5000',
      `a=max-message-size:${told.sctpParameters.maxMessageSize}`,
      '',
    ].join('\r\n');
    const dtlsParameters = { role: 'client', fingerprints: [{ algorithm, value }] };
    await Promise.all([
      request('connectWebRtcTransport', { transportId: told.id, dtlsParameters }),
      connection.setRemoteDescription({ type: 'answer', sdp }),
    ]);
    return { id: told.id, connection };
  };

  const answer = {
    newDataConsumer: async ({ label, protocol, sctpStreamParameters }) => {
      const { streamId: id, ordered, maxPacketLifeTime, maxRetransmits } = sctpStreamParameters;
      const options = { negotiated: true, id, protocol, ordered };
      if (maxPacketLifeTime) options.maxPacketLifeTime = maxPacketLifeTime;
      if (maxRetransmits) options.maxRetransmits = maxRetransmits;
      const channel = receive.connection.createDataChannel(label, options);
      channel.binaryType = 'arraybuffer';
      inbox.set(label, []);
      channel.onmessage = async ({ data }) => {
        inbox.get(label).push(data === 'greeting' ? data : await digest(data));
        wake();
      };
      channel.onclose = () => {
        gone += 1;
        wake();
      };
      channels.set(label, channel);
      if (channel.readyState !== 'open') await new Promise((resolve) => (channel.onopen = resolve));
      wake();
    },
  };

  window.join = async (roomId) => {
    const address = new URL(location.href.replace('http', 'ws'));
    address.search = new URLSearchParams({ roomId, peerId: name }).toString();
    socket = new WebSocket(address, 'protoo');
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = () => reject(new Error('the server closed the connection'));
    });
    socket.onmessage = async ({ data: text }) => {
      const message = JSON.parse(text);
      if (message.response) {
        const { resolve, reject } = waiting.get(message.id);
        waiting.delete(message.id);
        if (message.ok) resolve(message.data);
        else reject(new Error(`${message.errorCode} ${message.errorReason}`));
      } else if (message.request) {
        await answer[message.method]?.(message.data);
        socket.send(JSON.stringify({ response: true, id: message.id, ok: true, data: {} }));
      } else if (message.method === 'dataConsumerClosed') {
        told += 1;
        wake();
      }
    };
    send = await transport(true);
    receive = await transport(false);
    await request('join', { displayName: name, device: {}, sctpCapabilities: {} });
  };

  window.open_ = async (label, options) => {
    const id = channels.size;
    const channel = send.connection.createDataChannel(label, { negotiated: true, id, ...options });
    channels.set(label, channel);
    if (channel.readyState !== 'open') await new Promise((resolve) => (channel.onopen = resolve));
    const sctpStreamParameters = { streamId: id, ...options };
    await request('produceData', {
      transportId: send.id,
      sctpStreamParameters,
      label,
      protocol: '',
      appData: {},
    });
  };

  window.ready = (label) => until(() => channels.get(label)?.readyState === 'open');

  window.greet = async (label) => {
    for (let count = 0; count < 20; count += 1) {
      channels.get(label).send('greeting');
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  };

  window.greeted = (label) => until(() => inbox.get(label).length > 0);

  window.talk = async (label, small) => {
    const channel = channels.get(label);
    const random = new Uint8Array(longest);
    for (let at = 0; at < longest; at += 65536) crypto.getRandomValues(random.subarray(at, at + 65536));
    const messages = ['', 'grüße, 世界', new Uint8Array(0), random.slice(0, 5000), 'x'.repeat(60_000)];
    for (let count = 0; count < small; count += 1) messages.push(`${label} ${count}`);
    messages.push(random, 'y'.repeat(longest));
    for (const message of messages) channel.send(message);
    return Promise.all(
      messages.map((message) => digest(typeof message === 'string' ? message : message.buffer)),
    );
  };

  window.heard = async (label, count, reliable) => {
    const real = () => inbox.get(label).filter((one) => one !== 'greeting');
    let [length, since] = [0, Date.now()];
    await until(() => {
      if (real().length > length) [length, since] = [real().length, Date.now()];
      // What was given up never comes: silence is the end then.
      return length >= count || (!reliable && length > 0 && Date.now() - since > 2_000);
    });
    return real();
  };

  window.leave = () => socket.close();

  window.silenced = () => until(() => told === 3 && gone === 3);
}
