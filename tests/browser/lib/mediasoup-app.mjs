/**
 * A small conferencing application as people write them: mediasoup's npm package, protoo-server, and the methods of
 * mediasoup-demo that the call page uses. It serves that page, and its media goes through whatever worker
 * MEDIASOUP_WORKER_BIN names.
 */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Room, WebSocketServer } from 'protoo-server';
import { log } from './scenario.mjs';

const PAGE = fileURLToPath(new URL('../../../web/app/dist/', import.meta.url));
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
const CODECS = [
  { kind: 'audio', mimeType: 'audio/opus', clockRate: 48_000, channels: 2 },
  { kind: 'video', mimeType: 'video/VP8', clockRate: 90_000 },
];

/** Starts it on a free port of loopback. `packages` is a folder in whose node_modules mediasoup is. */
export async function startApp({ packages, workerBin, onEnd }) {
  process.env.MEDIASOUP_WORKER_BIN = workerBin;
  const mediasoup = createRequire(join(packages, 'package.json'))('mediasoup');
  const worker = await mediasoup.createWorker({ logLevel: 'warn' });
  onEnd(async () => worker.close());
  worker.on('died', (error) => log(`the worker died: ${error}`));
  const listenInfos = ['udp', 'tcp'].map((protocol) => ({ protocol, ip: '127.0.0.1' }));
  const webRtcServer = await worker.createWebRtcServer({ listenInfos });
  const rooms = new Map();
  const http = createServer((request, response) => void servePage(request, response));
  const sockets = new WebSocketServer(http, {});
  sockets.on('connectionrequest', ({ request }, accept) => {
    const query = new URL(request.url, 'http://localhost').searchParams;
    const roomId = query.get('roomId');
    const transport = accept();
    if (!rooms.has(roomId)) rooms.set(roomId, openRoom(worker, webRtcServer));
    rooms
      .get(roomId)
      .then((room) => room.enter(query.get('peerId'), transport))
      .catch((error) => log(`no room: ${error.stack}`));
  });
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  onEnd(async () => http.close());
  return { url: `http://127.0.0.1:${http.address().port}`, worker, version: mediasoup.version };
}

async function servePage({ url }, response) {
  const path = normalize(new URL(url, 'http://localhost').pathname).replace(/^\/$/, '/index.html');
  try {
    const body = await readFile(join(PAGE, path));
    response.setHeader('Content-Type', TYPES[extname(path)] ?? 'application/octet-stream');
    response.end(body);
  } catch {
    response.statusCode = 404;
    response.end();
  }
}

async function openRoom(worker, webRtcServer) {
  const router = await worker.createRouter({ mediaCodecs: CODECS });
  const room = new Room();
  const others = (peer) => room.peers.filter((other) => other !== peer && other.data.joined);

  const consume = async (peer, producer, owner) => {
    const { rtpCapabilities, transports } = peer.data;
    const transport = [...transports.values()].find(({ appData }) => appData.consuming);
    if (!transport || !router.canConsume({ producerId: producer.id, rtpCapabilities })) return;
    const consumer = await transport.consume({ producerId: producer.id, rtpCapabilities, paused: true });
    const { id } = consumer;
    peer.data.consumers.set(id, consumer);
    const tell = (method, data = {}) =>
      peer.notify(method, { consumerId: id, ...data }).catch(() => undefined);
    consumer.on('producerclose', () => {
      peer.data.consumers.delete(id);
      tell('consumerClosed');
    });
    consumer.on('producerpause', () => tell('consumerPaused'));
    consumer.on('producerresume', () => tell('consumerResumed'));
    consumer.on('layerschange', (layers) =>
      tell('consumerLayersChanged', layers ?? { spatialLayer: null, temporalLayer: null }),
    );
    await peer.request('newConsumer', {
      id,
      peerId: owner.id,
      producerId: producer.id,
      kind: consumer.kind,
      rtpParameters: consumer.rtpParameters,
      type: consumer.type,
      appData: producer.appData,
      producerPaused: consumer.producerPaused,
    });
    await consumer.resume();
  };
  const info = (peer) => ({ id: peer.id, displayName: peer.data.displayName, device: peer.data.device });
  const failed = (error) => log(`while consuming: ${error.message}`);

  const methods = {
    getRouterRtpCapabilities: () => router.rtpCapabilities,
    async createWebRtcTransport(peer, { producing, consuming, forceTcp }) {
      const appData = { producing, consuming };
      const transport = await router.createWebRtcTransport({ webRtcServer, enableUdp: !forceTcp, appData });
      peer.data.transports.set(transport.id, transport);
      const { id, iceParameters, iceCandidates, dtlsParameters } = transport;
      return { id, iceParameters, iceCandidates, dtlsParameters };
    },
    connectWebRtcTransport: (peer, { transportId, dtlsParameters }) =>
      peer.data.transports.get(transportId).connect({ dtlsParameters }),
    restartIce: (peer, { transportId }) => peer.data.transports.get(transportId).restartIce(),
    async join(peer, { displayName, device, rtpCapabilities }) {
      Object.assign(peer.data, { displayName, device, rtpCapabilities, joined: true });
      const present = others(peer);
      for (const other of present) {
        other.notify('newPeer', info(peer)).catch(() => undefined);
        for (const producer of other.data.producers.values()) consume(peer, producer, other).catch(failed);
      }
      return { peers: present.map(info) };
    },
    async produce(peer, { transportId, kind, rtpParameters, appData }) {
      const producer = await peer.data.transports.get(transportId).produce({ kind, rtpParameters, appData });
      peer.data.producers.set(producer.id, producer);
      for (const other of others(peer)) consume(other, producer, peer).catch(failed);
      return { id: producer.id };
    },
    closeProducer(peer, { producerId }) {
      peer.data.producers.get(producerId).close();
      peer.data.producers.delete(producerId);
    },
    pauseProducer: (peer, { producerId }) => peer.data.producers.get(producerId).pause(),
    resumeProducer: (peer, { producerId }) => peer.data.producers.get(producerId).resume(),
    setConsumerPreferredLayers: (peer, { consumerId, spatialLayer, temporalLayer }) =>
      peer.data.consumers.get(consumerId).setPreferredLayers({ spatialLayer, temporalLayer }),
  };

  return {
    async enter(peerId, transport) {
      room.getPeer(peerId)?.close();
      const peer = await room.createPeer(peerId, transport);
      Object.assign(peer.data, {
        transports: new Map(),
        producers: new Map(),
        consumers: new Map(),
        joined: false,
      });
      peer.on('request', ({ method, data }, accept, reject) => {
        Promise.resolve()
          .then(() => methods[method](peer, data ?? {}))
          .then((reply) => accept(reply ?? {}))
          .catch((error) => reject(500, `${method}: ${error.message}`));
      });
      peer.on('close', () => {
        for (const own of peer.data.transports.values()) own.close();
        for (const other of others(peer)) other.notify('peerClosed', { peerId }).catch(() => undefined);
      });
    },
  };
}
