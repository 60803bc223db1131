/**
 * The protoo connection: typed requests, and what happens to them when the connection goes.
 *
 * A connection that breaks is made anew at once. Where the server gave a token for that with the join, the session goes
 * on: the server says again what was missed, requests without an answer are asked again (the server does none twice), and
 * nobody but the person who looks at `interrupted` notices. Where it cannot go on, requests fail, and `open` says that it
 * is time to join.
 */
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

/** The session ended before the server answered. */
export class ConnectionLostError extends Error {
  constructor() {
    super('the connection to the server was lost');
    this.name = 'ConnectionLostError';
  }
}

interface SignalingEvents {
  /** Connected, for the first time or to a new session: join now. */
  open: [];
  /** The connection is gone, and another attempt under way that may bring the session back. */
  interrupted: [];
  /** The session is back, and everything goes on. */
  resumed: [];
  /** The session is gone, by this close code; another attempt to connect is under way. */
  lost: [code: number];
  /** An attempt to connect failed; the next one follows. */
  failed: [attempt: number];
  /** The server closed the connection for good. */
  closed: [];
  newConsumer: [consumer: NewConsumer, accept: () => void, reject: (error: Error) => void];
  notification: [notification: ServerNotification];
}

/** The first attempt is immediate, since most losses are a blink; then quick, never more than two seconds apart. */
const RETRY_FIRST_MS = 150;
const RETRY_FACTOR = 1.5;
const RETRY_MOST_MS = 2_000;
/** An address that does not answer in this time is given up for the next. */
const CONNECT_DEADLINE_MS = 4_000;
/** A connection that lasted this long was a good one: the next attempt after it is immediate again. */
const LASTED_MS = 2_000;
/** The server keeps a session for so long. */
const RESUME_WITHIN_MS = 15_000;
const REQUEST_DEADLINE_MS = 30_000;
/** The server is told what has arrived after so many messages, or so long after the first of them. */
const TELL_AFTER = 64;
const TELL_AFTER_MS = 1_000;
/** Answers that are kept until the server has surely heard them. */
const MOST_ANSWERS = 4_096;

/** The server's close codes after which there is nothing to come back to; `FINAL` even forbids a new session. */
const FINAL = 4000;
/** Another node has the room now. Media goes on at the old one for a while. */
export const MOVED = 4009;
const NOT_RESUMED = 4007;
const SESSION_ENDS_FROM = 4001;
const SESSION_ENDS_TO = 4099;

interface Pending {
  readonly text: string;
  readonly deadline: ReturnType<typeof setTimeout>;
  readonly resolve: (data: unknown) => void;
  readonly reject: (error: Error) => void;
}

interface Message {
  request?: boolean;
  response?: boolean;
  notification?: boolean;
  id?: number;
  ok?: boolean;
  method?: string;
  data?: unknown;
  errorCode?: number;
  errorReason?: string;
  /** The number of this message, in a session that can be resumed. */
  seq?: number;
}

export class Signaling extends Emitter<SignalingEvents> {
  readonly #urls: readonly string[];
  /** The address to try next. */
  #next = 0;
  #socket: WebSocket | undefined;
  #connected = false;
  #closed = false;
  #openedAt = 0;
  #attempts = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  // What a session has beyond its connection.
  #token: string | undefined;
  /** Until when the server keeps the session, while it is interrupted. */
  #resumeBy = 0;
  #received = 0;
  #told = 0;
  #tellTimer: ReturnType<typeof setTimeout> | undefined;
  #lastId = 0;
  /** In the order asked. */
  #pending = new Map<number, Pending>();
  /** The answers to the server's requests, by their ids. */
  #answers = new Map<number, string>();

