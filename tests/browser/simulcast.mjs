/**
 * A camera in three layers: the viewer asks for the lowest and gets a smaller picture, asks for the highest and gets
 * the whole one again; the right colour all the while.
 * Options: netns (one for each browser).
 */
import { person } from './lib/browser.mjs';
import { log, scenario } from './lib/scenario.mjs';

await scenario('simulcast', async (context) => {
  const { netns = [] } = context.args;
  const red = await person(context, 'red', { netns: netns[0], width: 1280, height: 720, fps: 15 });
  const blue = await person(context, 'blue', { netns: netns[1] });
  const room = `layers-${Date.now()}`;
  await Promise.all([red.join(room), blue.join(room, { camera: '0', microphone: '0' })]);
  await blue.sees(red);

  const started = Date.now();
  await blue.seesWide(red, 1280, { how: 'atLeast', deadlineMs: 30_000 });
  const wholeMs = Date.now() - started;
  log(`1280 wide after ${wholeMs} ms`);

  const low = await ask(blue, red, 0, 'fits', 320);
  await blue.sees(red);
  log(`320 wide ${low} ms after asking for the lowest layer`);
  const middle = await ask(blue, red, 1, 'exactly', 640);
  await blue.sees(red);
  log(`640 wide ${middle} ms after asking for the middle layer`);
  const high = await ask(blue, red, 2, 'atLeast', 1280);
  await blue.sees(red);
  log(`1280 wide ${high} ms after asking for the highest layer`);
  return { wholeMs, lowMs: low, middleMs: middle, highMs: high };
});

async function ask(viewer, other, spatialLayer, how, width) {
  const start = Date.now();
  await viewer.prefersLayers(other, spatialLayer, 2);
  await viewer.seesWide(other, width, { how });
  return Date.now() - start;
}
