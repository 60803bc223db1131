/** The parts that calls of two have in common: beginning, being watched, and what people do in them. */
import { checkWatch } from './browser.mjs';
import { controlCall } from './control.mjs';
import { check, log } from './scenario.mjs';

/** Both join a room, see and hear each other. `options` are those of the call page. */
export async function joinBoth(first, second, room, options = {}) {
  await Promise.all([first, second].map((who) => who.join(room, options)));
  await seeAndHearEachOther(first, second);
}

export function seeAndHearEachOther(first, second) {
  return Promise.all([first.sees(second), second.sees(first), first.hears(second), second.hears(first)]);
}

/** What each sees of the other in so many seconds, which must be a real call at `leastFps` or more. */
export async function watchEachOther(first, second, seconds, leastFps = 0) {
  const [atFirst, atSecond] = await Promise.all([first.watch(second, seconds), second.watch(first, seconds)]);
  log(`${first.voice}: ${JSON.stringify(atFirst)}`);
  log(`${second.voice}: ${JSON.stringify(atSecond)}`);
  if (leastFps > 0) {
    checkWatch(first, second, atFirst, leastFps, 1);
    checkWatch(second, first, atSecond, leastFps, 1);
  }
  return { atFirst, atSecond };
}

/**
 * A call through the server, between two calls of the same browsers straight to each other: it must have `share` of
 * their frame rate. `camera` is for the control calls; `idleFps`, below which the machine is too busy to judge.
 */
export async function comparedCall(first, second, room, options) {
  const { seconds, controlSeconds = 5, share, idleFps = 5, camera } = options;
  const before = await controlCall(first, second, controlSeconds, camera);
  await joinBoth(first, second, room, { simulcast: '0' });
  log('both see and hear each other');
  const { atFirst, atSecond } = await watchEachOther(first, second, seconds);
  const after = await controlCall(first, second, controlSeconds, camera);
  // Other work on the machine comes and goes: the slower of the two is what it could do meanwhile.
  const controlFps = Math.min(before.fps, after.fps);
  check(
    controlFps > idleFps,
    `the control calls had only ${controlFps} frames/s: the machine is too busy to judge`,
  );
  checkWatch(first, second, atFirst, controlFps, share);
  checkWatch(second, first, atSecond, controlFps, share);
  return { controlFps, atFirst, atSecond };
}

export async function muteAndUnmute(speaker, listener) {
  await speaker.press('Turn microphone off');
  await listener.hearsNothingOf(speaker);
  await speaker.press('Turn microphone on');
  await listener.hears(speaker);
  log(`${speaker.voice} muted: silence, and the tone again`);
}

export async function cameraOffAndOn(who, viewer) {
  await who.press('Turn camera off');
  await viewer.seesNoVideoOf(who);
  await who.press('Turn camera on');
  await viewer.sees(who);
  log(`${who.voice}'s camera: off, and on again`);
}

export async function leaveAndReturn(who, other) {
  await who.press('Leave');
  await other.seesNobodyBut([]);
  await who.press('Join');
  await who.joined();
  await seeAndHearEachOther(who, other);
  log(`${who.voice} left, and is back`);
}

/** The page comes again as the same peer, with picture and sound. */
export async function reload(who, other) {
  const peerId = await who.peerId();
  await who.page.reload();
  await who.joined();
  check((await who.peerId()) === peerId, 'a reload made another peer');
  await other.seesNobodyBut([who]);
  await seeAndHearEachOther(who, other);
  log(`${who.voice} reloaded: the same peer, with picture and sound`);
}
