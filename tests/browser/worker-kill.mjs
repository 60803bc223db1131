/**
 * The worker that carries a call is killed. Both pages show each other's video again, with nobody touching them: the
 * time from the kill to the first decoded frame of a new consumer, on the later of the two.
 * Options: serverPid (the process whose descendants the workers are), runs (20), limitMs (2000), netns.
 */
import { person } from './lib/browser.mjs';
import { check, log, median, round, scenario } from './lib/scenario.mjs';
import { workerOf } from './lib/workers.mjs';

await scenario('worker-kill', async (context) => {
  const { netns = [], serverPid, runs = 20, limitMs = 2000 } = context.args;
  check(serverPid, 'worker-kill needs the server’s process id: TUREEN_SCENARIO_ARGS={"serverPid":…}');
  const red = await person(context, 'red', { netns: netns[0] });
  const blue = await person(context, 'blue', { netns: netns[1] });
  const times = [];
  for (let run = 0; run < runs; run++) {
    // A room for each run, so that no run leans on what the one before it left.
    const room = `kill-${Date.now()}-${run}`;
    await Promise.all([red.join(room, { simulcast: '0' }), blue.join(room, { simulcast: '0' })]);
    await Promise.all([red.sees(blue), blue.sees(red)]);
    const port = await red.page.evaluate(() => window.probes.remotePort());
    const pid = await workerOf(serverPid, port);
    await Promise.all([follow(red, blue), follow(blue, red)]);
    const killed = Date.now();
    process.kill(pid, 'SIGKILL');
    const back = await Promise.all([firstNewFrame(red, blue), firstNewFrame(blue, red)]);
    const ms = Math.max(...back) - killed;
    times.push(ms);
    log(
      `run ${run + 1}: worker ${pid} killed, video back after ${back.map((at) => Math.round(at - killed))} ms`,
    );
    await Promise.all([red.sees(blue), blue.sees(red), red.hears(blue), blue.hears(red)]);
  }
  const worst = Math.max(...times);
  check(worst < limitMs, `the worst of ${runs} runs took ${Math.round(worst)} ms, ${limitMs} ms are allowed`);
  return {
    runs,
    milliseconds: times.map(Math.round),
    medianSeconds: round(median(times) / 1000, 3),
    worstSeconds: round(worst / 1000, 3),
  };
});

/** From now on, notes the wall-clock time of the first frame of each track of `other`. */
async function follow(who, other) {
  await who.page.evaluate((name) => {
    const first = new Map();
    const track = () => window.probes.tile(name)?.querySelector('video').srcObject?.getVideoTracks()[0]?.id;
    window.follow = { old: track(), first };
    const next = () => {
      const video = window.probes.tile(name)?.querySelector('video');
      if (!video) return setTimeout(next, 10);
      const id = track();
      video.requestVideoFrameCallback((now) => {
        if (id !== undefined && id === track() && !first.has(id)) first.set(id, performance.timeOrigin + now);
      });
      return setTimeout(next, 10);
    };
    next();
  }, other.voice);
}

async function firstNewFrame(who, other) {
  await who.until(
    `a new frame of ${other.voice}`,
    () => [...window.follow.first.keys()].some((id) => id !== window.follow.old),
    undefined,
    20_000,
  );
  return who.page.evaluate(() =>
    Math.min(...[...window.follow.first].filter(([id]) => id !== window.follow.old).map(([, at]) => at)),
  );
}
