/**
 * Every UDP datagram of one browser's network namespace is dropped for ten seconds. When they flow again, picture
 * and sound return both ways, with nobody touching a page.
 * Options: netns (one for each browser, the first is cut off), seconds.
 */
import { person } from './lib/browser.mjs';
import { dropUdp } from './lib/netns.mjs';
import { check, log, round, scenario } from './lib/scenario.mjs';

await scenario('udp-drop', async (context) => {
  const { netns = [], seconds = 10 } = context.args;
  check(netns[0], 'udp-drop needs a network namespace: TUREEN_SCENARIO_ARGS={"netns":["…","…"]}');
  const red = await person(context, 'red', { netns: netns[0] });
  const blue = await person(context, 'blue', { netns: netns[1] });
  const room = `drop-${Date.now()}`;
  await Promise.all([red.join(room, { simulcast: '0' }), blue.join(room, { simulcast: '0' })]);
  await Promise.all([red.sees(blue), blue.sees(red), red.hears(blue), blue.hears(red)]);
  log('both see and hear each other');

  const restore = await dropUdp(netns[0]);
  let cut = true;
  context.onEnd(() => (cut ? restore() : Promise.resolve()));
  const start = Date.now();
  await Promise.all([stalled(red, blue), stalled(blue, red)]);
  log('dropped: both pictures stand still');
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, seconds * 1000 - (Date.now() - start))));
  await restore();
  cut = false;
  const restored = Date.now();
  const back = await Promise.all([
    moving(red, blue).then(() => Date.now() - restored),
    moving(blue, red).then(() => Date.now() - restored),
    red.hears(blue, 30_000).then(() => Date.now() - restored),
    blue.hears(red, 30_000).then(() => Date.now() - restored),
  ]);
  await Promise.all([red.sees(blue), blue.sees(red)]);
  const [redVideoMs, blueVideoMs, redAudioMs, blueAudioMs] = back;
  log(`back after ${back} ms`);
  return {
    droppedSeconds: round((restored - start) / 1000),
    redVideoMs,
    blueVideoMs,
    redAudioMs,
    blueAudioMs,
  };
});

/** No new frame for two seconds. */
function stalled(who, other) {
  return frames(who, other, 'stands still', (quietMs) => quietMs > 2000);
}

/** Ten new frames, each within half a second of the one before. */
function moving(who, other) {
  return frames(who, other, 'moves again', (quietMs, run) => quietMs < 500 && run >= 10, 30_000);
}

async function frames(who, other, what, enough, deadlineMs = 15_000) {
  await who.page.evaluate((name) => {
    const seen = { last: performance.now(), run: 0 };
    window.frameLog = seen;
    const follow = (video) => {
      const onFrame = () => {
        if (window.frameLog !== seen) return;
        seen.last = performance.now();
        seen.run++;
        // The tile may have been made anew by a re-join.
        follow(window.probes.tile(name)?.querySelector('video') ?? video);
      };
      video.requestVideoFrameCallback(onFrame);
    };
    follow(window.probes.tile(name).querySelector('video'));
  }, other.voice);
  await who.until(
    `${other.voice}'s picture ${what}`,
    `(${enough})(performance.now() - window.frameLog.last, window.frameLog.run)`,
    undefined,
    deadlineMs,
  );
}
