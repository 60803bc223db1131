/** Before the call: name, room, what to bring, and a look in the mirror. */
import { BrowserDevices, type Source } from '@tureen/client';
import { el, setAttribute } from './dom';
import { type IconName, icon } from './icons';
import { type LobbyDevice, LobbyDevices } from './lobby-devices';
import type { PageSettings } from './settings';
import { initials } from './tile';

export interface JoinChoice {
  settings: PageSettings;
  tracks: Map<LobbyDevice, MediaStreamTrack>;
}

export class Lobby {
  readonly element: HTMLElement;
  readonly #devices: LobbyDevices;
  readonly #buttons: Record<LobbyDevice, HTMLButtonElement>;
  readonly #video = el('video', { autoplay: true, playsinline: true, 'data-self': true });
  readonly #initials = el('div', { class: 'initials', 'aria-hidden': 'true' });
  readonly #problem = el('p', { class: 'problem', role: 'status' });
  readonly #name: HTMLInputElement;
  readonly #room: HTMLInputElement;
  #done = false;

  constructor(
    private readonly settings: PageSettings,
    message: string | undefined,
    private readonly onJoin: (choice: JoinChoice) => void,
  ) {
    const wanted = { microphone: settings.microphone, camera: settings.camera };
    this.#devices = new LobbyDevices(new BrowserDevices(), wanted);
    this.#video.muted = true;
    this.#buttons = { microphone: this.#toggle('microphone'), camera: this.#toggle('camera') };
    this.#name = input('name', settings.displayName, 'name');
    this.#room = input('roomId', settings.roomId, 'off');
    this.#room.setAttribute('autocapitalize', 'none');
    this.#room.spellcheck = false;
    const form = el(
      'form',
      { class: 'join' },
      el('h1', { class: 'wordmark' }, icon('wordmark'), 'Tureen'),
      el('p', { class: 'lede' }, message ?? 'Pull up a chair. Anyone with the link can join the room.'),
      field('Your name', this.#name),
      field('Room', this.#room),
      el('button', { type: 'submit', class: 'primary' }, 'Join'),
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#join();
    });
    this.#name.addEventListener('input', () => this.#show());
    const mirror = el(
      'div',
      { class: 'mirror' },
      this.#initials,
      this.#video,
      el('div', { class: 'toggles' }, this.#buttons.microphone, this.#buttons.camera),
    );
    this.element = el(
      'div',
      { class: 'lobby' },
      el('div', { class: 'preview' }, mirror, this.#problem),
      form,
    );
    for (const device of ['camera', 'microphone'] as const) {
      if (wanted[device]) void this.#open(device);
    }
    this.#show();
  }

  focus(): void {
    (this.#name.value === '' ? this.#name : this.#room).focus();
  }

  #join(): void {
    const roomId = this.#room.value.trim();
    if (roomId === '' || this.#done) {
      this.#room.focus();
      return;
    }
    this.#done = true;
    this.#video.srcObject = null;
    this.onJoin({
      settings: {
        ...this.settings,
        roomId,
        displayName: this.#name.value.trim(),
        microphone: this.#devices.wanted.microphone,
        camera: this.#devices.wanted.camera,
      },
      tracks: this.#devices.handOver(),
    });
  }

  #toggle(device: LobbyDevice): HTMLButtonElement {
    const button = el('button', { type: 'button', class: 'round' });
    button.addEventListener('click', () => {
      if (this.#devices.wanted[device]) {
        this.#devices.close(device);
      } else {
        this.#devices.wanted[device] = true;
        void this.#open(device);
      }
      this.#show();
    });
    return button;
  }

  async #open(device: LobbyDevice): Promise<void> {
    await this.#devices.open(device);
    if (!this.#done) this.#show();
  }

  #show(): void {
    const camera = this.#devices.tracks.get('camera');
    this.#problem.textContent = [...this.#devices.problems.values()].join(' ');
    const letters = initials(this.#name.value);
    this.#initials.replaceChildren(letters === '' ? icon('cameraOff') : letters);
    setAttribute(this.element, 'data-video', camera !== undefined);
    const shown =
      this.#video.srcObject instanceof MediaStream ? this.#video.srcObject.getTracks()[0] : undefined;
    if (shown !== camera) this.#video.srcObject = camera ? new MediaStream([camera]) : null;
    for (const device of ['microphone', 'camera'] as const) {
      dressToggle(this.#buttons[device], device, this.#devices.wanted[device]);
    }
  }
}

/** Icon, name and pressed state of a device's button. */
export function dressToggle(button: HTMLButtonElement, source: Source, on: boolean): void {
  const name: IconName = on || source === 'screen' ? source : `${source}Off`;
  const labels: Record<Source, [string, string]> = {
    microphone: ['Turn microphone off', 'Turn microphone on'],
    camera: ['Turn camera off', 'Turn camera on'],
    screen: ['Stop sharing your screen', 'Share your screen'],
  };
  const label = labels[source][on ? 0 : 1];
  button.replaceChildren(icon(source === 'screen' && on ? 'screenOff' : name));
  button.title = label;
  button.setAttribute('aria-label', label);
  setAttribute(button, 'data-off', !on && source !== 'screen');
  setAttribute(button, 'data-active', on && source === 'screen');
}

function input(name: string, value: string, autocomplete: string): HTMLInputElement {
  const element = el('input', { name, autocomplete, required: name === 'roomId', maxlength: 60 });
  element.value = value;
  return element;
}

function field(label: string, control: HTMLInputElement): HTMLElement {
  return el('label', { class: 'field' }, el('span', {}, label), control);
}
