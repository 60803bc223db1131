/**
 * The protoo connection: typed requests, and what happens to them when the connection goes.
 *
 * protoo-client reconnects by itself after any close but code 4000. It leaves requests of the lost connection pending
 * until they time out, half a minute later; here they fail at once, so that a re-join does not wait for them.
 */
import { Peer, WebSocketTransport } from 'protoo-client';
import { Emitter } from './emitter';
import type { NewConsumer, Requests, ServerNotification } from './protocol';

/** The server answered a request with an error. */
export class RequestError extends Error {
  constructor(
    readonly method: string,
    readonly code: number,
    reason: string,
  ) {
    super(reason);
    this.name = 'RequestError';
  }
}

/** The connection went before the server answered. */
export class ConnectionLostError extends Error {
  constructor() {
    super('the connection to the server was lost');
    this.name = 'ConnectionLostError';
  }
}

interface SignalingEvents {
  /** Connected, for the first time or again: join now. */
  open: [];
  /** The connection is gone; another attempt is under way. */
  lost: [];
  /** An attempt to connect failed; the next one follows. */
  failed: [attempt: number];
  /** The server closed the connection for good. */
  closed: [];
  newConsumer: [consumer: NewConsumer, accept: () => void, reject: (error: Error) => void];
  notification: [notification: ServerNotification];
}

/** Quick at first, since most losses are a blink; never more than two seconds between attempts. */
const RETRY = { forever: true, minTimeout: 150, factor: 1.5, maxTimeout: 2000, randomize: true };

export class Signaling extends Emitter<SignalingEvents> {
  readonly #peer: Peer;
  #abandon = new Set<(error: Error) => void>();

  constructor(url: string) {
    super();
    this.#peer = new Peer(new WebSocketTransport(url, { retry: RETRY }));
    this.#peer.on('open', () => this.emit('open'));
    this.#peer.on('failed', (attempt) => this.emit('failed', attempt));
    this.#peer.on('disconnected', () => {
      this.#failPending();
      this.emit('lost');
    });
    this.#peer.on('close', () => {
      this.#failPending();
      this.emit('closed');
    });
    this.#peer.on('notification', ({ method, data }) =>
      // The server is this page's own; a method that is not in the union falls through the receiver's switch.
      this.emit('notification', { method, data } as ServerNotification),
    );
    this.#peer.on('request', (request, accept, reject) => {
      if (request.method !== 'newConsumer') {
        reject(404, `this client knows no request "${request.method}"`);
        return;
      }
      this.emit('newConsumer', request.data as NewConsumer, accept, (error) => reject(500, error.message));
    });
  }

  get connected(): boolean {
    return this.#peer.connected;
  }

  async request<M extends keyof Requests>(
    method: M,
    data: Requests[M]['data'],
  ): Promise<Requests[M]['reply']> {
    if (!this.connected) throw new ConnectionLostError();
    return new Promise<Requests[M]['reply']>((resolve, reject) => {
      this.#abandon.add(reject);
      this.#peer
        .request(method, data)
        .then(
          (reply) => resolve(reply as Requests[M]['reply']),
          (error: unknown) => reject(asRequestError(method, error)),
        )
        .finally(() => this.#abandon.delete(reject));
    });
  }

  close(): void {
    this.#failPending();
    this.#peer.close();
  }

  #failPending(): void {
    const pending = this.#abandon;
    this.#abandon = new Set();
    for (const reject of pending) reject(new ConnectionLostError());
  }
}

function asRequestError(method: string, error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error));
  const code = (error as Error & { code?: unknown }).code;
  return typeof code === 'number' ? new RequestError(method, code, error.message) : error;
}
