/**
 * No UDP leaves or enters a browser's network namespace: the call goes over ICE-TCP (RFC 6544, framed as in RFC 4571)
 * with nobody asking for it. First one of the two has no UDP, then neither; frame rates are held against a call of the
 * same browsers over UDP.
 * Options: netns (one for each browser), seconds, share.
 */
import { checkWatch, person } from './lib/browser.mjs';
import { joinBoth, watchEachOther } from './lib/call.mjs';
import { dropUdp } from './lib/netns.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('tcp', async (context) => {
  const { netns = [], seconds = 5, share = 0.8 } = context.args;
  check(netns[0] && netns[1], 'tcp needs two network namespaces: TUREEN_SCENARIO_ARGS={"netns":["…","…"]}');
  const red = await person(context, 'red', { netns: netns[0] });
  const blue = await person(context, 'blue', { netns: netns[1] });

  const udp = await call(red, blue, ['udp', 'udp'], seconds);
  const reference = Math.min(udp.atRed.fps, udp.atBlue.fps);
  check(reference > 5, `the call over UDP had only ${reference} frames/s: the machine is too busy to judge`);

  context.onEnd(await dropUdp(netns[0]));
  const mixed = await call(red, blue, ['tcp', 'udp'], seconds);
  context.onEnd(await dropUdp(netns[1]));
  const tcp = await call(red, blue, ['tcp', 'tcp'], seconds);
  for (const { atRed, atBlue } of [mixed, tcp]) {
    checkWatch(red, blue, atRed, reference, share);
    checkWatch(blue, red, atBlue, reference, share);
  }
  const rates = ({ atRed, atBlue }) => [atRed.fps, atBlue.fps];
  return {
    udpFps: rates(udp),
    mixedFps: rates(mixed),
    tcpFps: rates(tcp),
    joinMs: [udp, mixed, tcp].map(({ joinMs }) => joinMs),
  };
});

/** A call in a room of its own, whose media must go by these protocols: what each saw. */
async function call(red, blue, protocols, seconds) {
  const room = `${protocols.join('-')}-${Date.now()}`;
  const start = Date.now();
  await joinBoth(red, blue, room, { simulcast: '0' });
  const joinMs = Date.now() - start;
  const used = await Promise.all([red, blue].map((who) => who.protocols()));
  log(`${protocols}: all seen and heard after ${joinMs} ms; transports go by ${JSON.stringify(used)}`);
  for (const [index, protocol] of protocols.entries()) {
    check(
      used[index].length === 2 && used[index].every((one) => one === protocol),
      `${[red, blue][index].voice}'s two transports should go by ${protocol}, not ${JSON.stringify(used[index])}`,
    );
  }
  const { atFirst: atRed, atSecond: atBlue } = await watchEachOther(red, blue, seconds);
  return { atRed, atBlue, joinMs };
}
