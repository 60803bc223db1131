/**
 * The media node of a call is drained: the call goes to another node, and nobody's picture stands still for it.
 * The test drains when this says `{"drain": true}`, and answers when the node is empty.
 * Options: seconds (4) before and after, leewayMs (200) that a gap may be longer than without a drain; otherUrl, by which
 * the second comes in; inSession, if all is to happen without a new join.
 */
import { person } from './lib/browser.mjs';
import { joinBoth, muteAndUnmute, seeAndHearEachOther } from './lib/call.mjs';
import { longestGap, noteFrames, watchGaps } from './lib/gaps.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('drain', async (context) => {
  const { seconds = 4, leewayMs = 200, otherUrl = context.url, inSession = false } = context.args;
  // While peers migrate, each browser encodes and decodes everything twice: a small picture, so that what is measured is the server.
  const camera = { width: 320, height: 240, fps: 15 };
  const red = await person(context, 'red', camera);
  const blue = await person({ ...context, url: otherUrl }, 'blue', camera);
  const pair = [red, blue];
  const room = `drain-${Date.now()}`;
  await joinBoth(red, blue, room, { simulcast: '0' });
  await Promise.all([noteFrames(red, blue), noteFrames(blue, red)]);
  const consumers = () =>
    Promise.all(
      pair.map(({ page }) => page.evaluate(() => window.tureen.call.consumers().map(({ id }) => id))),
    );
  const old = (await consumers()).flat();
  for (const { page } of pair) {
    await page.evaluate(() => {
      window.left = [];
      window.tureen.call.on('state', (state) => state !== 'joined' && window.left.push(state));
    });
  }
  const before = await watchGaps(pair, seconds);
  log(`before: ${JSON.stringify(before)}`);

  context.tell({ drain: true, room });
  await context.heard();
  const during = await Promise.all(pair.map(longestGap));
  const duringMs = Math.max(...during.map(({ longestMs }) => longestMs));
  const after = await watchGaps(pair, seconds);
  const controlMs = Math.max(before.longestMs, after.longestMs);
  log(`longest gap ${duringMs} ms, ${controlMs} ms undisturbed`);
  await seeAndHearEachOther(red, blue);
  await muteAndUnmute(red, blue);
  const now = (await consumers()).flat();
  check(now.length === old.length && now.every((id) => !old.includes(id)), `the call did not move: ${now}`);
  check(
    duringMs <= controlMs + leewayMs,
    `pictures stood still for ${duringMs} ms, undisturbed for ${controlMs}`,
  );
  const left = (await Promise.all(pair.map(({ page }) => page.evaluate(() => window.left)))).flat();
  check(!inSession || left.length === 0, `somebody had to join again: ${left}`);
  return { duringMs, controlMs, frames: Math.min(before.frames, after.frames) };
});