  /** With several addresses of one cluster, the next one is tried whenever one fails. */
  constructor(urls: string | readonly string[]) {
    super();
    this.#urls = typeof urls === 'string' ? [urls] : urls;
    this.#connect();
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** The connection is gone, and the session may come back. */
  get interrupted(): boolean {
    return !this.#connected && this.#token !== undefined;
  }

  /** Asks the server. While the session is interrupted, the request waits for its return. */
  request<M extends keyof Requests>(method: M, data: Requests[M]['data']): Promise<Requests[M]['reply']> {
    if (this.#closed || !(this.#connected || this.interrupted)) {
      return Promise.reject(new ConnectionLostError());
    }
    const id = ++this.#lastId;
    const text = JSON.stringify({ request: true, id, method, data });
    return new Promise((resolve, reject) => {
      const deadline = setTimeout(() => {
        this.#pending.delete(id);
        reject(new Error(`the server did not answer ${method} in time`));
      }, REQUEST_DEADLINE_MS);
      this.#pending.set(id, {
        text,
        deadline,
        resolve: (reply) => {
          // At once, and not when whoever asked hears of it: the connection may break before.
          if (method === 'join') {
            this.#token = (reply as Requests['join']['reply']).resume?.token;
            this.#attempts = 0;
          }
          resolve(reply as Requests[M]['reply']);
        },
        reject: (error) => reject(error instanceof Refusal ? error.of(method) : error),
      });
      if (this.#connected) this.#send(text);
    });
  }

