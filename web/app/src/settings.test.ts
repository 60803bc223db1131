import { expect, it } from 'vitest';
import {
  type PageSettings,
  forgetCall,
  peerId,
  peerKey,
  readSettings,
  rememberCall,
  roomLink,
} from './settings';

class FakeStorage implements Storage {
  readonly #items = new Map<string, string>();
  get length() {
    return this.#items.size;
  }
  clear = () => this.#items.clear();
  getItem = (key: string) => this.#items.get(key) ?? null;
  key = (index: number) => [...this.#items.keys()][index] ?? null;
  removeItem = (key: string) => void this.#items.delete(key);
  setItem = (key: string, value: string) => void this.#items.set(key, value);
}

const read = (query: string, storage = new FakeStorage(), session = new FakeStorage()): PageSettings =>
  readSettings(new URL(`https://soup.example/${query}`), storage, session);

it('joins straight away only when asked to', () => {
  expect(read('?roomId=a&name=Ada').autojoin).toBe(false);
  expect(read('?roomId=a&name=Ada&autojoin=1')).toMatchObject({
    roomId: 'a',
    displayName: 'Ada',
    autojoin: true,
  });
});

it('goes back into the call after a reload, and not after leaving', () => {
  const [storage, session] = [new FakeStorage(), new FakeStorage()];
  rememberCall(read('?roomId=a&name=Ada'), storage, session);
  expect(read('?roomId=a', storage, session)).toMatchObject({ autojoin: true, displayName: 'Ada' });
  expect(read('?roomId=b', storage, session).autojoin).toBe(false);
  forgetCall(session);
  expect(read('?roomId=a', storage, session).autojoin).toBe(false);
});

it('keeps the peer id for the life of the tab', () => {
  const session = new FakeStorage();
  expect(peerId(session)).toBe(peerId(session));
  expect(peerId(session)).not.toBe(peerId(new FakeStorage()));
  expect(peerKey(session)).toBe(peerKey(session));
  expect(peerKey(session)).toMatch(/^[0-9a-f]{32}$/);
});

it('takes room, peer and name from a token, which only the server checks', () => {
  const part = (claims: unknown) =>
    btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(claims))))
      .replaceAll('+', '-')
      .replaceAll('/', '_')
      .replaceAll('=', '');
  const token = `x.${part({ room: '会議室', peer: 'ada', name: 'Ada', exp: 1 })}.y`;
  expect(read(`?token=${token}`)).toMatchObject({
    token,
    roomId: '会議室',
    peerId: 'ada',
    displayName: 'Ada',
  });
  for (const none of ['nonsense', 'x..y', `x.${part(7)}.y`, `x.${part({ peer: 7 })}.y`]) {
    expect(read(`?roomId=a&token=${none}`)).toMatchObject({ token: none, roomId: 'a' });
    expect(read(`?roomId=a&token=${none}`).peerId).toBeUndefined();
  }
  expect(read('?roomId=a')).not.toHaveProperty('token');
});

it('invents a room when the address names none', () => {
  expect(read('').roomId).toMatch(/^[a-z]+-[a-z]+-\d{3}$/);
});

it('hands out a link with the room and nothing personal', () => {
  const page = new URL('https://soup.example/call/?roomId=old&name=Ada&autojoin=1');
  expect(roomLink(page, 'miso & co')).toBe('https://soup.example/call/?roomId=miso+%26+co');
});

it('takes a codec and a layer structure from the address, and nothing else for one', () => {
  expect(read('?codec=VP9&scalability=L3T3_KEY').send).toEqual({
    simulcast: true,
    codec: 'vp9',
    scalabilityMode: 'L3T3_KEY',
  });
  expect(read('?simulcast=0&codec=theora&scalability=L9').send).toEqual({ simulcast: false });
});
