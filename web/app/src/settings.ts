/**
 * What the page is told by its address and what it remembers. The peer id lives in sessionStorage: a reload is the same
 * peer, which replaces its old self, and another tab is another one.
 */

import { type CameraOptions, VIDEO_CODECS } from '@tureen/client';

export interface PageSettings {
  roomId: string;
  /** What lets this page in where the server asks for one, and as whom. */
  token?: string;
  peerId?: string;
  displayName: string;
  autojoin: boolean;
  camera: boolean;
  microphone: boolean;
  /** How the camera is sent. */
  send: CameraOptions;
}

/** L1T3, S3T3, L3T3_KEY and their like. */
const LAYER_STRUCTURE = /^[LS][1-3]T[1-3](h|h_KEY|_KEY|_KEY_SHIFT)?$/;

const PEER_ID = 'tureen.peerId';
const PEER_KEY = 'tureen.peerKey';
const IN_CALL = 'tureen.inCall';
const NAME = 'tureen.displayName';

const ADJECTIVES = [
  'amber',
  'brisk',
  'calm',
  'golden',
  'hearty',
  'mellow',
  'quiet',
  'silver',
  'velvet',
  'warm',
];
const SOUPS = ['barley', 'bisque', 'borscht', 'laksa', 'lentil', 'miso', 'pho', 'potage', 'ramen', 'shorba'];

export function readSettings(address: URL, storage: Storage, session: Storage): PageSettings {
  const query = address.searchParams;
  const token = query.get('token');
  const claims = claimsOf(token);
  const roomId = query.get('roomId')?.trim() ?? claims.room ?? '';
  const on = (name: string) => query.get(name) !== '0';
  return {
    roomId: roomId === '' ? inventRoom() : roomId,
    ...(token === null ? {} : { token }),
    ...(claims.peer === undefined ? {} : { peerId: claims.peer }),
    displayName: claims.name ?? query.get('name') ?? storage.getItem(NAME) ?? '',
    // A reload during a call goes straight back into it.
    autojoin: query.get('autojoin') === '1' || (roomId !== '' && session.getItem(IN_CALL) === roomId),
    camera: on('camera'),
    microphone: on('microphone'),
    send: { simulcast: on('simulcast'), ...codecChoice(query) },
  };
}

/** What a token says, unchecked: the server does that. */
function claimsOf(token: string | null): { room?: string; peer?: string; name?: string } {
  try {
    const base64 = (token?.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    const texts = ['room', 'peer', 'name'].filter((name) => typeof claims[name] === 'string');
    return Object.fromEntries(texts.map((name) => [name, claims[name] as string]));
  } catch {
    return {};
  }
}

/** `codec=vp9&scalability=L3T3_KEY`; what is no codec, or no name of a layer structure, counts as left out. */
function codecChoice(query: URLSearchParams): Pick<CameraOptions, 'codec' | 'scalabilityMode'> {
  const codec = VIDEO_CODECS.find((name) => name === query.get('codec')?.toLowerCase());
  const scalabilityMode = query.get('scalability');
  return {
    ...(codec === undefined ? {} : { codec }),
    ...(scalabilityMode !== null && LAYER_STRUCTURE.test(scalabilityMode) ? { scalabilityMode } : {}),
  };
}

export function peerId(session: Storage): string {
  return keptRandom(session, PEER_ID, 10);
}

/** The secret that keeps others, who all know the peer id, from taking this peer's place. */
export function peerKey(session: Storage): string {
  return keptRandom(session, PEER_KEY, 16);
}

/** So many random bytes in hexadecimal, the same for the life of the tab. */
function keptRandom(session: Storage, name: string, length: number): string {
  const known = session.getItem(name);
  if (known !== null) return known;
  // Not randomUUID: it is missing on pages without HTTPS.
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  const text = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  session.setItem(name, text);
  return text;
}

export function rememberCall(settings: PageSettings, storage: Storage, session: Storage): void {
  storage.setItem(NAME, settings.displayName);
  session.setItem(IN_CALL, settings.roomId);
}

export function forgetCall(session: Storage): void {
  session.removeItem(IN_CALL);
}

/** The address to hand to others: the room and nothing personal. */
export function roomLink(address: URL, roomId: string): string {
  const link = new URL(address.pathname, address);
  link.search = new URLSearchParams({ roomId }).toString();
  return link.href;
}

function inventRoom(): string {
  const [a = 0, b = 0, c = 0] = crypto.getRandomValues(new Uint16Array(3));
  const number = (c % 900) + 100;
  return `${ADJECTIVES[a % ADJECTIVES.length] ?? 'warm'}-${SOUPS[b % SOUPS.length] ?? 'miso'}-${number}`;
}
