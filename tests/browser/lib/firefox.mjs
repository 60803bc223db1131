/**
 * Firefox as a person's browser, driven over WebDriver BiDi (puppeteer, which drives Debian's own build; Playwright wants
 * one of its own). The page answers to the few calls of Playwright's that `Person` makes.
 *
 * The microphone is Firefox's own fake, tuned to the voice. Its fake camera shows no colour that stays, so that is
 * opened as any page would open it and then exchanged for a painted one.
 */
import { existsSync } from 'node:fs';
import puppeteer from 'puppeteer-core';
import { VOICES } from './fakes.mjs';
import { check, log } from './scenario.mjs';

const CANDIDATES = [process.env.TUREEN_FIREFOX, '/usr/bin/firefox-esr', '/usr/bin/firefox'];

const PREFS = {
  'media.navigator.streams.fake': true,
  'media.navigator.permission.disabled': true,
  'media.autoplay.default': 0,
  // A machine without a sound card: Web Audio, with which the page's ears listen, waits for one for ever.
  'media.cubeb.force_mock_context': true,
  // A test's network knows neither HTTPS nor names of the local link.
  'media.devices.insecure.enabled': true,
  'media.getusermedia.insecure.enabled': true,
  'media.peerconnection.ice.obfuscate_host_addresses': false,
};

/** Starts a Firefox for this voice, in this process' own network namespace: it is driven over a socket. */
export async function firefox(context, voice, camera = {}) {
  const executablePath = CANDIDATES.find((path) => path && existsSync(path));
  check(executablePath, 'no Firefox found: apt-get install firefox-esr, or set TUREEN_FIREFOX');
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath,
    extraPrefsFirefox: { ...PREFS, 'media.navigator.audio.fake_frequency': VOICES[voice].hertz },
  });
  context.onEnd(() => browser.close());
  const page = await browser.newPage();
  await page.setViewport({ width: 900, height: 600 });
  page.on('pageerror', (error) => log(`${voice}: page error: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error') log(`${voice}: ${message.text()}`);
  });
  await page.evaluateOnNewDocument(paintCamera, VOICES[voice].rgb, camera);
  return { browser, page: new FirefoxPage(page) };
}

class FirefoxPage {
  #page;

  constructor(page) {
    this.#page = page;
  }

  addInitScript(script) {
    return this.#page.evaluateOnNewDocument(script);
  }

  goto(url) {
    return this.#page.goto(url);
  }

  reload() {
    return this.#page.reload();
  }

  evaluate(script, argument) {
    return this.#page.evaluate(script, argument);
  }

  waitForFunction(script, argument, options) {
    return this.#page.waitForFunction(script, options, argument);
  }

  getByRole(role, { name }) {
    return {
      click: async ({ timeout }) => {
        const find = (wanted, tag) =>
          [...document.querySelectorAll(tag)].find(
            (element) =>
              (element.getAttribute('aria-label') ?? element.textContent.trim()) === wanted &&
              !element.disabled,
          );
        const handle = await this.#page.waitForFunction(find, { timeout }, name, role);
        await handle.asElement().click();
      },
    };
  }
}

/** In the page: every camera that is opened becomes a canvas of this colour, with the bar that wanders. */
function paintCamera(rgb, { width = 640, height = 480, fps = 20 }) {
  const paint = () => {
    const canvas = document.createElement('canvas');
    Object.assign(canvas, { width, height });
    const brush = canvas.getContext('2d');
    const [track] = canvas.captureStream(fps).getVideoTracks();
    let frame = 0;
    const timer = setInterval(() => {
      if (track.readyState === 'ended') clearInterval(timer);
      brush.fillStyle = `rgb(${rgb})`;
      brush.fillRect(0, 0, width, height);
      brush.fillStyle = 'white';
      brush.fillRect(((frame++ % 30) * (width * 0.9)) / 30, 0, width / 10, height / 2);
    }, 1000 / fps);
    return track;
  };
  const devices = navigator.mediaDevices;
  if (!devices) return;
  const open = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (constraints) => {
    const stream = await open(constraints);
    for (const track of stream.getVideoTracks()) {
      stream.removeTrack(track);
      track.stop();
      stream.addTrack(paint());
    }
    return stream;
  };
}
