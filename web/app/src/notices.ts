/** Messages to the person: one lasting line for the state of the call, and passing ones for what went wrong. */
import { el } from './dom';

const SHOWN_MS = 8_000;

export class Notices {
  readonly element: HTMLElement;
  readonly #status = el('div', { class: 'notice status', role: 'status', hidden: true });
  readonly #passing = el('div', { class: 'passing', role: 'log', 'aria-live': 'polite' });

  constructor() {
    this.element = el('div', { class: 'notices' }, this.#status, this.#passing);
  }

  /** Sets the lasting line; `undefined` takes it away. */
  status(message: string | undefined): void {
    this.#status.hidden = message === undefined;
    this.#status.textContent = message ?? '';
  }

  show(message: string): void {
    if ([...this.#passing.children].some(({ firstChild }) => firstChild?.textContent === message)) return;
    const close = el('button', { type: 'button', class: 'dismiss', 'aria-label': 'Dismiss' }, '×');
    const notice = el('div', { class: 'notice' }, el('span', {}, message), close);
    const remove = () => notice.remove();
    close.addEventListener('click', remove);
    setTimeout(remove, SHOWN_MS);
    this.#passing.append(notice);
  }
}
