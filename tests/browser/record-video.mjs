/**
 * Chromium sends a moving picture of 1280x720 while tureen-bench, as the other one in the room, writes down the sizes and
 * times of its packets. Options: recorder, the program; file, where it writes.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { person } from './lib/browser.mjs';
import { writeScene } from './lib/fakes.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('record-video', async (context) => {
  const { recorder, file } = context.args;
  const red = await person(context, 'red', {
    write: writeScene,
    width: 1280,
    height: 720,
    fps: 30,
  });
  const room = `record-${Date.now()}`;
  await red.join(room, { simulcast: '0' });
  log('on air');
  const program = spawn(
    recorder,
    [
      ['record', '--address', new URL(context.url).host, '--room', room],
      ['--file', file, '--sender', `Chromium ${red.browser.version()}`],
    ].flat(),
    { stdio: ['ignore', 'inherit', 'inherit'] },
  );
  const [code] = await once(program, 'exit');
  check(code === 0, 'nothing was recorded');
  return { file };
});
