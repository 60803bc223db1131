/** One tile of the gallery: a person's camera or initials, or a shared screen. */
import type { StreamStats } from '@tureen/client';
import { el, setAttribute } from './dom';
import { icon } from './icons';
import { statsLines } from './stats-lines';

export type TileSource = 'camera' | 'screen';

export interface TileState {
  displayName: string;
  video: MediaStreamTrack | undefined;
  /** The sender paused its video: what shows is the last frame, so it is covered. */
  videoPaused: boolean;
  muted: boolean;
}

export class Tile {
  readonly element: HTMLElement;
  readonly #video = el('video', { autoplay: true, playsinline: true });
  readonly #initials = el('div', { class: 'initials', 'aria-hidden': 'true' });
  readonly #name = el('span', { class: 'name' });
  readonly #muted: HTMLElement;
  readonly #stats = el('dl', { class: 'stats', hidden: true });
  #track: MediaStreamTrack | undefined;

  constructor(
    readonly peerId: string,
    readonly source: TileSource,
    readonly self: boolean,
  ) {
    // Sound has its own elements; a muted video may always start by itself.
    this.#video.muted = true;
    this.#muted = el('span', { class: 'muted', title: 'Microphone off' }, icon('microphoneOff'));
    this.#muted.setAttribute('role', 'img');
    this.#muted.setAttribute('aria-label', 'Microphone off');
    this.element = el(
      'article',
      { class: 'tile', 'data-peer-id': peerId, 'data-source': source, 'data-self': self },
      this.#initials,
      this.#video,
      el('div', { class: 'label' }, this.#muted, this.#name),
      this.#stats,
    );
  }

  update({ displayName, video, videoPaused, muted }: TileState): void {
    const name = displayName === '' ? 'Guest' : displayName;
    const shown = this.source === 'screen' ? `${name}’s screen` : name;
    this.#name.textContent = this.self ? (this.source === 'screen' ? 'Your screen' : `${name} (you)`) : shown;
    this.element.setAttribute('aria-label', this.#name.textContent);
    this.#initials.textContent = initials(name);
    this.element.style.setProperty('--hue', String(hue(this.peerId)));
    setAttribute(this.#muted, 'hidden', !muted || this.source === 'screen');
    setAttribute(this.element, 'data-video', video !== undefined && !videoPaused);
    if (video === this.#track) return;
    this.#track = video;
    this.#video.srcObject = video ? new MediaStream([video]) : null;
  }

  speaking(on: boolean): void {
    setAttribute(this.element, 'data-speaking', on);
  }

  stats(video: StreamStats | undefined, audio: StreamStats | undefined): void {
    const lines = statsLines(video, audio);
    this.#stats.hidden = lines.length === 0;
    this.#stats.replaceChildren(
      ...lines.flatMap(([term, value]) => [el('dt', {}, term), el('dd', {}, value)]),
    );
  }

  hideStats(): void {
    this.#stats.hidden = true;
  }

  remove(): void {
    this.#video.srcObject = null;
    this.element.remove();
  }
}

export function initials(name: string): string {
  const words = name.split(/\s+/).filter((word) => word !== '');
  const letters = words.length > 1 ? [words[0], words.at(-1)] : [words[0]];
  return letters.map((word) => firstLetter(word ?? '')).join('');
}

/** The first letter as a reader counts them, whatever it is made of. */
function firstLetter(word: string): string {
  const [first] = new Intl.Segmenter().segment(word);
  return first?.segment.toUpperCase() ?? '';
}

/** The same colour for the same peer on every page: FNV-1a, and a multiplication to part ids that differ at their end. */
function hue(id: string): number {
  let hash = 0x811c9dc5;
  for (const letter of id) hash = Math.imul(hash ^ (letter.codePointAt(0) ?? 0), 0x01000193);
  return (Math.imul(hash, 0x9e3779b1) >>> 8) % 360;
}
