/**
 * A call whose camera is sent with the codec and the layers that are asked for: it is that codec that is sent, its
 * colour arrives, and each layer arrives when the viewer asks for it, down and up again: by the picture's width, or,
 * where there is one size, by the frame rate.
 * Options: codec **needed** (`vp8`, `vp9`, `h264`, `av1`); scalability, a name of W3C's WebRTC-SVC; temporal, to step
 * through temporal layers only; netns.
 */
import { person } from './lib/browser.mjs';
import { check, log, round, scenario } from './lib/scenario.mjs';

const CAMERA = { width: 960, height: 540, fps: 15 };
/** The width of each spatial layer. */
const WIDTHS = [CAMERA.width / 4, CAMERA.width / 2, CAMERA.width];

await scenario('codec', async (context) => {
  const { netns = [], codec, scalability, temporal = false } = context.args;
  check(codec, 'codec needs a codec: TUREEN_SCENARIO_ARGS={"codec":"vp9"}');
  const [red, blue] = await Promise.all([
    person(context, 'red', { netns: netns[0], ...CAMERA }),
    person(context, 'blue', { netns: netns[1] }),
  ]);
  const room = `${codec}-${Date.now()}`;
  const choice = { codec, ...(scalability && { scalability }) };
  await Promise.all([red.join(room, choice), blue.join(room, { camera: '0', microphone: '0' })]);
  await Promise.all([blue.sees(red, 20_000), blue.hears(red)]);
  const sent = await red.page.evaluate(() => window.probes.sentVideo());
  log(`sent: ${JSON.stringify(sent)}`);
  check(
    sent.every(({ mimeType }) => mimeType.toLowerCase() === `video/${codec}`),
    `${codec} was asked for, sent is ${JSON.stringify(sent)}`,
  );
  if (scalability) {
    check(
      sent[0].scalabilityMode === scalability,
      `the layers are ${sent[0].scalabilityMode}, not ${scalability}`,
    );
  }

  const steps = temporal ? await frameRates(red, blue) : await widths(red, blue);
  const { bytesReceived, packetsLost, freezeCount } = (await blue.watch(red, 1)).counters;
  return { codec, scalability, sent, ...steps, bytesReceived, packetsLost, freezeCount };
});

/** From the lowest to the highest size and back; how long each change takes. */
async function widths(red, blue) {
  await blue.seesWide(red, WIDTHS[2]);
  const ms = [];
  for (const layer of [0, 1, 2, 0, 2]) {
    const start = Date.now();
    await blue.prefersLayers(red, layer, 2);
    await blue.seesWide(red, WIDTHS[layer]);
    ms.push(Date.now() - start);
    await blue.sees(red);
    const { fps, moved } = await blue.watch(red, 1.5);
    log(`layer ${layer}: ${WIDTHS[layer]} wide after ${ms.at(-1)} ms, ${fps} frames/s`);
    check(moved > 0 && fps > 1, `layer ${layer} stands still: ${fps} frames/s`);
  }
  return { switchMs: ms };
}

/** The lowest temporal layer has a quarter of the frames; less than two thirds is no accident. */
async function frameRates(red, blue) {
  const rates = [];
  for (const layer of [2, 0, 2]) {
    await blue.prefersLayers(red, 0, layer);
    // What was on its way passes first.
    await blue.watch(red, 0.5);
    const { fps, colour } = await blue.watch(red, 3);
    log(`temporal layer ${layer}: ${fps} frames/s`);
    check(colour >= 0.95, `the colour was there in ${colour} of the samples only`);
    rates.push(round(fps));
  }
  const [before, low, after] = rates;
  check(low < 0.66 * Math.min(before, after), `frames a second by temporal layer 2, 0, 2: ${rates}`);
  return { rates };
}
