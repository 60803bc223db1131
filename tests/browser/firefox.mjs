/**
 * Firefox and Chromium in one call: each sees and hears the other at 80% or more of the frame rate of a direct call
 * between them; mute, camera, leave, reload; Firefox's simulcast, layer by layer.
 * Options: netns (the second is Chromium's; Firefox runs where Node does, and needs a server that is not on loopback),
 * seconds, share.
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
import { log, scenario } from './lib/scenario.mjs';

await scenario('firefox', async (context) => {
  const { netns = [], seconds = 5, share = 0.8 } = context.args;
  const camera = { width: 480, height: 360, fps: 15 };
  const [red, blue] = await Promise.all([
    person(context, 'red', { browser: 'firefox', ...camera }),
    person(context, 'blue', { netns: netns[1], ...camera }),
  ]);
  log('both browsers run');

  const room = `firefox-${Date.now()}`;
  const compared = { seconds, share, camera, controlSeconds: 3, idleFps: 4 };
  const { controlFps, atFirst, atSecond } = await comparedCall(red, blue, room, compared);

  await joinBoth(red, blue, room);
  for (const [layer, width] of [240, 480].entries()) {
    await blue.prefersLayers(red, layer);
    await blue.seesWide(red, width);
    await blue.sees(red);
    log(`Firefox's simulcast: ${width} wide when asked for`);
  }

  await muteAndUnmute(red, blue);
  await muteAndUnmute(blue, red);
  await cameraOffAndOn(red, blue);
  await leaveAndReturn(red, blue);
  await reload(red, blue);
  return { controlFps, firefoxFps: atFirst.fps, chromiumFps: atSecond.fps };
});
