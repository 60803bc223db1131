/**
 * The drop-in: an application on mediasoup's own npm package, whose worker is ours by MEDIASOUP_WORKER_BIN, carries a
 * call of two browsers on mediasoup-client: picture, sound, simulcast layers, mute, leave.
 * Options: workerBin and packages (where mediasoup is installed) **needed**; seconds.
 */
import { readlink } from 'node:fs/promises';
import { person } from './lib/browser.mjs';
import { muteAndUnmute, seeAndHearEachOther, watchEachOther } from './lib/call.mjs';
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
  await seeAndHearEachOther(red, blue);
  log('both see and hear each other');
  // That it arrives and moves; how fast, the call scenario judges.
  const { atFirst, atSecond } = await watchEachOther(red, blue, seconds, 1.6);

  for (const [layer, width] of [
    [0, 320],
    [1, 640],
  ]) {
    await blue.prefersLayers(red, layer, 2);
    await blue.seesWide(red, width);
    await blue.sees(red);
    log(`simulcast: ${width} wide when asked for`);
  }
  await muteAndUnmute(red, blue);
  await red.press('Leave');
  await blue.seesNobodyBut([]);
  log('left');
  const dump = await app.worker.dump();
  check(dump.routerIds.length === 1, `one room, one router: ${JSON.stringify(dump)}`);
  return { mediasoup: app.version, redFps: atFirst.fps, blueFps: atSecond.fps };
});
