/**
 * Four people: each sees and hears the three others, by colour and tone, all at once.
 * Options: netns (one for each browser), seconds.
 */
import { person } from './lib/browser.mjs';
import { VOICES } from './lib/fakes.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('four', async (context) => {
  const { netns = [], seconds = 5 } = context.args;
  const camera = { width: 320, height: 240, fps: 15 };
  const people = [];
  for (const [index, voice] of Object.keys(VOICES).entries()) {
    people.push(await person(context, voice, { netns: netns[index], ...camera }));
  }
  const room = `four-${Date.now()}`;
  for (const who of people) await who.join(room, { simulcast: '0' });
  const pairs = people.flatMap((who) => people.filter((other) => other !== who).map((other) => [who, other]));
  await Promise.all(pairs.flatMap(([who, other]) => [who.sees(other, 30_000), who.hears(other, 30_000)]));
  log('all see and hear all');

  const seen = await Promise.all(pairs.map(([who, other]) => who.watch(other, seconds)));
  for (const [index, [who, other]] of pairs.entries()) {
    const { colour, moved, tone, fps } = seen[index];
    const what = `${who.voice} watching ${other.voice}: ${JSON.stringify(seen[index])}`;
    check(colour >= 0.9, `the colour was not there: ${what}`);
    check(moved >= 0.5 && fps > 2, `the picture stood still: ${what}`);
    check(tone >= 0.4, `the tone was not there: ${what}`);
  }
  const rates = seen.map(({ fps }) => fps);
  return { streams: pairs.length, worstFps: Math.min(...rates), bestFps: Math.max(...rates) };
});
