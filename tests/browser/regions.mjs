/**
 * Three people in one room: two whose media is on a node of the first region, and one whose media is on an edge in the second. All
 * see and hear each other. Then the edge is killed: who was there comes back by itself, and nobody else's picture of others stands still.
 * The test kills the node when this says `{"kill": true}`, and answers when it is dead.
 * Options: room and far, the page's address in the second region, **needed**; seconds (4) before and after; limitMs (3000) until
 * the third sees new frames; leewayMs (200) that another's gap may be longer than undisturbed.
 */
import { person } from './lib/browser.mjs';
import { joinBoth, seeAndHearEachOther } from './lib/call.mjs';
import { longestGap, noteFrames, watchGaps } from './lib/gaps.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('regions', async (context) => {
  const { room, far, seconds = 4, limitMs = 3000, leewayMs = 200 } = context.args;
  check(room && far, 'regions needs a room, and the address of the page in the second region');
  const camera = { width: 320, height: 240, fps: 15 };
  const red = await person(context, 'red', camera);
  const green = await person(context, 'green', camera);
  const blue = await person({ ...context, url: far }, 'blue', camera);
  await joinBoth(red, green, room, { simulcast: '0' });
  await blue.join(room, { simulcast: '0' });
  await Promise.all([seeAndHearEachOther(red, blue), seeAndHearEachOther(green, blue)]);
  log('all see and hear each other, across two regions');

  await Promise.all([noteFrames(red, green), noteFrames(green, red), noteFrames(blue, red)]);
  const near = [red, green];
  const before = await watchGaps([...near, blue], seconds);
  log(`before: ${JSON.stringify(before)}`);
  const old = await blue.page.evaluate(consumers);

  context.tell({ kill: true });
  await context.heard();
  await blue.until(
    'is back with new consumers',
    (old) => {
      const { state, call } = window.tureen;
      const now = call.consumers().map(({ id }) => id);
      return state === 'joined' && now.length === old.length && now.every((id) => !old.includes(id));
    },
    old,
    15_000,
  );
  await Promise.all([seeAndHearEachOther(red, blue), seeAndHearEachOther(green, blue)]);
  // Of an outage, the gap ends with the first new frame; it is still under way where none has come.
  const back = await longestGap(blue);
  const others = Math.max(...(await Promise.all(near.map(longestGap))).map(({ longestMs }) => longestMs));
  const after = await watchGaps([...near, blue], seconds);
  const controlMs = Math.max(before.longestMs, after.longestMs);
  log(
    `blue was without a picture for ${back.longestMs} ms; the others' ${others} ms, ${controlMs} undisturbed`,
  );
  check(back.longestMs <= limitMs, `blue was back after ${back.longestMs} ms, ${limitMs} are allowed`);
  check(
    others <= controlMs + leewayMs,
    `others' pictures stood still for ${others} ms, ${controlMs} undisturbed`,
  );
  check(after.frames > seconds, `only ${after.frames} frames in ${seconds} s afterwards`);
  return {
    backMs: back.longestMs,
    othersMs: others,
    controlMs,
    frames: Math.min(before.frames, after.frames),
  };
});

/** In the page. */
function consumers() {
  return window.tureen.call.consumers().map(({ id }) => id);
}
