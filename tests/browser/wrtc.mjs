/**
 * A call between Chromium and @roamhq/wrtc in Node, whose SRTP is AES_CM: colour and tone both ways.
 * Options: netns (of the browser).
 */
import { person } from './lib/browser.mjs';
import { NodePeer } from './lib/node-peer.mjs';
import { check, log, scenario, until } from './lib/scenario.mjs';

await scenario('wrtc', async (context) => {
  const { netns = [] } = context.args;
  const red = await person(context, 'red', { netns: netns[0] });
  const room = `wrtc-${Date.now()}`;
  await red.join(room, { simulcast: '0' });
  const blue = await NodePeer.join(context, room, 'blue');
  log('wrtc joined');

  await until('wrtc sees red', () => blue.shows('red'), 15_000);
  await until('wrtc hears red', () => blue.hears('red'), 15_000);
  log('wrtc sees and hears Chromium');
  await red.sees(blue);
  await red.hears(blue);
  const seen = await red.watch(blue, 5);
  check(seen.colour >= 0.95 && seen.tone >= 0.5, `Chromium watching wrtc: ${JSON.stringify(seen)}`);
  log(`Chromium sees and hears wrtc: ${JSON.stringify(seen)}`);

  const ciphers = await blue.srtpCiphers();
  log(`SRTP: ${ciphers}`);
  check(
    ciphers.length === 2 && ciphers.every((cipher) => cipher.startsWith('AES_CM_128_HMAC_SHA1')),
    `AES_CM was to be negotiated on both transports, not ${JSON.stringify(ciphers)}`,
  );
  return { ciphers, fps: seen.fps, framesReceived: blue.framesReceived };
});
