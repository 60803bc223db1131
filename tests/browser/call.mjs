/**
 * Two people, each of one colour and one tone: they see and hear each other for ten seconds at 80% or more of the
 * frame rate of a direct call between the same browsers; then mute, camera off and on, screen, leave, reload.
 * Options: netns (one for each browser), seconds, share.
 */
import { checkWatch, person } from './lib/browser.mjs';
import { controlCall } from './lib/control.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('call', async (context) => {
  const { netns = [], seconds = 10, share = 0.8 } = context.args;
  const red = await person(context, 'red', { netns: netns[0] });
  const blue = await person(context, 'blue', { netns: netns[1] });

  const before = await controlCall(red, blue, 5);
  const room = `call-${Date.now()}`;
  await joinBoth(red, blue, room);
  log('both see and hear each other');
  const [atRed, atBlue] = await Promise.all([red.watch(blue, seconds), blue.watch(red, seconds)]);
  log(`red: ${JSON.stringify(atRed)}`);
  log(`blue: ${JSON.stringify(atBlue)}`);
  const after = await controlCall(red, blue, 5);

  // Other work on the machine comes and goes: the slower of the two is what it could do meanwhile.
  const controlFps = Math.min(before.fps, after.fps);
  check(
    controlFps > 5,
    `the control calls had only ${controlFps} frames/s: the machine is too busy to judge`,
  );
  checkWatch(red, blue, atRed, controlFps, share);
  checkWatch(blue, red, atBlue, controlFps, share);

  await joinBoth(red, blue, room);
  await red.press('Turn microphone off');
  await blue.hearsNothingOf(red);
  await red.press('Turn microphone on');
  await blue.hears(red);
  log('mute: silence, and the tone again');

  await red.press('Turn camera off');
  await blue.seesNoVideoOf(red);
  await red.press('Turn camera on');
  await blue.sees(red);
  log('camera: off, and on again');

  await shareScreen(red, blue);
  log('screen: shown, and gone');

  await red.press('Leave');
  await blue.seesNobodyBut([]);
  await red.press('Join');
  await red.joined();
  await Promise.all([blue.sees(red), red.sees(blue)]);
  log('leave: gone, and back');

  const reloaded = await red.peerId();
  await red.page.reload();
  await red.joined();
  check((await red.peerId()) === reloaded, 'a reload made another peer');
  await blue.seesNobodyBut([red]);
  await Promise.all([blue.sees(red), red.sees(blue), blue.hears(red), red.hears(blue)]);
  log('reload: the same peer, with picture and sound');

  return { controlFps, redFps: atRed.fps, blueFps: atBlue.fps, red: atRed, blue: atBlue };
});

async function joinBoth(first, second, room) {
  await Promise.all([first, second].map((who) => who.join(room, { simulcast: '0' })));
  await Promise.all([first.sees(second), second.sees(first), first.hears(second), second.hears(first)]);
}

/** Chromium's fake screen is a picture that changes; it must arrive, move, and go. */
async function shareScreen(sharer, viewer) {
  await sharer.press('Share your screen');
  await viewer.until(
    `sees ${sharer.voice}'s screen`,
    (name) => {
      const video = window.probes.tile(name, 'screen')?.querySelector('video');
      const data = window.probes.pixels(video);
      return data !== undefined && data.some((value, index) => index % 4 < 3 && value > 60);
    },
    sharer.voice,
  );
  const frames = await viewer.page.evaluate(
    (name) =>
      new Promise((resolve) => {
        const video = window.probes.tile(name, 'screen').querySelector('video');
        let count = 0;
        const onFrame = () => (++count === 10 ? resolve(count) : video.requestVideoFrameCallback(onFrame));
        video.requestVideoFrameCallback(onFrame);
        setTimeout(() => resolve(count), 10_000);
      }),
    sharer.voice,
  );
  check(frames === 10, `${sharer.voice}'s screen showed ${frames} frames in 10 s`);
  await sharer.press('Stop sharing your screen');
  await viewer.until(
    `sees that ${sharer.voice}'s screen is gone`,
    (name) => window.probes.tile(name, 'screen') === undefined,
    sharer.voice,
  );
}
