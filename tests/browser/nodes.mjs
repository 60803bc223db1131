/**
 * Two people in one room who came in through different nodes, as the test arranges it between the two joins: they see and hear
 * each other; again after the test has killed the node of the second.
 * Options: room **needed**, seconds.
 */
import { person } from './lib/browser.mjs';
import { seeAndHearEachOther, watchEachOther } from './lib/call.mjs';
import { log, scenario } from './lib/scenario.mjs';

await scenario('nodes', async (context) => {
  const { room, seconds = 4 } = context.args;
  const camera = { width: 320, height: 240, fps: 15 };
  const red = await person(context, 'red', camera);
  const blue = await person(context, 'blue', camera);
  await red.join(room, { simulcast: '0' });
  context.tell({ joined: 'red' });
  await context.heard();
  await blue.join(room, { simulcast: '0' });
  await seeAndHearEachOther(red, blue);
  const { atFirst, atSecond } = await watchEachOther(red, blue, seconds, 4);
  context.tell({ joined: 'blue' });

  await context.heard();
  log("blue's node is gone");
  await blue.joined();
  await seeAndHearEachOther(red, blue);
  const after = await watchEachOther(red, blue, seconds, 4);
  return {
    redFps: atFirst.fps,
    blueFps: atSecond.fps,
    redFpsAfter: after.atFirst.fps,
    blueFpsAfter: after.atSecond.fps,
  };
});