  close(): void {
    this.#closed = true;
    this.#connected = false;
    clearTimeout(this.#timer);
    this.#forget();
    this.#socket?.close(1000);
    this.#socket = undefined;
  }

  #connect(): void {
    const resuming = this.#token !== undefined && Date.now() < this.#resumeBy;
    if (!resuming && this.#token !== undefined) this.#lose(1006);
    const socket = new WebSocket(this.#address(), 'protoo');
    this.#socket = socket;
    const deadline = setTimeout(() => this.#ended(socket, 1006), CONNECT_DEADLINE_MS);
    socket.onopen = () => {
      clearTimeout(deadline);
      if (this.#socket !== socket) return;
      this.#openedAt = Date.now();
      // Of a session that is to go on, the server's first word says whether it does.
      if (this.#token !== undefined) return;
      this.#connected = true;
      this.emit('open');
    };
    socket.onmessage = ({ data }) => {
      if (this.#socket === socket) this.#receive(JSON.parse(String(data)) as Message);
    };
    // What went wrong is not told to pages; that it did, by what follows.
    socket.onerror = () => undefined;
    socket.onclose = ({ code }) => {
      clearTimeout(deadline);
      this.#ended(socket, code);
    };
  }

  #address(): string {
    const url = new URL(this.#urls[this.#next % this.#urls.length] ?? '');
    if (this.#token === undefined) {
      url.searchParams.set('resumable', '1');
    } else {
      url.searchParams.set('resume', this.#token);
      url.searchParams.set('received', String(this.#received));
    }
    return url.href;
  }

  /** A connection ended, or was not made. */
  #ended(socket: WebSocket, code: number): void {
    if (this.#socket !== socket) return;
    this.#socket = undefined;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    clearTimeout(this.#tellTimer);
    this.#tellTimer = undefined;
    const wasConnected = this.#connected;
    this.#connected = false;
    if (code === FINAL) {
      this.#closed = true;
      this.#forget();
      this.emit('closed');
      return;
    }
    if (this.#openedAt > 0 && Date.now() - this.#openedAt >= LASTED_MS) this.#attempts = 0;
    // The token is used up: this happens once.
    if (code === NOT_RESUMED) this.#attempts = 0;
    this.#openedAt = 0;
    const isOver = code >= SESSION_ENDS_FROM && code <= SESSION_ENDS_TO;
    if (isOver || this.#token === undefined) {
      if (wasConnected || this.#token !== undefined) this.#lose(code);
    } else if (wasConnected) {
      this.#resumeBy = Date.now() + RESUME_WITHIN_MS;
      this.emit('interrupted');
    }
    // Who is asked to come back comes to whoever asks; who lost his server tries the next one.
    if (!isOver) this.#next++;
    const attempt = this.#attempts++;
    // A break is no failure; an attempt that came to nothing is.
    if (!wasConnected && !isOver) this.emit('failed', attempt);
    this.#timer = setTimeout(() => this.#connect(), pause(attempt));
  }

  #receive(message: Message): void {
    const { id, method = '', data } = message;
    if (message.response === true) {
      const pending = id === undefined ? undefined : this.#pending.get(id);
      if (pending && id !== undefined) {
        this.#pending.delete(id);
        clearTimeout(pending.deadline);
        if (message.ok === true) pending.resolve(data);
        else pending.reject(new Refusal(message.errorCode ?? 500, message.errorReason ?? 'refused'));
      }
    } else if (message.request === true && id !== undefined) {
      this.#asked(id, method, data);
    } else if (method === 'resumed') {
      this.#resumed((data as { asks: number[] }).asks);
    } else {
      // The server is this page's own; a method that is not in the union falls through the receiver's switch.
      this.emit('notification', { method, data } as ServerNotification);
    }
    if (message.seq !== undefined) this.#have(message.seq);
  }

  #asked(id: number, method: string, data: unknown): void {
    const session = this.#answers;
    const answer = (answer: object) => {
      // A later session knows nothing of the question.
      if (this.#answers !== session) return;
      const text = JSON.stringify({ response: true, id, ...answer });
      session.set(id, text);
      const [oldest] = session.keys();
      if (session.size > MOST_ANSWERS && oldest !== undefined) session.delete(oldest);
      if (this.#connected) this.#send(text);
    };
    const reject = (errorCode: number, errorReason: string) => answer({ ok: false, errorCode, errorReason });
    if (method !== 'newConsumer') {
      reject(404, `this client knows no request "${method}"`);
      return;
    }
    this.emit(
      'newConsumer',
      data as NewConsumer,
      () => answer({ ok: true, data: {} }),
      (error) => reject(500, error.message),
    );
  }

  /** The session goes on. `asks` are the questions whose answers the server has not heard. */
  #resumed(asks: number[]): void {
    this.#connected = true;
    this.#attempts = 0;
    const open = new Set(asks);
    for (const [id, text] of this.#answers) {
      if (open.has(id)) this.#send(text);
      else this.#answers.delete(id);
    }
    for (const { text } of this.#pending.values()) this.#send(text);
    this.emit('resumed');
  }

  /** All messages up to this number are here. */
  #have(seq: number): void {
    this.#received = seq;
    if (this.#received - this.#told >= TELL_AFTER) this.#tell();
    else this.#tellTimer ??= setTimeout(() => this.#tell(), TELL_AFTER_MS);
  }

  #tell(): void {
    clearTimeout(this.#tellTimer);
    this.#tellTimer = undefined;
    if (!this.#connected || this.#told === this.#received) return;
    this.#told = this.#received;
    this.#send(JSON.stringify({ notification: true, method: 'received', data: { seq: this.#received } }));
  }

  #send(text: string): void {
    this.#socket?.send(text);
  }

  #lose(code: number): void {
    this.#forget();
    this.emit('lost', code);
  }

  /** The session is over: nobody will answer. */
  #forget(): void {
    clearTimeout(this.#tellTimer);
    this.#tellTimer = undefined;
    this.#token = undefined;
    this.#received = this.#told = 0;
    this.#answers = new Map();
    const pending = this.#pending;
    this.#pending = new Map();
    for (const { deadline, reject } of pending.values()) {
      clearTimeout(deadline);
      reject(new ConnectionLostError());
    }
  }
}

/** An error response, before it is known to what. */
class Refusal extends Error {
  constructor(
    private readonly code: number,
    reason: string,
  ) {
    super(reason);
  }

  of(method: string): RequestError {
    return new RequestError(method, this.code, this.message);
  }
}

/** At random, so that those who lost the same server do not come all at once to the next. */
function pause(attempt: number): number {
  if (attempt === 0) return 0;
  const most = Math.min(RETRY_FIRST_MS * RETRY_FACTOR ** (attempt - 1), RETRY_MOST_MS);
  return most * (0.5 + Math.random() / 2);
}
