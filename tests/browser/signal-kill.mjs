/**
 * The signal node that leads a call's clients to their room is killed. Their pictures go on without a gap, and their
 * requests are answered again, by another node, for the same session.
 * The test kills the node when this says `{"kill": true}`, and answers with the time.
 * Options: seconds (4) before and after, limitMs (1000) until requests are answered.
 */
import { person } from './lib/browser.mjs';
import { joinBoth } from './lib/call.mjs';
import { noteFrames, watchGaps, longestGap } from './lib/gaps.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

/** What a gap may be longer than without the kill: the machine is busy restarting connections. */
const LEEWAY_MS = 200;

await scenario('signal-kill', async (context) => {
  const { seconds = 4, limitMs = 1000 } = context.args;
  const red = await person(context, 'red');
  const blue = await person(context, 'blue');
  const pair = [red, blue];
  await joinBoth(red, blue, `signal-kill-${Date.now()}`, { simulcast: '0' });
  await Promise.all([noteFrames(red, blue), noteFrames(blue, red)]);
  for (const who of pair) await who.page.evaluate(remember);
  const before = await watchGaps(pair, seconds);
  log(`before: ${JSON.stringify(before)}`);

  context.tell({ kill: true });
  const { killed } = await context.heard();
  // Asked of a dead node, answered by another.
  const answered = await Promise.all(pair.map((who) => who.page.evaluate(ask)));
  const backMs = Math.max(...answered) - killed;
  log(`requests are answered ${backMs} ms after the kill`);
  // What is said to the others arrives, too.
  await red.press('Turn microphone off');
  await blue.hearsNothingOf(red);
  await red.press('Turn microphone on');
  await Promise.all([blue.hears(red), red.hears(blue)]);
  const during = await Promise.all(pair.map(longestGap));
  const duringMs = Math.max(...during.map(({ longestMs }) => longestMs));
  const after = await watchGaps(pair, seconds);
  const controlMs = Math.max(before.longestMs, after.longestMs);
  log(`longest gap ${duringMs} ms, ${controlMs} ms undisturbed`);
  for (const who of pair) {
    const what = await who.page.evaluate(() => window.remembered());
    check(what.same, `${who.voice}: the call was made anew: ${JSON.stringify(what)}`);
  }
  check(backMs <= limitMs, `requests were answered after ${backMs} ms, ${limitMs} are allowed`);
  check(
    duringMs <= controlMs + LEEWAY_MS,
    `pictures stood still for ${duringMs} ms, undisturbed for ${controlMs}`,
  );
  return { backMs, duringMs, controlMs, frames: Math.min(before.frames, after.frames) };
});

/** In the page: what must be the same afterwards, and whether the call ever said that it was not joined. */
function remember() {
  const { call } = window.tureen;
  const now = () => JSON.stringify(call.consumers().map(({ id }) => id));
  const [consumers, states] = [now(), []];
  call.on('state', (state) => states.push(state));
  window.remembered = () => ({
    same: consumers === now() && states.every((state) => state === 'joined'),
    consumers,
    now: now(),
    states,
  });
}

/** In the page: when a request is answered that is asked now. */
async function ask() {
  const { call } = window.tureen;
  const [consumer] = call.consumers().filter(({ kind }) => kind === 'video');
  await call.setPreferredLayers(consumer.id, 0);
  return Date.now();
}
