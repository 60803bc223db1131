/** The call itself: gallery, toolbar, notices, and their wiring to the client. */
import { BrowserDevices, Call, type RemotePeer, type Source, signalingUrl } from '@tureen/client';
import { el, setAttribute } from './dom';
import { Gallery } from './gallery';
import { expose } from './handle';
import { icon } from './icons';
import { dressToggle, type JoinChoice } from './lobby';
import { Notices } from './notices';
import { peerId, peerKey, roomLink } from './settings';

const STATS_EVERY_MS = 1_000;

export class Room {
  readonly element: HTMLElement;
  readonly call: Call;
  readonly #gallery = new Gallery(() => this.#askForClick());
  readonly #notices = new Notices();
  readonly #buttons: Record<Source, HTMLButtonElement>;
  readonly #statsButton = el('button', {
    type: 'button',
    class: 'round',
    title: 'Statistics',
    'aria-label': 'Statistics',
    'aria-pressed': 'false',
  });
  #statsTimer: ReturnType<typeof setInterval> | undefined;
  #mediaInterrupted = false;
  #stateReason: string | undefined;

  constructor(
    private readonly choice: JoinChoice,
    private readonly onClosed: (reason: string | undefined) => void,
  ) {
    const { settings } = choice;
    const id = settings.peerId ?? peerId(sessionStorage);
    this.call = new Call({
      url: signalingUrl(location.href, settings.roomId, id, {
        token: settings.token,
        peerKey: peerKey(sessionStorage),
      }),
      peerId: id,
      displayName: settings.displayName,
      devices: new BrowserDevices(),
      camera: settings.send,
    });
    expose(this.call);
    this.#buttons = {
      microphone: this.#toggle('microphone', (on) => this.call.setMicrophone(on)),
      camera: this.#toggle('camera', (on) => this.call.setCamera(on)),
      screen: this.#toggle('screen', (on) => (on ? this.call.startScreen() : this.call.stopScreen())),
    };
    // Phones cannot share their screen.
    const devices = navigator.mediaDevices as MediaDevices | undefined;
    this.#buttons.screen.hidden = !devices || !('getDisplayMedia' in devices);
    this.#listen();
    this.element = el(
      'div',
      { class: 'room' },
      this.#header(),
      this.#gallery.element,
      this.#toolbar(),
      this.#notices.element,
    );
  }

  /** Joins, with the devices the person chose; one that is refused is a notice, not an obstacle. */
  start(): void {
    const { settings, tracks } = this.choice;
    this.#showLocal('microphone');
    this.#showSelf();
    for (const [source, track] of tracks) this.call.adopt(source, track);
    this.call.join();
    if (settings.microphone && !tracks.has('microphone')) void this.call.setMicrophone(true);
    if (settings.camera && !tracks.has('camera')) void this.call.setCamera(true);
  }

  #header(): HTMLElement {
    const link = roomLink(new URL(location.href), this.choice.settings.roomId);
    const copy = el(
      'button',
      { type: 'button', class: 'copy', title: 'Copy the link to this room' },
      icon('link'),
      el('span', {}, 'Copy link'),
    );
    copy.addEventListener('click', () => {
      copyText(link).then(
        () => this.#notices.show('Link copied. Send it to those you want to meet.'),
        () => this.#notices.show(`Copy this link: ${link}`),
      );
    });
    return el(
      'header',
      { class: 'bar' },
      el('span', { class: 'wordmark' }, icon('wordmark'), el('span', {}, 'Tureen')),
      el('span', { class: 'room-name', title: 'Room' }, this.choice.settings.roomId),
      copy,
    );
  }

  #toolbar(): HTMLElement {
    const leave = el(
      'button',
      { type: 'button', class: 'round leave', title: 'Leave', 'aria-label': 'Leave' },
      icon('leave'),
    );
    leave.addEventListener('click', () => this.call.leave());
    this.#statsButton.append(icon('statistics'));
    this.#statsButton.addEventListener('click', () => this.#toggleStats());
    const { microphone, camera, screen } = this.#buttons;
    const buttons = [microphone, camera, screen, this.#statsButton, leave];
    return el('div', { class: 'toolbar', role: 'toolbar', 'aria-label': 'Call controls' }, ...buttons);
  }

  #toggle(source: Source, change: (on: boolean) => Promise<void>): HTMLButtonElement {
    const button = el('button', { type: 'button', class: 'round' });
    dressToggle(button, source, false);
    button.addEventListener('click', () => void change(!this.call.isOn(source)));
    return button;
  }

  #listen(): void {
    this.call.on('peer', (peer) => this.#showPeer(peer));
    this.call.on('peerLeft', (id) => {
      this.#gallery.remove(id, 'camera');
      this.#gallery.remove(id, 'screen');
      this.#gallery.sound(id, undefined);
    });
    this.call.on('local', (source) => this.#showLocal(source));
    this.call.on('activeSpeaker', (id) => this.#gallery.speaker(id));
    this.call.on('problem', (message) => this.#notices.show(message));
    this.call.on('media', (state) => {
      this.#mediaInterrupted = state === 'interrupted';
      this.#showStatus();
    });
    this.call.on('state', (state, reason) => {
      setAttribute(this.element, 'data-state', state);
      this.#stateReason = reason ?? (state === 'connecting' ? 'Joining…' : undefined);
      if (state !== 'joined') this.#mediaInterrupted = false;
      this.#showStatus();
      if (state === 'closed') {
        clearInterval(this.#statsTimer);
        this.onClosed(reason);
      }
    });
  }

  #showStatus(): void {
    const interrupted = this.#mediaInterrupted
      ? 'Your connection is interrupted. Trying to bring picture and sound back…'
      : undefined;
    this.#notices.status(this.#stateReason ?? interrupted);
  }

  #showPeer({ id, displayName, tracks }: RemotePeer): void {
    const camera = tracks.get('camera');
    const screen = tracks.get('screen');
    const microphone = tracks.get('microphone');
    this.#gallery.tile(id, 'camera', false).update({
      displayName,
      video: camera?.track,
      videoPaused: camera?.paused ?? false,
      muted: microphone === undefined || microphone.paused,
    });
    if (screen) {
      const state = { displayName, video: screen.track, videoPaused: screen.paused, muted: false };
      this.#gallery.tile(id, 'screen', false).update(state);
    } else {
      this.#gallery.remove(id, 'screen');
    }
    this.#gallery.sound(id, microphone?.track);
  }

  #showLocal(source: Source): void {
    dressToggle(this.#buttons[source], source, this.call.isOn(source));
    if (source === 'screen') this.#showOwnScreen();
    else this.#showSelf();
  }

  #showOwnScreen(): void {
    const screen = this.call.localTrack('screen');
    const { displayName } = this.choice.settings;
    if (!screen) {
      this.#gallery.remove(this.call.peerId, 'screen');
      return;
    }
    const tile = this.#gallery.tile(this.call.peerId, 'screen', true);
    tile.update({ displayName, video: screen, videoPaused: false, muted: false });
  }

  #showSelf(): void {
    this.#gallery.tile(this.call.peerId, 'camera', true).update({
      displayName: this.choice.settings.displayName,
      video: this.call.localTrack('camera'),
      videoPaused: false,
      muted: !this.call.isOn('microphone'),
    });
  }

  #toggleStats(): void {
    const on = this.#statsTimer === undefined;
    this.#statsButton.setAttribute('aria-pressed', String(on));
    setAttribute(this.#statsButton, 'data-active', on);
    clearInterval(this.#statsTimer);
    this.#statsTimer = on ? setInterval(() => void this.#showStats(), STATS_EVERY_MS) : undefined;
    if (on) void this.#showStats();
    else for (const tile of this.#gallery.tiles) tile.hideStats();
  }

  async #showStats(): Promise<void> {
    const stats = await this.call.stats();
    if (this.#statsTimer === undefined) return;
    const remote = (id: string, source: Source) => {
      const consumerId = this.call.peers.get(id)?.tracks.get(source)?.consumerId;
      return consumerId === undefined ? undefined : stats.remote[consumerId];
    };
    for (const tile of this.#gallery.tiles) {
      const of = (source: Source) => (tile.self ? stats.local[source] : remote(tile.peerId, source));
      tile.stats(of(tile.source), tile.source === 'camera' ? of('microphone') : undefined);
    }
  }

  /** The browser plays sound only after a click somewhere on the page. */
  #askForClick(): void {
    this.#notices.show('Click anywhere to hear the others.');
    addEventListener('click', () => this.#gallery.unblock(), { once: true });
  }
}

/** The clipboard exists only over HTTPS; elsewhere the caller shows the text. */
async function copyText(text: string): Promise<void> {
  await navigator.clipboard.writeText(text);
}
