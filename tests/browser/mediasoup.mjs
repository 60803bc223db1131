/**
 * The drop-in: an application on mediasoup's own npm package, whose worker is ours by MEDIASOUP_WORKER_BIN, carries a
 * call of two browsers on mediasoup-client: picture, sound, simulcast layers, mute, leave.
 * Options: workerBin and packages (where mediasoup is installed) **needed**; seconds.
 */
import { readlink } from 'node:fs/promises';
import { checkWatch, person } from './lib/browser.mjs';
import { startApp } from './lib/mediasoup-app.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('mediasoup', async (context) => {
  const { workerBin, packages, seconds = 4 } = context.args;
  const app = await startApp({ packages, workerBin, onEnd: context.onEnd });
  const program = await readlink(`/proc/${app.worker.pid}/exe`);
  check(program === workerBin, `the worker is ${program}, not ${workerBin}`);
  log(`mediasoup ${app.version} with ${program}`);

  const there = { ...context, url: app.url };
  const [red, blue] = await Promise.all([
    person(there, 'red', { width: 1280, height: 720, fps: 15 }),
    person(there, 'blue', { width: 320, height: 240, fps: 15 }),
  ]);
  const room = `mediasoup-${Date.now()}`;
  await Promise.all([red.join(room), blue.join(room, { simulcast: '0' })]);
  await Promise.all([red.sees(blue), blue.sees(red), red.hears(blue), blue.hears(red)]);
  log('both see and hear each other');
  const [atRed, atBlue] = await Promise.all([red.watch(blue, seconds), blue.watch(red, seconds)]);
  // What arrives and moves; how fast, the call scenario judges.
  checkWatch(red, blue, atRed, 2);
  checkWatch(blue, red, atBlue, 2);

  for (const [layer, width] of [
    [0, 320],
    [1, 640],
  ]) {
    await blue.prefersLayers(red, layer, 2);
    await blue.until(
      `a picture ${width} wide`,
      (wanted) => window.probes.tile('red').querySelector('video').videoWidth === wanted,
      width,
      20_000,
    );
    await blue.sees(red);
    log(`simulcast: ${width} wide when asked for`);
  }
  await red.press('Turn microphone off');
  await blue.hearsNothingOf(red);
  await red.press('Turn microphone on');
  await blue.hears(red);
  await red.press('Leave');
  await blue.seesNobodyBut([]);
  log('mute and leave');
  const dump = await app.worker.dump();
  check(dump.routerIds.length === 1, `one room, one router: ${JSON.stringify(dump)}`);
  return { mediasoup: app.version, redFps: atRed.fps, blueFps: atBlue.fps };
});
