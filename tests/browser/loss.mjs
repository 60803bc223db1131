/**
 * A call in one direction over a bad link: first clean, then as the case says, through the server or, for comparison,
 * straight from browser to browser over the same link.
 * Options: netns (publisher, subscriber), link (the socket that controls the link in question), phases (each with a
 * name, one of the link's, and the seconds that are measured; the first is clean), settle (seconds before what is
 * measured), simulcast, calls (`server`, `direct` or both).
 */
import { person } from './lib/browser.mjs';
import { Link } from './lib/link.mjs';
import { endOneWayCall, oneWayCall, oneWayVideo } from './lib/one-way.mjs';
import { adapted, between, followFrames, sample, trace } from './lib/quality.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

/** Until a new call's bit rate has climbed. */
const CLIMB_SECONDS = 4;

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

await scenario('loss', async (context) => {
  const { netns = [], link: path, phases, settle = 3, simulcast = false, calls = ['server'] } = context.args;
  check(netns.length === 2 && path && phases, 'loss needs netns, link and phases');
  const camera = simulcast
    ? { width: 1280, height: 720, fps: 15, noise: 14 }
    : { width: 640, height: 480, fps: 20, noise: 14 };
  const link = await Link.open(path);
  context.onEnd(() => link.close());
  const [red, blue] = await Promise.all([
    person(context, 'red', { netns: netns[0], ...camera }),
    person(context, 'blue', { netns: netns[1] }),
  ]);
  const result = {};
  for (const call of calls) {
    await link.phase(phases[0].name);
    if (call === 'server') {
      await callByServer(red, blue, simulcast);
      const tile = () => window.probes.tile('red').querySelector('video');
      result.server = await measure('server', link, phases, settle, red, blue, tile);
      // What is seen at the end is still the publisher's picture, and it moves.
      await blue.sees(red);
    } else {
      await oneWayCall(red, blue, camera);
      result.direct = await measure('direct', link, phases, settle, red, blue, oneWayVideo);
      await endOneWayCall(red, blue);
    }
  }
  return result;
});

async function callByServer(red, blue, simulcast) {
  const room = `loss-${Date.now()}`;
  await Promise.all([
    red.join(room, simulcast ? {} : { simulcast: '0' }),
    blue.join(room, { camera: '0', microphone: '0' }),
  ]);
  await Promise.all([blue.sees(red), blue.hears(red)]);
  log('the call through the server runs');
}

/** One phase after the other; the result has each phase's name. */
async function measure(what, link, phases, settle, red, blue, video) {
  await followFrames(blue, video);
  await pause(CLIMB_SECONDS);
  const result = {};
  // What a phase is compared with to tell when it has adapted: the one before any trouble.
  let reference;
  for (const [index, { name, seconds }] of phases.entries()) {
    const counted = await link.phase(name);
    const traced = trace(blue, (index === 0 ? 0 : settle) + seconds);
    if (index > 0) await pause(settle);
    const before = await sample(red, blue);
    await pause(seconds);
    const figures = between(before, await sample(red, blue));
    // What stood still when the link changed counts too, where the rest is of the time after.
    if (index > 0)
      figures.longestGapMs = Math.max(figures.longestGapMs, Math.round(before.video.longestGapMs));
    const course = await traced;
    reference ??= course;
    const after = await link.counters();
    const lost = ['up', 'down'].map((way) => {
      const offered = after[way].offered - counted[way].offered;
      const gone = after[way].lost + after[way].overflowed - counted[way].lost - counted[way].overflowed;
      return Number((gone / Math.max(1, offered)).toFixed(4));
    });
    result[name] = { ...figures, ...adapted(course, reference), linkLoss: lost };
    log(`${what} ${name}: ${JSON.stringify(result[name])}`);
    if (index > 0 && phases.length > 2) log(`${what} ${name}: ${courseInWords(course)}`);
  }
  return result;
}

/** A course, a second at a time: what came in kbit/s, frames/s and the picture's width. */
function courseInWords(course) {
  const seconds = course.filter(
    ({ ms }, index) => index === 0 || Math.floor(ms / 1000) > Math.floor(course[index - 1].ms / 1000),
  );
  return seconds.map(({ kbit, fps, width }) => `${kbit}k/${fps}/${width}`).join(' ');
}
