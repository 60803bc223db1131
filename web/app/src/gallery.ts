/** The tiles and where they go: an even grid, or shared screens large with the people in a strip. */
import { el, setAttribute } from './dom';
import { bestGrid, galleryGrid } from './layout';
import { Tile, type TileSource } from './tile';

const GAP = 10;

export class Gallery {
  readonly element: HTMLElement;
  readonly #stage = el('div', { class: 'stage' });
  readonly #people = el('div', { class: 'people' });
  readonly #sound = el('div', { hidden: true });
  readonly #alone = el('p', { class: 'alone' }, 'Nobody else is here. Send someone the link to this room.');
  readonly #tiles = new Map<string, Tile>();
  readonly #audio = new Map<string, HTMLAudioElement>();
  #speaker: string | null = null;

  /** `onBlocked` is called when the browser wants a click before it plays sound. */
  constructor(private readonly onBlocked: () => void) {
    this.element = el(
      'main',
      { class: 'gallery', 'aria-label': 'Call' },
      this.#stage,
      this.#people,
      this.#alone,
      this.#sound,
    );
    const observer = new ResizeObserver(() => this.#arrange());
    observer.observe(this.element);
    observer.observe(this.#stage);
    observer.observe(this.#people);
  }

  /** The tile of this peer and source, made if there is none. */
  tile(peerId: string, source: TileSource, self: boolean): Tile {
    const key = `${source}:${peerId}`;
    const known = this.#tiles.get(key);
    if (known) return known;
    const tile = new Tile(peerId, source, self);
    this.#tiles.set(key, tile);
    if (source === 'screen') this.#stage.append(tile.element);
    else if (self) this.#people.prepend(tile.element);
    else this.#people.append(tile.element);
    tile.speaking(source === 'camera' && this.#speaker === peerId);
    this.#arrange();
    return tile;
  }

  get tiles(): Iterable<Tile> {
    return this.#tiles.values();
  }

  remove(peerId: string, source: TileSource): void {
    const key = `${source}:${peerId}`;
    this.#tiles.get(key)?.remove();
    if (this.#tiles.delete(key)) this.#arrange();
  }

  /** Plays a peer's sound, or stops it. */
  sound(peerId: string, track: MediaStreamTrack | undefined): void {
    const known = this.#audio.get(peerId);
    if (!track) {
      known?.remove();
      this.#audio.delete(peerId);
      return;
    }
    const audio = known ?? el('audio', { autoplay: true, 'data-peer-id': peerId });
    if (!known) {
      this.#audio.set(peerId, audio);
      this.#sound.append(audio);
    }
    const playing = audio.srcObject instanceof MediaStream ? audio.srcObject.getTracks()[0] : undefined;
    if (playing === track) return;
    audio.srcObject = new MediaStream([track]);
    audio.play().catch((error: unknown) => {
      if (error instanceof Error && error.name === 'NotAllowedError') this.onBlocked();
    });
  }

  /** Starts all sound again, from within a click. */
  unblock(): void {
    for (const audio of this.#audio.values()) void audio.play().catch(() => undefined);
  }

  speaker(peerId: string | null): void {
    this.#speaker = peerId;
    for (const tile of this.#tiles.values()) {
      tile.speaking(tile.source === 'camera' && tile.peerId === peerId);
    }
  }

  #arrange(): void {
    const screens = this.#stage.childElementCount;
    const people = this.#people.childElementCount;
    setAttribute(this.element, 'data-screens', screens > 0);
    setAttribute(this.element, 'data-alone', screens === 0 && people === 1);
    fill(this.#stage, screens, 'screens');
    if (screens === 0) fill(this.#people, people, 'people');
    else this.#people.removeAttribute('style');
  }
}

/** Gives the container's tiles their size; CSS centres the rows. Screens keep their shape, people are cropped. */
function fill(container: HTMLElement, count: number, content: 'screens' | 'people'): void {
  const area = { width: container.clientWidth, height: container.clientHeight };
  if (count === 0 || area.width === 0) return;
  const { tileWidth, tileHeight } =
    content === 'screens' ? bestGrid(count, area, GAP, 16 / 9) : galleryGrid(count, area, GAP);
  container.style.setProperty('--tile-width', `${tileWidth}px`);
  container.style.setProperty('--tile-height', `${tileHeight}px`);
}
