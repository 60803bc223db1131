/**
 * The control of what a bad link does: one browser sends its camera and microphone straight to the other, signalled
 * through the test. What is worse through the server than here, the server adds.
 */
import { log } from './scenario.mjs';

/** Calls, and returns once the picture plays. `maxBitrate` is what the call page allows, too. */
export async function oneWayCall(sender, receiver, { width, height, maxBitrate = 1_800_000 }) {
  for (const { page, url } of [sender, receiver]) {
    await page.goto(`${url.replace(/\/$/, '')}/?camera=0&microphone=0`);
  }
  await receiver.page.evaluate(prepareReceiver);
  const offer = await sender.page.evaluate(prepareSender, { width, height, maxBitrate });
  const answer = await receiver.page.evaluate((sdp) => window.oneWay.answer(sdp), offer);
  await sender.page.evaluate((sdp) => window.oneWay.accept(sdp), answer);
  await receiver.page.evaluate(() => window.oneWay.plays);
  log('the control call runs');
}

/** The element that shows the picture; for the page. */
export const oneWayVideo = () => window.oneWay.video;

export function endOneWayCall(sender, receiver) {
  return Promise.all([sender, receiver].map(({ page }) => page.evaluate(() => window.oneWay.close())));
}

/** In the page. */
async function prepareSender({ width, height, maxBitrate }) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width, height } });
  const connection = new RTCPeerConnection();
  for (const track of stream.getTracks()) {
    const sendEncodings = track.kind === 'video' ? [{ maxBitrate }] : [{}];
    const transceiver = connection.addTransceiver(track, {
      direction: 'sendonly',
      streams: [stream],
      sendEncodings,
    });
    // Through a server of mediasoup's protocol there is no forward error correction of video; between two browsers
    // there would be, and it repairs at once what a request repairs after a round trip.
    if (track.kind === 'video') {
      const { codecs } = RTCRtpReceiver.getCapabilities('video');
      transceiver.setCodecPreferences(codecs.filter(({ mimeType }) => !/red|fec/i.test(mimeType)));
    }
  }
  window.oneWay = {
    accept: (sdp) => connection.setRemoteDescription({ type: 'answer', sdp }),
    close() {
      connection.close();
      for (const track of stream.getTracks()) track.stop();
    },
  };
  await connection.setLocalDescription();
  if (connection.iceGatheringState !== 'complete') {
    await new Promise((resolve) => {
      connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && resolve();
    });
  }
  return connection.localDescription.sdp;
}

/** In the page. */
function prepareReceiver() {
  const connection = new RTCPeerConnection();
  const video = document.createElement('video');
  const sound = document.createElement('audio');
  Object.assign(video, { muted: true, autoplay: true });
  sound.autoplay = true;
  Object.assign(video.style, { position: 'fixed', inset: '0', zIndex: '9', width: '100%' });
  document.body.append(video, sound);
  const plays = new Promise((resolve) => {
    connection.ontrack = ({ track }) => {
      const element = track.kind === 'video' ? video : sound;
      element.srcObject = new MediaStream([track]);
      if (track.kind === 'video') video.onplaying = () => resolve(true);
    };
  });
  window.oneWay = {
    video,
    plays,
    async answer(sdp) {
      await connection.setRemoteDescription({ type: 'offer', sdp });
      await connection.setLocalDescription();
      if (connection.iceGatheringState !== 'complete') {
        await new Promise((resolve) => {
          connection.onicegatheringstatechange = () =>
            connection.iceGatheringState === 'complete' && resolve();
        });
      }
      return connection.localDescription.sdp;
    },
    close() {
      connection.close();
      video.remove();
      sound.remove();
    },
  };
}
