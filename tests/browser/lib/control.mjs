/**
 * The control: the same two browsers call each other directly, signalled through the test. What they manage then is
 * what the machine can do, and what a call through the server is measured against.
 */
import { VOICES } from './fakes.mjs';
import { log } from './scenario.mjs';

/** Returns the frames per second at the worse end and the watch of each. */
export async function controlCall(first, second, seconds, { width = 640, height = 480 } = {}) {
  for (const { page, url } of [first, second]) {
    await page.goto(`${url.replace(/\/$/, '')}/?camera=0&microphone=0`);
    await page.evaluate(prepare, { width, height });
  }
  const offer = await first.page.evaluate(() => window.control.offer());
  const answer = await second.page.evaluate((sdp) => window.control.answer(sdp), offer);
  await first.page.evaluate((sdp) => window.control.accept(sdp), answer);
  const watch = (who, other) =>
    who.page.evaluate(({ rgb, ms }) => window.control.watch(rgb, ms), {
      rgb: VOICES[other.voice].rgb,
      ms: seconds * 1000,
    });
  const seen = await Promise.all([watch(first, second), watch(second, first)]);
  await Promise.all([first, second].map(({ page }) => page.evaluate(() => window.control.close())));
  const fps = Math.min(...seen.map((one) => one.fps));
  log(`control call: ${seen.map((one) => `${one.fps} frames/s at ${one.size}`).join(', ')}`);
  return { fps, seen };
}

/** In the page: a plain RTCPeerConnection, VP8, everything gathered before the description is handed over. */
async function prepare({ width, height }) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width, height } });
  const connection = new RTCPeerConnection();
  const video = document.createElement('video');
  video.muted = true;
  video.autoplay = true;
  Object.assign(video.style, { position: 'fixed', inset: '0', zIndex: '9', width: '100%' });
  document.body.append(video);
  const arrived = new Promise((resolve) => {
    connection.ontrack = ({ track }) => {
      if (track.kind !== 'video') return;
      video.srcObject = new MediaStream([track]);
      video.onplaying = resolve;
    };
  });
  for (const track of stream.getTracks()) connection.addTrack(track, stream);
  const gathered = () =>
    new Promise((resolve) => {
      if (connection.iceGatheringState === 'complete') resolve();
      connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && resolve();
    });
  window.control = {
    async offer() {
      await connection.setLocalDescription();
      await gathered();
      return connection.localDescription.sdp;
    },
    async answer(sdp) {
      await connection.setRemoteDescription({ type: 'offer', sdp });
      await connection.setLocalDescription();
      await gathered();
      return connection.localDescription.sdp;
    },
    accept: (sdp) => connection.setRemoteDescription({ type: 'answer', sdp }),
    async watch(rgb, ms) {
      await arrived;
      return window.probes.watchVideo(video, rgb, ms);
    },
    close() {
      connection.close();
      for (const track of stream.getTracks()) track.stop();
      video.remove();
    },
  };
}
