/** One person: a Chromium (or Firefox) of its own with its own colour and tone, in the network namespace it is told. */
import { chmod, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { firefox } from './firefox.mjs';
import { VOICES, writeTone, writeVideo } from './fakes.mjs';
import { probes } from './probes.mjs';
import { check, log } from './scenario.mjs';

const CANDIDATES = [
  process.env.TUREEN_CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
];

/** What every Chromium of a test is started with. */
export const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--autoplay-policy=no-user-gesture-required',
  '--use-fake-ui-for-media-stream',
  '--use-fake-device-for-media-stream',
  '--allow-loopback-in-peer-connection',
];

/**
 * Starts a person of this voice (`red`, `blue`, …). `context` is scenario()'s: folder, url, onEnd.
 * Options: browser (`chromium` or `firefox`), netns; width, height, fps of the camera;
 * write, what films for Chromium (writeVideo or writeScene).
 */
export async function person(context, voice, { browser: kind = 'chromium', ...options } = {}) {
  const { browser, page } = await (kind === 'firefox' ? firefox : chromiumOf)(context, voice, options);
  await page.addInitScript(probes);
  return new Person(voice, browser, page, context.url);
}

async function chromiumOf({ folder, url, onEnd }, voice, { netns, write = writeVideo, ...camera }) {
  const video = join(folder, `${voice}.y4m`);
  const tone = join(folder, `${voice}.wav`);
  if (!existsSync(video)) await write(video, VOICES[voice].rgb, camera);
  if (!existsSync(tone)) await writeTone(tone, VOICES[voice].hertz);
  const browser = await chromium.launch({
    executablePath: await executable(folder, netns),
    args: [
      ...FLAGS,
      `--use-file-for-fake-video-capture=${video}`,
      `--use-file-for-fake-audio-capture=${tone}`,
      `--unsafely-treat-insecure-origin-as-secure=${new URL(url).origin}`,
    ],
  });
  onEnd(() => browser.close());
  const page = await browser.newPage({ ignoreHTTPSErrors: true, viewport: { width: 900, height: 600 } });
  page.on('pageerror', (error) => log(`${voice}: page error: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error') log(`${voice}: ${message.text()}`);
  });
  return { browser, page };
}

export class Person {
  constructor(voice, browser, page, url) {
    this.voice = voice;
    this.browser = browser;
    this.page = page;
    this.url = url;
  }

  /** Opens the page and joins without a click. Further query parameters by `options`. */
  async join(roomId, options = {}) {
    const query = new URLSearchParams({ roomId, name: this.voice, autojoin: '1', ...options });
    await this.page.goto(`${this.url.replace(/\/$/, '')}/?${query}`);
    await this.joined();
  }

  async joined(deadlineMs = 15_000) {
    await this.#wait('joined', () => window.tureen?.state === 'joined', undefined, deadlineMs);
  }

  /** The id under which the others know this person. */
  peerId() {
    return this.page.evaluate(() => window.tureen.call.peerId);
  }

  /** By which protocol (`udp`, `tcp`) each connected transport's media goes. */
  protocols() {
    return this.page.evaluate(async () =>
      (await window.probes.selectedPairs()).map(({ remote }) => remote.protocol),
    );
  }

  /** Waits until `other`'s colour is on this person's screen. */
  async sees(other, deadlineMs = 15_000) {
    await this.#wait(
      `sees ${other.voice}`,
      ({ name, rgb }) => window.probes.shows(name, rgb),
      { name: other.voice, rgb: VOICES[other.voice].rgb },
      deadlineMs,
    );
  }

  /** Waits until `other`'s picture is so many pixels wide; `fits`, for as many at most; `atLeast`, for that or more. */
  async seesWide(other, width, { how = 'exactly', deadlineMs = 20_000 } = {}) {
    await this.#wait(
      `sees ${other.voice} ${how} ${width} wide`,
      ({ name, wanted, by }) => {
        const { videoWidth = 0 } = window.probes.tile(name)?.querySelector('video') ?? {};
        if (by === 'atLeast') return videoWidth >= wanted;
        if (by === 'fits') return videoWidth > 0 && videoWidth <= wanted;
        return videoWidth === wanted;
      },
      { name: other.voice, wanted: width, by: how },
      deadlineMs,
    );
  }

  /** Waits until `other`'s tile shows no picture. */
  async seesNoVideoOf(other) {
    await this.#wait(
      `sees that ${other.voice}'s camera is off`,
      (name) => {
        const tile = window.probes.tile(name);
        return tile !== undefined && !tile.hasAttribute('data-video');
      },
      other.voice,
    );
  }

  async seesNobodyBut(names) {
    const voices = names.map(({ voice }) => voice).sort();
    await this.#wait(
      `is with [${voices}] only`,
      (wanted) => JSON.stringify(window.tureen.peers.map((peer) => peer.displayName).sort()) === wanted,
      JSON.stringify(voices),
    );
  }

  async hears(other, deadlineMs = 15_000) {
    await this.#wait(
      `hears ${other.voice}`,
      ({ name, hertz }) => window.probes.hears(name, hertz),
      { name: other.voice, hertz: VOICES[other.voice].hertz },
      deadlineMs,
    );
  }

  async hearsNothingOf(other) {
    await this.#wait(`hears nothing of ${other.voice}`, (name) => window.probes.silent(name), other.voice);
  }

  /** Watches `other` for `seconds`: colour and tone samples, movement, frames per second. */
  watch(other, seconds) {
    return this.page.evaluate(({ name, voice, ms }) => window.probes.watch(name, voice, ms), {
      name: other.voice,
      voice: VOICES[other.voice],
      ms: seconds * 1000,
    });
  }

  /** Asks the server for at most these layers of `other`'s camera. */
  prefersLayers(other, spatialLayer, temporalLayer) {
    return this.page.evaluate(
      ({ name, spatial, temporal }) => {
        const { call, peers } = window.tureen;
        const { id } = peers.find(({ displayName }) => displayName === name);
        const consumer = call.consumers().find(({ peerId, source }) => peerId === id && source === 'camera');
        return call.setPreferredLayers(consumer.id, spatial, temporal);
      },
      { name: other.voice, spatial: spatialLayer, temporal: temporalLayer },
    );
  }

  /** Presses a button of the toolbar by its label. */
  async press(label) {
    await this.page.getByRole('button', { name: label, exact: true }).click({ timeout: 5_000 });
  }

  async #wait(what, probe, argument, deadlineMs = 10_000) {
    try {
      await this.page.waitForFunction(probe, argument, { timeout: deadlineMs, polling: 50 });
    } catch (error) {
      const state = await this.page.evaluate(() => window.probes?.describe()).catch(() => 'page is gone');
      throw new Error(`${this.voice}: ${what}: not within ${deadlineMs} ms (${error.name}); page: ${state}`);
    }
  }

  /** As `#wait`, for conditions of one scenario only. */
  until(what, probe, argument, deadlineMs) {
    return this.#wait(what, probe, argument, deadlineMs);
  }
}

