import { afterEach, expect, it, vi } from 'vitest';
import { BrowserDevices, DeviceError } from './devices';

afterEach(() => vi.unstubAllGlobals());

function browserWith(getUserMedia: () => Promise<MediaStream>): void {
  vi.stubGlobal('navigator', { mediaDevices: { getUserMedia } });
}

const failing = (name: string) => () => Promise.reject(Object.assign(new Error('no'), { name }));

it.each([
  ['NotAllowedError', 'refused'],
  ['NotFoundError', 'missing'],
  ['NotReadableError', 'busy'],
  ['TypeError', 'unknown'],
])('explains %s as %s', async (name, reason) => {
  browserWith(failing(name));
  const error: unknown = await new BrowserDevices().open('camera').catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(DeviceError);
  expect(error).toMatchObject({ reason, source: 'camera' });
});

it('says that a page without HTTPS gets no devices', async () => {
  vi.stubGlobal('navigator', {});
  await expect(new BrowserDevices().open('microphone')).rejects.toMatchObject({ reason: 'insecure' });
});
