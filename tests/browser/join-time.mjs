/**
 * How long a join takes: from opening the WebSocket to the first decoded frame of the other, p50 and worst.
 * Options: netns (one for each browser), joins (20), limitMs for the worst.
 */
import { person } from './lib/browser.mjs';
import { check, log, quantile, round, scenario } from './lib/scenario.mjs';

await scenario('join-time', async (context) => {
  const { netns = [], joins = 20, limitMs = Infinity } = context.args;
  const red = await person(context, 'red', { netns: netns[0] });
  const blue = await person(context, 'blue', { netns: netns[1] });
  const room = `joins-${Date.now()}`;
  await red.join(room, { simulcast: '0' });
  await blue.page.addInitScript(stopwatch);
  const times = [];
  for (let index = 0; index < joins; index++) {
    await blue.join(room, { simulcast: '0' });
    await blue.until('a first frame', () => window.stopwatch.frame !== undefined, undefined, 20_000);
    const ms = await blue.page.evaluate(() => window.stopwatch.frame - window.stopwatch.opened);
    await blue.sees(red);
    times.push(ms);
    log(`join ${index + 1}: ${Math.round(ms)} ms`);
    await blue.page.evaluate(() => window.tureen.call.leave());
    await red.seesNobodyBut([]);
  }
  const [p50, worst] = [quantile(times, 0.5), Math.max(...times)].map((ms) => round(ms / 1000, 3));
  check(worst * 1000 <= limitMs, `the worst join took ${worst} s, at most ${limitMs / 1000} s are allowed`);
  return { joins, p50Seconds: p50, worstSeconds: worst };
});

/** Notes when the page opens its WebSocket, and when a video of someone else presents its first frame. */
function stopwatch() {
  window.stopwatch = { opened: undefined, frame: undefined };
  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...values) {
      super(...values);
      window.stopwatch.opened ??= performance.now();
    }
  };
  const watched = new WeakSet();
  const look = () => {
    for (const video of document.querySelectorAll('article:not([data-self]) video')) {
      if (watched.has(video)) continue;
      watched.add(video);
      video.requestVideoFrameCallback((now) => (window.stopwatch.frame ??= now));
    }
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true });
}