/** Throws when a watch() was not a real call. `controlFps` is what the browsers manage without a server. */
export function checkWatch(who, other, seen, controlFps, share = 0.8) {
  const what = `${who.voice} watching ${other.voice}`;
  check(seen.samples > 0, `${what}: no samples`);
  check(
    seen.colour >= 0.95,
    `${what}: only ${seen.colour} of the samples had the colour; last was ${seen.lastRgb}`,
  );
  check(seen.moved >= 0.8, `${what}: the picture stood still in ${1 - seen.moved} of the samples`);
  check(
    seen.tone >= 0.5,
    `${what}: the tone was in ${seen.tone} of the samples; last peak ${seen.lastHertz} Hz`,
  );
  check(
    seen.fps >= controlFps * share,
    `${what}: ${seen.fps} frames/s, the control call had ${controlFps} (${share} of it are asked for)`,
  );
}

/** The program, or a script that starts it in a network namespace. */
export async function executable(folder, netns) {
  const found = CANDIDATES.find((path) => path && existsSync(path));
  check(found, 'no Chromium found: apt-get install chromium, or set TUREEN_CHROMIUM');
  if (!netns) return found;
  const script = join(folder, `chromium-in-${netns}`);
  await writeFile(script, `#!/bin/sh\nexec ip netns exec '${netns}' '${found}' "$@"\n`);
  await chmod(script, 0o755);
  return script;
}
