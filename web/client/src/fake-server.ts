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
  /** Given with the join, and wanted back: without it, sessions end with their connections. */
  token: string | undefined;
  /** Nothing arrives any more, in either direction, while it is true; what is said is kept. */
  deaf = false;
  /** How clients came: the queries of their addresses. */
  readonly queries: URLSearchParams[] = [];
  /** What clients said that they have. */
  readonly received: number[] = [];
  #kept: string[] = [];
  #known = new Set<number>();
  #open = new Set<number>();
  connections = 0;
  #http: Server | undefined;
  #sockets = new Set<WebSocket>();
  #accepted = new Map<number, () => void>();
  #nextId = 1;

  async listen(port = 0): Promise<void> {
    const http = createServer();
    this.#http = http;
    new WebSocketServer({ server: http, handleProtocols: () => 'protoo' }).on(
      'connection',
      (socket, request) => this.#serve(socket, new URL(request.url ?? '/', 'ws://fake').searchParams),
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

  /** Every connection breaks, as when the server's node dies. */
  break(): void {
    for (const socket of this.#sockets) socket.terminate();
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.terminate();
    await new Promise((resolve) => this.#http?.close(resolve) ?? resolve(undefined));
  }

  notify(method: string, data: unknown): void {
    this.#send({ notification: true, method, data });
  }

  /** Offers a consumer and resolves once the client has accepted it. */
  offer(
    peerId: string,
    id: string,
    kind: 'audio' | 'video',
    appData: object = {},
    more: object = {},
  ): Promise<void> {
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
      ...more,
    };
    this.#open.add(requestId);
    this.#send({ request: true, id: requestId, method: 'newConsumer', data });
    return new Promise((resolve) => this.#accepted.set(requestId, resolve));
  }

  methods(connection = this.connections): string[] {
    return this.asked.filter((asked) => asked.connection === connection).map(({ method }) => method);
  }

  #send(message: object): void {
    let text = JSON.stringify(message);
    if (this.token !== undefined) {
      const seq = this.#kept.length + 1;
      text = JSON.stringify({ ...message, seq });
      this.#kept.push(text);
    }
    if (!this.deaf) for (const socket of this.#sockets) socket.send(text);
  }

  #serve(socket: WebSocket, query: URLSearchParams): void {
    const connection = ++this.connections;
    this.queries.push(query);
    const token = query.get('resume');
    if (token !== null && token !== this.token) {
      socket.close(4007);
      return;
    }
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    if (token !== null) {
      const asks = [...this.#open];
      socket.send(JSON.stringify({ notification: true, method: 'resumed', data: { asks } }));
      for (const text of this.#kept.slice(Number(query.get('received')))) socket.send(text);
    }
    socket.on('message', (text: Buffer) => {
      if (this.deaf) return;
      const message = JSON.parse(text.toString()) as Message;
      const { id, method = '', data } = message;
      if (message.response === true) {
        if (id !== undefined) this.#open.delete(id);
        this.answered.push({ ok: message.ok === true, connection });
        if (id !== undefined && message.ok === true) this.#accepted.get(id)?.();
        return;
      }
      if (method === 'received') {
        this.received.push((data as { seq: number }).seq);
        return;
      }
      if (this.token !== undefined && id !== undefined) {
        if (this.#known.has(id)) return;
        this.#known.add(id);
      }
      this.asked.push({ method, data, connection });
      let answer: object;
      try {
        answer = { response: true, id, ok: true, data: this.#answer(method, data) };
      } catch (error) {
        const { code = 403, message: errorReason } = error as Error & { code?: number };
        answer = { response: true, id, ok: false, errorCode: code, errorReason };
      }
      if (this.token === undefined) socket.send(JSON.stringify(answer));
      else this.#send(answer);
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
        return { peers: this.peers, ...(this.token === undefined ? {} : { resume: { token: this.token } }) };
      case 'produce':
        return { id: `producer-${this.#nextId++}` };
      case 'restartIce':
        return fake.generateTransportRemoteParameters().iceParameters;
      default:
        return {};
    }
  }
}
