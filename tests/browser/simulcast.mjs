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
  const consumer = await blue.page.evaluate(
    () => window.tureen.call.consumers().find(({ source }) => source === 'camera').id,
  );

  const started = Date.now();
  await blue.until('the whole picture', atLeast, 1280, 30_000);
  const wholeMs = Date.now() - started;
  log(`1280 wide after ${wholeMs} ms`);

  const low = await ask(blue, consumer, 0, fits, 320);
  await blue.sees(red);
  log(`320 wide ${low} ms after asking for the lowest layer`);
  const middle = await ask(blue, consumer, 1, exactly, 640);
  await blue.sees(red);
  log(`640 wide ${middle} ms after asking for the middle layer`);
  const high = await ask(blue, consumer, 2, atLeast, 1280);
  await blue.sees(red);
  log(`1280 wide ${high} ms after asking for the highest layer`);
  return { wholeMs, lowMs: low, middleMs: middle, highMs: high };
});

async function ask(viewer, consumerId, spatialLayer, reached, width) {
  const start = Date.now();
  await viewer.page.evaluate(
    ([id, layer]) => window.tureen.call.setPreferredLayers(id, layer, 2),
    [consumerId, spatialLayer],
  );
  await viewer.until(`a picture ${width} wide`, reached, width, 20_000);
  return Date.now() - start;
}

function atLeast(width) {
  return window.probes.tile('red')?.querySelector('video').videoWidth >= width;
}

function exactly(width) {
  return window.probes.tile('red')?.querySelector('video').videoWidth === width;
}

function fits(width) {
  const { videoWidth } = window.probes.tile('red')?.querySelector('video') ?? {};
  return videoWidth > 0 && videoWidth <= width;
}
