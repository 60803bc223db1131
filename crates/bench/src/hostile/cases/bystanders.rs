//! Two peers who talk all the while, and notice everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use rtc::srtp::Profile;
use serde::Serialize;

use crate::endpoint::Identity;
use crate::party::Party;
use crate::router::{Media, Router};
use crate::source::{Shape, Source};

/// How late a packet may be before it counts as lost. Generous, as the machine may have more to do than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bystanders' streams.
const PUBLISHED: u32 = 1_000;
const CONSUMED: u32 = 9_000;

/// What they saw.
#[derive(Debug, Clone, Serialize)]
pub struct BystanderReport {
    /// Packets that were sent and that arrived, all of them, in order.
    pub packets: u64,
    /// From the first packet of a frame being sent to its last being there, in microseconds: the median.
    pub frame_p50_us: u64,
    /// The 99th percentile.
    pub frame_p99_us: u64,
    /// The longest.
    pub frame_max_us: u64,
}

/// The two, on a thread of their own.
#[derive(Debug)]
pub(super) struct Bystanders {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<BystanderReport>>,
}

impl Bystanders {
    /// Two peers of this Router; returns once the first frame has arrived.
    pub(super) fn start(router: &mut Router) -> Result<Self> {
        let identity = Identity::new(&Profile::PREFERENCE)?;
        let publisher = Party::connect(router, &identity)?;
        let producer =
            router.produce(&publisher.transport_id, Media::Video, PUBLISHED, Some(PUBLISHED + 1))?;
        let subscriber = Party::connect(router, &identity)?;
        router.consume(
            &subscriber.transport_id,
            &producer,
            Media::Video,
            PUBLISHED,
            CONSUMED,
            Some(CONSUMED + 1),
        )?;
        let source = Source::new(Shape::VIDEO, PUBLISHED, Media::Video.payload_type(), None);
        let mut talk = Talk { publisher, subscriber, source, frames: 0, took: Histogram::new(3)? };
        // The first frame is a key frame, and the subscriber is there.
        talk.exchange()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("bystanders".into())
            .spawn(move || talk.run(&stopped))
            .context("cannot start a thread")?;
        Ok(Self { stop, thread })
    }

    /// Ends the talk; an error where anything was missing.
    pub(super) fn finish(self) -> Result<BystanderReport> {
        self.stop.store(true, Ordering::Release);
        self.thread
            .join()
            .map_err(|_| anyhow!("the bystanders' thread panicked"))?
            .context("the bystanders' call")
    }
}

struct Talk {
    publisher: Party,
    subscriber: Party,
    source: Source,
    frames: u64,
    took: Histogram<u64>,
}

impl Talk {
    fn run(mut self, stop: &AtomicBool) -> Result<BystanderReport> {
        let interval = Shape::VIDEO.interval();
        let mut due = Instant::now();
        while !stop.load(Ordering::Acquire) {
            due += interval;
            self.publisher.serve_until(due)?;
            if self.publisher.endpoint.take_key_frame_request(PUBLISHED) {
                self.source.request_key_frame();
            }
            self.exchange()?;
        }
        Ok(BystanderReport {
            packets: self.source.packets(),
            frame_p50_us: self.took.value_at_quantile(0.5),
            frame_p99_us: self.took.value_at_quantile(0.99),
            frame_max_us: self.took.max(),
        })
    }

    /// A frame from one to the other: whole, in order, nothing besides.
    fn exchange(&mut self) -> Result<()> {
        let packets = self.source.frame();
        let sent_at = Instant::now();
        for packet in &packets {
            self.publisher.send_rtp(packet)?;
        }
        let subscriber = &mut self.subscriber;
        subscriber
            .wait_until("frame", PATIENCE, |party| party.received.len() >= packets.len())
            .with_context(|| {
                format!("frame {}: {} of {} packets", self.frames, subscriber.received.len(), packets.len())
            })?;
        self.took.record(u64::try_from(sent_at.elapsed().as_micros())?)?;
        let received = std::mem::take(&mut subscriber.received);
        let whole =
            received.iter().map(|packet| &packet.payload).eq(packets.iter().map(|packet| &packet.payload));
        ensure!(whole, "frame {} arrived changed, in disorder, or with more in it", self.frames);
        ensure!(subscriber.refused.is_empty(), "something came twice, or under a wrong key");
        self.frames += 1;
        Ok(())
    }
}
