/**
 * For tests: a protoo server that answers as Tureen would, remembers what it was asked, and can be told to notify,
 * offer consumers, drop connections or go away. No media.
 */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { testFakeParameters as fake } from 'mediasoup-client';
import { type WebSocket, WebSocketServer } from 'ws';
import type { PeerInfo } from './protocol';

interface Message {
  request?: boolean;
  response?: boolean;
  id?: number;
  ok?: boolean;
  method?: string;
  data?: unknown;
}

export class FakeServer {
  readonly asked: { method: string; data: unknown; connection: number }[] = [];
  /** How the client answered offers, by the connection that the answer came on. */
  readonly answered: { ok: boolean; connection: number }[] = [];
  /** Answers in place of the usual ones, by method; throwing refuses, with the error's `code` or 403. */
  readonly answers = new Map<string, (data: unknown) => unknown>();
  peers: PeerInfo[] = [];
  connections = 0;
  #http: Server | undefined;
  #sockets = new Set<WebSocket>();
  #accepted = new Map<number, () => void>();
  #nextId = 1;

  async listen(port = 0): Promise<void> {
    const http = createServer();
    this.#http = http;
    new WebSocketServer({ server: http, handleProtocols: () => 'protoo' }).on('connection', (socket) =>
      this.#serve(socket),
    );
    await new Promise<void>((resolve) => http.listen(port, '127.0.0.1', resolve));
  }

  get port(): number {
    return (this.#http?.address() as AddressInfo).port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/?roomId=soup&peerId=me`;
  }

  /** Closes every connection with this code; protoo takes 4000 as final. */
  drop(code: number): void {
    for (const socket of this.#sockets) socket.close(code);
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.terminate();
    await new Promise((resolve) => this.#http?.close(resolve) ?? resolve(undefined));
  }

  notify(method: string, data: unknown): void {
    this.#send({ notification: true, method, data });
  }

  /** Offers a consumer and resolves once the client has accepted it. */
  offer(peerId: string, id: string, kind: 'audio' | 'video', appData: object = {}): Promise<void> {
    const { rtpParameters } = fake.generateConsumerRemoteParameters({
      id,
      codecMimeType: kind === 'audio' ? 'audio/opus' : 'video/VP8',
    });
    const requestId = this.#nextId++;
    const data = {
      peerId,
      id,
      kind,
      rtpParameters,
      appData,
      producerId: `producer-of-${id}`,
      type: 'simple',
      producerPaused: false,
    };
    this.#send({ request: true, id: requestId, method: 'newConsumer', data });
    return new Promise((resolve) => this.#accepted.set(requestId, resolve));
  }

  methods(connection = this.connections): string[] {
    return this.asked.filter((asked) => asked.connection === connection).map(({ method }) => method);
  }

  #send(message: object): void {
    for (const socket of this.#sockets) socket.send(JSON.stringify(message));
  }

  #serve(socket: WebSocket): void {
    const connection = ++this.connections;
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('message', (text: Buffer) => {
      const message = JSON.parse(text.toString()) as Message;
      const { id, method = '', data } = message;
      if (message.response === true) {
        this.answered.push({ ok: message.ok === true, connection });
        if (id !== undefined && message.ok === true) this.#accepted.get(id)?.();
        return;
      }
      this.asked.push({ method, data, connection });
      let answer: object;
      try {
        answer = { response: true, id, ok: true, data: this.#answer(method, data) };
      } catch (error) {
        const { code = 403, message: errorReason } = error as Error & { code?: number };
        answer = { response: true, id, ok: false, errorCode: code, errorReason };
      }
      socket.send(JSON.stringify(answer));
    });
  }

  #answer(method: string, data: unknown): unknown {
    const special = this.answers.get(method);
    if (special) return special(data);
    switch (method) {
      case 'getRouterRtpCapabilities':
        return fake.generateRouterRtpCapabilities();
      case 'createWebRtcTransport':
        return { ...fake.generateTransportRemoteParameters(), id: `transport-${this.#nextId++}` };
      case 'join':
        return { peers: this.peers };
      case 'produce':
        return { id: `producer-${this.#nextId++}` };
      case 'restartIce':
        return fake.generateTransportRemoteParameters().iceParameters;
      default:
        return {};
    }
  }
}
