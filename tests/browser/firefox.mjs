/**
 * Firefox and Chromium in one call: each sees and hears the other at 80% or more of the frame rate of a direct call
 * between them; mute, camera, leave, reload; Firefox's simulcast, layer by layer.
 * Options: netns (the second is Chromium's; Firefox runs where Node does, and needs a server that is not on loopback),
 * seconds, share.
 */
import { checkWatch, person } from './lib/browser.mjs';
import { controlCall } from './lib/control.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('firefox', async (context) => {
  const { netns = [], seconds = 5, share = 0.8 } = context.args;
  const camera = { width: 480, height: 360, fps: 15 };
  const [red, blue] = await Promise.all([
    person(context, 'red', { browser: 'firefox', ...camera }),
    person(context, 'blue', { netns: netns[1], ...camera }),
  ]);
  log('both browsers run');

  const before = await controlCall(red, blue, 3, camera);
  const room = `firefox-${Date.now()}`;
  await join(red, blue, room, { simulcast: '0' });
  log('both see and hear each other');
  const [atRed, atBlue] = await Promise.all([red.watch(blue, seconds), blue.watch(red, seconds)]);
  log(`Firefox: ${JSON.stringify(atRed)}`);
  log(`Chromium: ${JSON.stringify(atBlue)}`);
  const after = await controlCall(red, blue, 3, camera);
  // Other work on the machine comes and goes: the slower of the two is what it could do meanwhile.
  const controlFps = Math.min(before.fps, after.fps);
  check(
    controlFps > 4,
    `the control calls had only ${controlFps} frames/s: the machine is too busy to judge`,
  );
  checkWatch(red, blue, atRed, controlFps, share);
  checkWatch(blue, red, atBlue, controlFps, share);

  await join(red, blue, room, {});
  for (const [layer, width] of [240, 480].entries()) {
    await blue.prefersLayers(red, layer);
    await blue.until(
      `a picture ${width} wide`,
      (wanted) => window.probes.tile('red').querySelector('video').videoWidth === wanted,
      width,
      20_000,
    );
    await blue.sees(red);
    log(`Firefox's simulcast: ${width} wide when asked for`);
  }

  for (const [who, other] of [
    [red, blue],
    [blue, red],
  ]) {
    await who.press('Turn microphone off');
    await other.hearsNothingOf(who);
    await who.press('Turn microphone on');
    await other.hears(who);
  }
  log('mute: silence, and the tone again, both ways');
  await red.press('Turn camera off');
  await blue.seesNoVideoOf(red);
  await red.press('Turn camera on');
  await blue.sees(red);
  log('camera: off, and on again');

  await red.press('Leave');
  await blue.seesNobodyBut([]);
  await red.press('Join');
  await red.joined();
  await Promise.all([blue.sees(red), red.sees(blue)]);
  log('leave: gone, and back');
  await red.page.reload();
  await red.joined();
  await Promise.all([blue.sees(red), red.sees(blue), blue.hears(red), red.hears(blue)]);
  log('reload: picture and sound');
  return { controlFps, firefoxFps: atRed.fps, chromiumFps: atBlue.fps };
});

async function join(red, blue, room, options) {
  await Promise.all([red, blue].map((who) => who.join(room, options)));
  await Promise.all([red.sees(blue), blue.sees(red), red.hears(blue), blue.hears(red)]);
}
