/** The link of one client, as the test that made it lets a scenario control it: a line to a Unix socket, a line back. */
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { once } from 'node:events';

export class Link {
  #socket;
  #lines;

  static async open(path) {
    const link = new Link();
    link.#socket = connect(path);
    await once(link.#socket, 'connect');
    link.#lines = createInterface({ input: link.#socket })[Symbol.asyncIterator]();
    return link;
  }

  /** The link behaves as this phase says from now on. Returns what it counted until now: `up` and `down`. */
  phase(name) {
    return this.#ask(name);
  }

  counters() {
    return this.#ask('counters');
  }

  close() {
    this.#socket.end();
    return Promise.resolve();
  }

  async #ask(line) {
    this.#socket.write(`${line}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`the link's control ended at "${line}"`);
    return JSON.parse(value);
  }
}
