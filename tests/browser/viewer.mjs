/**
 * A browser that only watches, on transports that the test holds itself: no server, no page. It is given a
 * WebRtcTransport and its Consumers, says its DTLS parameters, is told that the transport is connected, and then tells
 * what it sees and hears.
 * Options: transport and consumers **needed**; voice **needed**, whose colour and tone are to come; setup, seconds.
 */
import { person } from './lib/browser.mjs';
import { VOICES } from './lib/fakes.mjs';
import { offerOf } from './lib/offer.mjs';
import { check, log, scenario } from './lib/scenario.mjs';

await scenario('viewer', async (context) => {
  const { transport, consumers, voice, setup = 'actpass', seconds = 4 } = context.args;
  const viewer = await person(context, 'blue');
  await viewer.page.goto('about:blank');
  const answer = await viewer.page.evaluate(answerTo, offerOf(transport, consumers, setup));
  const role = /a=setup:(\w+)/.exec(answer)[1] === 'active' ? 'client' : 'server';
  const [, algorithm, value] = /a=fingerprint:(\S+) (\S+)/.exec(answer);
  context.tell({ dtlsParameters: { role, fingerprints: [{ algorithm, value }] } });
  await context.heard();

  const expected = { ...VOICES[voice], kinds: consumers.map(({ kind }) => kind) };
  await viewer.until(`sees and hears ${voice}`, () => window.viewer.arrived(), undefined, 15_000);
  await viewer.until('the colour', (rgb) => window.viewer.shows(rgb), expected.rgb, 15_000);
  log('a first picture');
  const seen = await viewer.page.evaluate(({ rgb, hertz, ms }) => window.viewer.watch(rgb, hertz, ms), {
    ...expected,
    ms: seconds * 1000,
  });
  const pairs = await viewer.page.evaluate(() => window.probes.selectedPairs());
  log(JSON.stringify(seen));
  check(seen.colour >= 0.95, `only ${seen.colour} of the samples had the colour; last was ${seen.lastRgb}`);
  check(seen.moved >= 0.5 && seen.fps > 2, `the picture stood still: ${JSON.stringify(seen)}`);
  if (expected.kinds.includes('audio')) {
    check(seen.tone >= 0.8, `the tone was in ${seen.tone} of the samples; last peak ${seen.lastHertz} Hz`);
  }
  const remote = pairs[0]?.remote;
  return {
    role,
    fps: seen.fps,
    colour: seen.colour,
    tone: seen.tone,
    protocol: remote?.protocol,
    port: remote?.port,
  };
});

/** In the page: takes the offer, gathers everything, returns the answer. */
async function answerTo(sdp) {
  const connection = new RTCPeerConnection();
  const video = document.createElement('video');
  Object.assign(video, { muted: true, autoplay: true });
  document.body.append(video);
  const tracks = {};
  connection.ontrack = ({ track }) => {
    tracks[track.kind] = track;
    // Sound too: Chromium decodes none that no element plays.
    video.srcObject = new MediaStream(Object.values(tracks));
  };
  await connection.setRemoteDescription({ type: 'offer', sdp });
  await connection.setLocalDescription();
  if (connection.iceGatheringState !== 'complete') {
    await new Promise((resolve) => {
      connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && resolve();
    });
  }
  window.viewer = {
    arrived: () => video.videoWidth > 0,
    shows(rgb) {
      const data = window.probes.pixels(video);
      return data !== undefined && window.probes.alike(window.probes.colour(data), rgb);
    },
    watch(rgb, hertz, ms) {
      const peak = tracks.audio && window.probes.listenTo(tracks.audio);
      return window.probes.watchVideo(video, rgb, ms, () => {
        const heard = peak?.();
        return { tone: window.probes.isTone(heard, hertz), hertz: heard?.hertz };
      });
    },
  };
  return connection.localDescription.sdp;
}
