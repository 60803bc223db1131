/** What a receiver got out of a call over a bad link: WebRTC's counters at both ends and the frames that were shown. */
import { median, round } from './scenario.mjs';

/** Follows the frames that `video` (a function for the page that returns the element) shows. */
export function followFrames(who, video) {
  return who.page.evaluate(`(() => {
    const frames = { longestGapMs: 0, last: undefined };
    window.shownFrames = frames;
    const element = (${video})();
    const onFrame = (now) => {
      if (window.shownFrames !== frames) return;
      if (frames.last !== undefined) frames.longestGapMs = Math.max(frames.longestGapMs, now - frames.last);
      frames.last = now;
      element.requestVideoFrameCallback(onFrame);
    };
    element.requestVideoFrameCallback(onFrame);
  })()`);
}

/** The counters of both ends now; the longest gap between shown frames starts anew. */
export async function sample(sender, receiver) {
  const [sent, received] = await Promise.all([
    sender.page.evaluate(sentNow),
    receiver.page.evaluate(receivedNow),
  ]);
  return { at: Date.now(), sent, ...received };
}

/** Milliseconds between two looks at what has come. */
const STEP_MS = 250;
/** What is meant by a moment's rate: that of this long before it. */
const WINDOW_MS = 1000;
/** A call has adapted when it has been well for so long. */
const STEADY_MS = 2000;
/** It is well with this share of its frames and of its bit rate. */
const WELL = 0.8;

/** How a call fares while so many seconds pass: frames/s, kbit/s and the picture's width, every quarter of a second. */
export async function trace(receiver, seconds) {
  const looks = await receiver.page.evaluate(
    async ({ ms, step }) => {
      const looks = [];
      const start = performance.now();
      for (let due = 0; due <= ms; due += step) {
        await new Promise((resolve) => setTimeout(resolve, start + due - performance.now()));
        const reports = await window.probes.reports();
        const of = (report) => report.type === 'inbound-rtp' && report.kind === 'video';
        const video = reports.filter(of).at(-1) ?? {};
        looks.push({
          ms: performance.now() - start,
          frames: video.framesDecoded ?? 0,
          bytes: video.bytesReceived ?? 0,
          width: video.frameWidth ?? 0,
        });
      }
      return looks;
    },
    { ms: seconds * 1000, step: STEP_MS },
  );
  return looks.flatMap((look) => {
    const before = looks.findLast(({ ms }) => ms <= look.ms - WINDOW_MS + STEP_MS / 2);
    if (!before) return [];
    const passed = (look.ms - before.ms) / 1000;
    return [
      {
        ms: Math.round(look.ms),
        fps: round((look.frames - before.frames) / passed, 1),
        kbit: Math.round(((look.bytes - before.bytes) * 8) / passed / 1000),
        width: look.width,
      },
    ];
  });
}

/**
 * When a call was well again, in milliseconds from the phase's beginning; `undefined` where it never was: in frames
 * (`smoothAfterMs`), and in frames and bit rate (`fullAfterMs`), each against the middle of the reference's course.
 */
export function adapted(course, reference) {
  const middle = (of) => median(reference.map((look) => look[of]));
  const [fps, kbit] = [middle('fps') * WELL, middle('kbit') * WELL];
  const smooth = (look) => look.fps >= fps;
  const since = (well) =>
    course.find(({ ms }, index) => {
      const ahead = course.slice(index).filter((later) => later.ms <= ms + STEADY_MS);
      return ahead.at(-1).ms - ms >= STEADY_MS - 2 * STEP_MS && ahead.every(well);
    })?.ms;
  return {
    smoothAfterMs: since(smooth),
    fullAfterMs: since((look) => smooth(look) && look.kbit >= kbit),
    // Changes of the picture's size.
    switches: course.filter(({ width }, index) => index > 0 && width !== course[index - 1].width).length,
  };
}

