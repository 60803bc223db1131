/**
 * What runs inside the page: eyes and ears. Judged are the pixels that the video element shows and the spectrum of the
 * track that plays, not what the page or WebRTC's counters say about them. Serialised as a whole, hence one function.
 */
export function probes() {
  const SIZE = 64;
  const canvas = new OffscreenCanvas(SIZE, SIZE);
  const painter = canvas.getContext('2d', { willReadFrequently: true });
  const ears = new Map();
  let audio;

  const connections = [];
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...values) {
      super(...values);
      connections.push(this);
    }
  };

  /** What WebRTC counts about a track, to explain a judgement, never to make one. */
  const counters = async (track) => {
    for (const connection of connections) {
      if (connection.connectionState !== 'connected') continue;
      for (const stats of (await connection.getStats()).values()) {
        if (stats.type !== 'inbound-rtp' || stats.trackIdentifier !== track?.id) continue;
        const { framesReceived, framesDecoded, framesDropped, keyFramesDecoded, packetsLost } = stats;
        const { nackCount, pliCount, freezeCount, bytesReceived } = stats;
        return {
          ...{ framesReceived, framesDecoded, framesDropped, keyFramesDecoded, packetsLost },
          ...{ nackCount, pliCount, freezeCount, bytesReceived },
        };
      }
    }
    return undefined;
  };

  const peer = (name) => window.tureen?.peers.find(({ displayName }) => displayName === name);

  const tile = (name, source = 'camera') => {
    const id = peer(name)?.id;
    return (
      document.querySelector(`article[data-peer-id="${id}"][data-source="${source}"]:not([data-self])`) ??
      undefined
    );
  };

  const pixels = (video) => {
    if (!video?.srcObject || video.readyState < 2) return undefined;
    painter.drawImage(video, 0, 0, SIZE, SIZE);
    return painter.getImageData(0, 0, SIZE, SIZE).data;
  };

  /** The mean of a patch in the lower half, where nothing moves. */
  const colour = (data) => {
    const sum = [0, 0, 0];
    for (let y = 44; y < 52; y++) {
      for (let x = 28; x < 36; x++) {
        for (let c = 0; c < 3; c++) sum[c] += data[(y * SIZE + x) * 4 + c] / 64;
      }
    }
    return sum.map(Math.round);
  };

  const alike = (a, b) => a.every((value, index) => Math.abs(value - b[index]) <= 40);

  /** Where the bright bar is in the upper half. */
  const bar = (data) => {
    let best = 0;
    for (let x = 1; x < SIZE; x++) {
      if (brightness(data, x) > brightness(data, best)) best = x;
    }
    return best;
  };
  const brightness = (data, x) => {
    const at = (12 * SIZE + x) * 4;
    return data[at] + data[at + 1] + data[at + 2];
  };

  /** From now on listens to a track: a function that tells its loudest frequency and how loud that is (dB of full scale). */
  const listenTo = (track) => {
    audio ??= new AudioContext();
    void audio.resume();
    const analyser = audio.createAnalyser();
    analyser.fftSize = 4096;
    analyser.smoothingTimeConstant = 0;
    audio.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const bins = new Float32Array(analyser.frequencyBinCount);
    return () => {
      analyser.getFloatFrequencyData(bins);
      let best = 0;
      for (let index = 1; index < bins.length; index++) {
        if (bins[index] > bins[best]) best = index;
      }
      return { hertz: (best * audio.sampleRate) / analyser.fftSize, decibels: bins[best] };
    };
  };

  /** What is loudest in a peer's sound now. */
  const peak = (name) => {
    const track = peer(name)?.tracks.audio;
    if (!track) return undefined;
    if (ears.get(name)?.track !== track) ears.set(name, { track, peak: listenTo(track) });
    return ears.get(name).peak();
  };

  /** Firefox's fake microphone whispers at -48 dB; where nobody speaks there are less than -90. */
  const LOUD = -60;
  const isTone = (heard, hertz) =>
    heard !== undefined && heard.decibels > LOUD && Math.abs(heard.hertz - hertz) < 25;

  let quietSince = new Map();

  window.probes = {
    tile,
    pixels,
    colour,
    alike,
    listenTo,
    isTone,
    shows(name, rgb, source) {
      const data = pixels(tile(name, source)?.querySelector('video'));
      return data !== undefined && alike(colour(data), rgb);
    },
    hears: (name, hertz) => isTone(peak(name), hertz),
    /** Nothing for a second: a pause between syllables does not count. */
    silent(name) {
      const heard = peak(name);
      if (heard && heard.decibels > LOUD) quietSince.delete(name);
      else if (!quietSince.has(name)) quietSince.set(name, performance.now());
      const since = quietSince.get(name);
      if (since === undefined || performance.now() - since < 1000) return false;
      quietSince = new Map();
      return true;
    },
    async watch(name, { rgb, hertz }, ms) {
      const video = tile(name)?.querySelector('video');
      if (!video) throw new Error(`${name} has no tile`);
      return window.probes.watchVideo(video, rgb, ms, () => {
        const heard = peak(name);
        return { tone: isTone(heard, hertz), hertz: heard?.hertz };
      });
    },
    /** Colour, movement and presented frames of a video element over `ms`. */
    async watchVideo(video, rgb, ms, listen = () => ({ tone: false })) {
      const frames = { first: undefined, last: undefined };
      let running = true;
      let longestGapMs = 0;
      const onFrame = (now, { presentedFrames }) => {
        if (frames.last) longestGapMs = Math.max(longestGapMs, Math.round(now - frames.last.now));
        frames.first ??= { now, presentedFrames };
        frames.last = { now, presentedFrames };
        if (running) video.requestVideoFrameCallback(onFrame);
      };
      video.requestVideoFrameCallback(onFrame);
      const start = performance.now();
      const seen = { samples: 0, colour: 0, moved: 0, tone: 0 };
      let lastBar = -1;
      let lastRgb;
      let lastHertz;
      while (performance.now() - start < ms) {
        await new Promise((resolve) => setTimeout(resolve, 200));
        seen.samples++;
        const { tone, hertz } = listen();
        if (tone) seen.tone++;
        lastHertz = hertz;
        const data = pixels(video);
        if (!data) continue;
        lastRgb = colour(data);
        if (alike(lastRgb, rgb)) seen.colour++;
        const at = bar(data);
        if (at !== lastBar) seen.moved++;
        lastBar = at;
      }
      running = false;
      const { first, last } = frames;
      const fps =
        first && last.now > first.now
          ? ((last.presentedFrames - first.presentedFrames) * 1000) / (performance.now() - start)
          : 0;
      const share = (count) => Number((count / seen.samples).toFixed(3));
      return {
        samples: seen.samples,
        colour: share(seen.colour),
        moved: share(seen.moved),
        tone: share(seen.tone),
        fps: Number(fps.toFixed(2)),
        size: `${video.videoWidth}x${video.videoHeight}`,
        lastRgb,
        lastHertz,
        longestGapMs,
        counters: await counters(video.srcObject?.getVideoTracks()[0]),
      };
    },
    /** What this page sends of its camera, encoding by encoding. */
    async sentVideo() {
      const sent = [];
      for (const connection of connections) {
        if (connection.connectionState !== 'connected') continue;
        const stats = await connection.getStats();
        for (const { type, kind, codecId, rid, scalabilityMode, encoderImplementation } of stats.values()) {
          if (type !== 'outbound-rtp' || kind !== 'video' || !stats.get(codecId)) continue;
          sent.push({ mimeType: stats.get(codecId).mimeType, rid, scalabilityMode, encoderImplementation });
        }
      }
      return sent;
    },
    /** Everything that WebRTC reports of the connected transports. */
    async reports() {
      const reports = [];
      for (const connection of connections) {
        if (connection.connectionState !== 'connected') continue;
        reports.push(...(await connection.getStats()).values());
      }
      return reports;
    },
    /** Which way the media of each connected transport goes. */
    async selectedPairs() {
      const pairs = [];
      for (const connection of connections) {
        if (connection.connectionState !== 'connected') continue;
        const stats = await connection.getStats();
        const transport = [...stats.values()].find(({ type }) => type === 'transport');
        const pair = stats.get(transport?.selectedCandidatePairId);
        if (!pair) continue;
        const { protocol, port, address } = stats.get(pair.remoteCandidateId);
        const local = stats.get(pair.localCandidateId);
        pairs.push({ local: { protocol: local.protocol }, remote: { protocol, port, address } });
      }
      return pairs;
    },
    /** The port that this page's media goes to. */
    async remotePort() {
      const [pair] = await window.probes.selectedPairs();
      if (!pair) throw new Error('no connected transport');
      return pair.remote.port;
    },
    describe() {
      const peers = window.tureen?.peers.map(({ displayName, tracks }) => {
        const heard = peak(displayName);
        const data = pixels(tile(displayName)?.querySelector('video'));
        const video = tile(displayName)?.querySelector('video');
        return {
          displayName,
          tracks: Object.fromEntries(
            Object.entries(tracks).map(([kind, t]) => [kind, `${t.readyState} muted=${t.muted}`]),
          ),
          heard,
          colour: data ? colour(data) : undefined,
          size: video ? `${video.videoWidth}x${video.videoHeight}` : undefined,
        };
      });
      return JSON.stringify({
        state: window.tureen?.state,
        peers,
        notices: [...document.querySelectorAll('.notice:not([hidden])')].map((notice) => notice.textContent),
      });
    },
  };
}
