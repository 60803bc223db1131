/**
 * The frame of every scenario: what it is given, how it talks, how it ends.
 *
 * In: TUREEN_URL, the page's address; TUREEN_SCENARIO_ARGS, a JSON object of options. Out: one JSON line of measurements on
 * stdout; talk on stderr; exit status 1 with the reason when something was not as it should be.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const started = Date.now();

export function log(message) {
  process.stderr.write(`${((Date.now() - started) / 1000).toFixed(1).padStart(6)} ${message}\n`);
}

export function check(condition, message) {
  if (!condition) throw new Error(message);
}

/**
 * Runs `body({ url, args, folder, onEnd, tell, heard })` and prints what it returns. Whatever was handed to `onEnd` is closed
 * afterwards, last first, whether it went well or not. A scenario that talks with its test on the way prints
 * a JSON line by `tell`, and waits for one on stdin by `heard`.
 */
export async function scenario(name, body) {
  const endings = [];
  const url = process.env.TUREEN_URL;
  const args = JSON.parse(process.env.TUREEN_SCENARIO_ARGS || '{}');
  const folder = await mkdtemp(join(tmpdir(), `tureen-${name}-`));
  endings.push(() => rm(folder, { recursive: true, force: true }));
  try {
    check(url, 'TUREEN_URL is not set: start a server and give the address of its page');
    const tell = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
    const measured = await body({ url, args, folder, onEnd: (end) => endings.push(end), tell, heard });
    process.stdout.write(`${JSON.stringify({ scenario: name, ok: true, ...measured })}\n`);
  } catch (error) {
    process.exitCode = 1;
    process.stdout.write(`${JSON.stringify({ scenario: name, ok: false, error: error.message })}\n`);
    log(`FAILED ${name}: ${error.stack}`);
  }
  for (const end of endings.reverse()) await end().catch((error) => log(`while ending: ${error.message}`));
  // At once: the threads of @roamhq/wrtc crash when Node takes its environment down in good order.
  process.exit();
}

let lines;

async function heard() {
  lines ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const { value, done } = await lines.next();
  check(!done, 'the test says nothing more');
  return JSON.parse(value);
}

/** Waits for `probe()` to return something truthy; throws with `what` after `deadlineMs`. */
export async function until(what, probe, deadlineMs = 10_000) {
  const end = Date.now() + deadlineMs;
  let last;
  for (;;) {
    last = await probe();
    if (last) return last;
    if (Date.now() > end) throw new Error(`${what}: not within ${deadlineMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export function median(values) {
  return quantile(values, 0.5);
}

export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

export function round(value, digits = 2) {
  return Number(value.toFixed(digits));
}
