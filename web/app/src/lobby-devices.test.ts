import { DeviceError, type Devices } from '@tureen/client';
import { expect, it } from 'vitest';
import { LobbyDevices } from './lobby-devices';

class FakeTrack {
  stopped = false;
  stop() {
    this.stopped = true;
  }
}

/** Every question stays open until the test answers it. */
class Questions implements Devices {
  readonly #asked: { allow: (track: MediaStreamTrack) => void; refuse: (error: Error) => void }[] = [];

  open(): Promise<MediaStreamTrack> {
    return new Promise((allow, refuse) => this.#asked.push({ allow, refuse }));
  }

  allow(): FakeTrack {
    const track = new FakeTrack();
    this.#asked.shift()?.allow(track as unknown as MediaStreamTrack);
    return track;
  }

  refuse(): void {
    this.#asked.shift()?.refuse(new DeviceError('camera', 'refused', 'blocked'));
  }
}

function onOffOn() {
  const questions = new Questions();
  const devices = new LobbyDevices(questions, { microphone: false, camera: true });
  const first = devices.open('camera');
  devices.close('camera');
  devices.wanted.camera = true;
  const second = devices.open('camera');
  return { questions, devices, both: Promise.all([first, second]) };
}

it('leaves one camera running after on, off and on during the question', async () => {
  const { questions, devices, both } = onOffOn();
  const tracks = [questions.allow(), questions.allow()];
  await both;
  const live = tracks.filter(({ stopped }) => !stopped);
  expect(live).toEqual([devices.tracks.get('camera')]);
});

it('leaves no camera running when the last question is refused', async () => {
  const { questions, devices, both } = onOffOn();
  const track = questions.allow();
  questions.refuse();
  await both;
  expect(track.stopped).toBe(true);
  expect(devices.tracks.size).toBe(0);
  expect(devices.wanted.camera).toBe(false);
  expect([...devices.problems.values()]).toEqual(['blocked']);
});

it('stops what is opened after the form has handed its tracks over', async () => {
  const questions = new Questions();
  const devices = new LobbyDevices(questions, { microphone: false, camera: true });
  const opening = devices.open('camera');
  const handed = devices.handOver();
  const track = questions.allow();
  await opening;
  expect(track.stopped).toBe(true);
  expect(handed.size).toBe(0);
});
