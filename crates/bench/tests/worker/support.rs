//! What the tests share: the worker's executable, and a call through a router.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::channel::Worker;
use bench::endpoint::Identity;
use bench::party::{Party, Received};
use bench::router::{Media, Router};
use bench::source::{Packet, Shape, Source};
use rtc::srtp::Profile;

/// The publisher's streams.
pub(crate) const VIDEO: u32 = 1_000;
pub(crate) const AUDIO: u32 = 2_000;

/// How long anything on loopback may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// The seed of a test: `TUREEN_SEED`, else `default`. It is printed, and shown where the test fails.
pub(crate) fn seed(default: u64) -> u64 {
    let seed = std::env::var("TUREEN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
    eprintln!("seed {seed} (TUREEN_SEED replays another)");
    seed
}

/// `TUREEN_WORKER_BIN`, else the worker of this build, which is built where it is missing.
pub(crate) fn worker_binary() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("TUREEN_WORKER_BIN") {
        return Ok(binary.into());
    }
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::parent).context("a test lies in target/<profile>/deps")?;
    let binary = profile.join("tureen-worker");
    if !binary.is_file() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--package", "worker"]).env("CARGO_TARGET_DIR", profile.with_file_name(""));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "the worker does not build");
    }
    Ok(binary)
}

/// A worker that says nothing.
pub(crate) fn worker(env: &[(&str, &str)]) -> Result<Worker> {
    Worker::spawn(&worker_binary()?, &["--logLevel=none"], env)
}

/// A router and who publishes in it.
pub(crate) struct Call {
    pub(crate) router: Router,
    pub(crate) publisher: Publisher,
    video_producer: String,
    audio_producer: String,
}

impl Call {
    pub(crate) fn new(worker: Worker, profile: Profile) -> Result<Self> {
        let mut router = Router::new(worker, true)?;
        let party = Party::connect(&mut router, &Identity::new(&[profile])?)?;
        ensure!(party.endpoint.profile() == Some(profile), "another SRTP profile came out");
        let video_producer = router.produce(&party.transport_id, Media::Video, VIDEO, Some(VIDEO + 1))?;
        let audio_producer = router.produce(&party.transport_id, Media::Audio, AUDIO, None)?;
        let publisher = Publisher {
            party,
            video: Source::new(Shape::VIDEO, VIDEO, Media::Video.payload_type(), None),
            audio: Source::new(Shape::AUDIO, AUDIO, Media::Audio.payload_type(), None),
            sent: [Vec::new(), Vec::new()],
        };
        Ok(Self { router, publisher, video_producer, audio_producer })
    }

    /// A receiver of both streams, with a repair stream or without.
    pub(crate) fn subscribe(&mut self, profile: Profile, ssrc: u32, rtx: bool) -> Result<Subscriber> {
        let party = Party::connect(&mut self.router, &Identity::new(&[profile])?)?;
        let transport = party.transport_id.clone();
        let rtx_ssrc = rtx.then_some(ssrc + 1);
        self.router.consume(&transport, &self.video_producer, Media::Video, VIDEO, ssrc, rtx_ssrc)?;
        self.router.consume(&transport, &self.audio_producer, Media::Audio, AUDIO, ssrc + 2, None)?;
        Ok(Subscriber { party, video_ssrc: ssrc, audio_ssrc: ssrc + 2 })
    }

    /// A consumer of the video on somebody's transport.
    pub(crate) fn consume_video(&mut self, transport_id: &str, ssrc: u32) -> Result<String> {
        self.router.consume(transport_id, &self.video_producer, Media::Video, VIDEO, ssrc, Some(ssrc + 1))
    }
}

/// Publishes video and audio.
pub(crate) struct Publisher {
    pub(crate) party: Party,
    video: Source,
    audio: Source,
    /// Payloads that were sent, video and audio, oldest first.
    pub(crate) sent: [Vec<Vec<u8>>; 2],
}

impl Publisher {
    /// Waits until the worker asks for a key frame, and answers with the next frame.
    pub(crate) fn answer_key_frame_request(&mut self) -> Result<()> {
        let asked = |party: &mut Party| party.endpoint.take_key_frame_request(VIDEO);
        self.party.wait_until("key frame request", PATIENCE, asked)?;
        self.video.request_key_frame();
        Ok(())
    }

    /// Sends a frame of video and a packet of audio, and waits until every receiver has got them.
    pub(crate) fn exchange(&mut self, subscribers: &mut [Subscriber]) -> Result<()> {
        let [video, audio] = [self.video.frame(), self.audio.frame()];
        for packet in video.iter().chain(&audio) {
            self.party.send_rtp(packet)?;
        }
        let payloads = |packets: Vec<Packet>| packets.into_iter().map(|packet| packet.payload);
        self.sent[0].extend(payloads(video));
        self.sent[1].extend(payloads(audio));
        let expected = self.sent[0].len() + self.sent[1].len();
        for subscriber in subscribers {
            let party = &mut subscriber.party;
            let arrived =
                party.wait_until("next packets", PATIENCE, |party| party.received.len() >= expected);
            arrived.with_context(|| format!("{} of {expected} packets arrived", party.received.len()))?;
        }
        Ok(())
    }

    /// Exchanges 30 frames a second until told to stop, answering what the worker asks for in between.
    pub(crate) fn talk(&mut self, subscribers: &mut [Subscriber], stop: &AtomicBool) -> Result<()> {
        let mut due = Instant::now();
        while !stop.load(Ordering::Acquire) {
            self.party.serve_until(due)?;
            if self.party.endpoint.take_key_frame_request(VIDEO) {
                self.video.request_key_frame();
            }
            self.exchange(subscribers)?;
            due += Duration::from_secs(1) / 30;
        }
        Ok(())
    }
}

/// A receiver.
pub(crate) struct Subscriber {
    pub(crate) party: Party,
    pub(crate) video_ssrc: u32,
    pub(crate) audio_ssrc: u32,
}

impl Subscriber {
    /// What came on one stream, in the order of arrival.
    pub(crate) fn stream(&self, ssrc: u32) -> Vec<&Received> {
        self.party.received.iter().filter(|packet| packet.ssrc == ssrc).collect()
    }

    /// Every payload arrived once, in order, under the right identity and consecutive numbers, and nothing else did.
    pub(crate) fn check(&self, sent: &[Vec<Vec<u8>>; 2]) {
        let streams = [(Media::Video, self.video_ssrc), (Media::Audio, self.audio_ssrc)];
        for ((media, ssrc), sent) in streams.into_iter().zip(sent) {
            let received = self.stream(ssrc);
            assert_eq!(received.len(), sent.len(), "{media:?}");
            for (packet, sent) in received.iter().zip(sent) {
                assert_eq!(packet.payload_type, media.payload_type());
                assert!(
                    packet.payload == *sent,
                    "{media:?} payload of packet {} was changed",
                    packet.sequence
                );
            }
            for pair in received.windows(2) {
                assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1), "{media:?}");
            }
        }
        assert_eq!(self.party.received.len(), sent[0].len() + sent[1].len(), "nothing else came");
        assert!(self.party.refused.is_empty(), "nothing came twice or under a wrong key");
    }
}
