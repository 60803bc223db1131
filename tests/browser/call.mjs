/**
 * Two people, each of one colour and one tone: they see and hear each other for ten seconds at 80% or more of the
 * frame rate of a direct call between the same browsers; then mute, camera off and on, screen, leave, reload.
 * Options: netns (one for each browser), seconds, share.
 */
import { person } from './lib/browser.mjs';
import {
  cameraOffAndOn,
  comparedCall,
  joinBoth,
  leaveAndReturn,
  muteAndUnmute,
  reload,
} from './lib/call.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('call', async (context) => {
  const { netns = [], seconds = 10, share = 0.8 } = context.args;
  const red = await person(context, 'red', { netns: netns[0] });
  const blue = await person(context, 'blue', { netns: netns[1] });

  const room = `call-${Date.now()}`;
  const { controlFps, atFirst, atSecond } = await comparedCall(red, blue, room, { seconds, share });

  await joinBoth(red, blue, room, { simulcast: '0' });
  await muteAndUnmute(red, blue);
  await cameraOffAndOn(red, blue);
  await shareScreen(red, blue);
  log('screen: shown, and gone');
  await leaveAndReturn(red, blue);
  await reload(red, blue);

  return { controlFps, redFps: atFirst.fps, blueFps: atSecond.fps, red: atFirst, blue: atSecond };
});

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