/** In the page. */
async function sentNow() {
  const reports = await window.probes.reports();
  const sum = { frames: 0, keyFrames: 0, nacks: 0, plis: 0, packets: 0, repeats: 0, target: 0, bytes: 0 };
  for (const report of reports) {
    if (report.type !== 'outbound-rtp' || report.kind !== 'video') continue;
    // Of simulcast, the layer that has the most counts.
    sum.frames = Math.max(sum.frames, report.framesEncoded ?? 0);
    sum.keyFrames = Math.max(sum.keyFrames, report.keyFramesEncoded ?? 0);
    sum.nacks += report.nackCount ?? 0;
    sum.plis += report.pliCount ?? 0;
    sum.packets += report.packetsSent ?? 0;
    sum.repeats += report.retransmittedPacketsSent ?? 0;
    sum.target += report.active === false ? 0 : (report.targetBitrate ?? 0);
    sum.bytes += report.bytesSent ?? 0;
  }
  return sum;
}

/** In the page. */
async function receivedNow() {
  const reports = await window.probes.reports();
  const of = (kind) =>
    reports.filter((report) => report.type === 'inbound-rtp' && report.kind === kind).at(-1) ?? {};
  const [video, audio] = [of('video'), of('audio')];
  const { longestGapMs = 0 } = window.shownFrames ?? {};
  if (window.shownFrames) window.shownFrames.longestGapMs = 0;
  return {
    video: {
      frames: video.framesDecoded ?? 0,
      keyFrames: video.keyFramesDecoded ?? 0,
      freezes: video.freezeCount ?? 0,
      frozenSeconds: video.totalFreezesDuration ?? 0,
      lost: video.packetsLost ?? 0,
      packets: video.packetsReceived ?? 0,
      repeats: video.retransmittedPacketsReceived ?? 0,
      nacks: video.nackCount ?? 0,
      plis: video.pliCount ?? 0,
      bytes: video.bytesReceived ?? 0,
      width: video.frameWidth ?? 0,
      waitedSeconds: video.jitterBufferDelay ?? 0,
      emitted: video.jitterBufferEmittedCount ?? 0,
      longestGapMs,
    },
    audio: {
      samples: audio.totalSamplesReceived ?? 0,
      concealed: audio.concealedSamples ?? 0,
      silent: audio.silentConcealedSamples ?? 0,
      lost: audio.packetsLost ?? 0,
      packets: audio.packetsReceived ?? 0,
      fec: audio.fecPacketsReceived ?? 0,
      nacks: audio.nackCount ?? 0,
      waitedSeconds: audio.jitterBufferDelay ?? 0,
      emitted: audio.jitterBufferEmittedCount ?? 0,
    },
  };
}

/** What happened between two samples. */
export function between(before, after) {
  const seconds = (after.at - before.at) / 1000;
  const video = difference(before.video, after.video);
  const audio = difference(before.audio, after.audio);
  const sent = difference(before.sent, after.sent);
  return {
    seconds: round(seconds, 1),
    encodedFps: round(sent.frames / seconds, 1),
    fps: round(video.frames / seconds, 1),
    freezes: video.freezes,
    frozenMs: Math.round(video.frozenSeconds * 1000),
    longestGapMs: Math.round(after.video.longestGapMs),
    kbit: Math.round((video.bytes * 8) / seconds / 1000),
    width: after.video.width,
    bufferMs: Math.round((video.waitedSeconds / Math.max(1, video.emitted)) * 1000),
    concealed: round(audio.concealed / Math.max(1, audio.samples), 4),
    audioBufferMs: Math.round((audio.waitedSeconds / Math.max(1, audio.emitted)) * 1000),
    audioLost: audio.lost,
    audioFec: audio.fec,
    keyFrames: video.keyFrames,
    // Asked of the publisher, and by the subscriber.
    nacksUp: sent.nacks,
    nacksDown: video.nacks,
    plisUp: sent.plis,
    plisDown: video.plis,
    repeatsUp: sent.repeats,
    repeatsDown: video.repeats,
    lost: video.lost,
    packets: video.packets,
    sendTargetKbit: Math.round(after.sent.target / 1000),
  };
}

function difference(before, after) {
  return Object.fromEntries(Object.entries(after).map(([key, value]) => [key, value - before[key]]));
}
