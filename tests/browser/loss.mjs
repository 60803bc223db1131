/**
 * A call in one direction over a bad link: first clean, then as the case says, through the server and, for comparison,
 * straight from browser to browser over the same link.
 * Options: netns (publisher, subscriber), link (the socket that controls the link in question), phases (from the
 * link's names; the first is clean), seconds (of each phase), settle, simulcast, control (false: no comparison).
 */
import { person } from './lib/browser.mjs';
import { Link } from './lib/link.mjs';
import { endOneWayCall, oneWayCall, oneWayVideo } from './lib/one-way.mjs';
import { between, followFrames, sample } from './lib/quality.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

await scenario('loss', async (context) => {
  const { netns = [], link: path, phases, seconds = 15, cleanSeconds = 8, settle = 4 } = context.args;
  const { simulcast = false, control = true } = context.args;
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

  const timing = { seconds, cleanSeconds, settle };
  await link.phase(phases[0]);
  const room = `loss-${Date.now()}`;
  await Promise.all([
    red.join(room, simulcast ? {} : { simulcast: '0' }),
    blue.join(room, { camera: '0', microphone: '0' }),
  ]);
  await Promise.all([blue.sees(red), blue.hears(red)]);
  log('the call through the server runs');
  const tile = () => window.probes.tile('red').querySelector('video');
  const server = await measure('server', link, phases, red, blue, tile, timing);
  // What is seen at the end is still the publisher's picture, and it moves.
  await blue.sees(red);
  if (!control) return { server };

  await link.phase(phases[0]);
  await oneWayCall(red, blue, camera);
  const direct = await measure('direct', link, phases, red, blue, oneWayVideo, timing);
  await endOneWayCall(red, blue);
  return { server, direct };
});

/** One phase after the other; the result has each phase's name. */
async function measure(what, link, phases, red, blue, video, { seconds, cleanSeconds, settle }) {
  await followFrames(blue, video);
  // The bit rate climbs first.
  await pause(settle);
  const result = {};
  for (const [index, phase] of phases.entries()) {
    const counted = await link.phase(phase);
    if (index > 0) await pause(settle);
    const before = await sample(red, blue);
    await pause(index === 0 ? cleanSeconds : seconds);
    const figures = between(before, await sample(red, blue));
    const after = await link.counters();
    const lost = ['up', 'down'].map((way) => {
      const offered = after[way].offered - counted[way].offered;
      return Number(((after[way].lost - counted[way].lost) / Math.max(1, offered)).toFixed(4));
    });
    result[phase] = { ...figures, linkLoss: lost };
    log(`${what} ${phase}: ${JSON.stringify(result[phase])}`);
  }
  return result;
}
