//! Layers and the link: a whole worker in virtual time, a publisher of simulcast or of layers within one stream, and a
//! subscriber behind a link that is throttled, loses, delays and reorders by seed.

mod falls;
mod source;
mod viewer;

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rtc::rtcp::{self, Packet};
use rtc::rtp::{ExtensionIds, RtpHeader, Ssrc, is_rtcp};
use rtc::twcc::TransportFeedbackGenerator;
use testkit::link::{LinkProfile, LossyLink};
use worker::transport::bwe::PROBATION_SSRC;
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::rtp_parameters::{self as rtp, MediaKind};
use worker_protocol::wire::{notification, transport};

use crate::forwarding::Call;
use crate::harness::*;
use source::{Camera, LAYERS, Sends, Source};
use viewer::Viewer;

const SINK: u32 = 222;
/// Of a packet of somebody else's.
const OTHERS_BYTES: usize = 1_200;

struct Stage {
    harness: Harness,
    publisher: UdpSocket,
    publisher_at: SocketAddr,
    subscriber: UdpSocket,
    subscriber_at: SocketAddr,
    there: LossyLink<Vec<u8>>,
    back: LossyLink<Vec<u8>>,
    receiver: TransportFeedbackGenerator,
    ids: ExtensionIds,
    source: Source,
    camera: Camera,
    /// Key frames asked of it, and how long that takes to reach it and come back.
    asked: VecDeque<(Instant, u32)>,
    publisher_away: Duration,
    viewer: Option<Viewer>,
    now: Instant,
    next_frame: Instant,
    spatial: i16,
    switches: u32,
    padding: u64,
    media: u64,
    /// Bit/s of somebody else's on the viewer's link.
    others: u64,
    next_of_others: Instant,
}

fn extension(uri: rtp::RtpHeaderExtensionUri, id: u8) -> rtp::RtpHeaderExtensionParameters {
    rtp::RtpHeaderExtensionParameters { uri, id, encrypt: false, parameters: None }
}

impl Stage {
    fn new(sends: Sends, there: LinkProfile, back: LinkProfile, seed: u64) -> Self {
        Self::build(sends, Camera::USUAL, there, back, seed, None)
    }

    /// With somebody who watches over the link.
    fn watched(sends: Sends, camera: Camera, there: LinkProfile, back: LinkProfile, seed: u64) -> Self {
        let viewer = Viewer::new(SINK, sends != Sends::Simulcast, Instant::now());
        Self::build(sends, camera, there, back, seed, Some(viewer))
    }

    fn build(
        sends: Sends,
        camera: Camera,
        there: LinkProfile,
        back: LinkProfile,
        seed: u64,
        viewer: Option<Viewer>,
    ) -> Self {
        println!("seed {seed}");
        let Call { mut harness, publisher, publisher_at, subscriber, subscriber_at } = Call::new();
        harness.produce("in", "producer", MediaKind::Video, sends.parameters(camera));
        let mut codec = sends.codec(97);
        codec.rtcp_feedback.as_mut().unwrap().push(feedback("transport-cc", ""));
        let mut sink = parameters(vec![codec], vec![encoding(SINK, None)]);
        if viewer.is_some() {
            sink.codecs.push(rtx(98, 97));
            sink.encodings = vec![encoding(SINK, Some(SINK + 1))];
        }
        let mode = match camera.temporal_layers {
            3 if sends == Sends::Simulcast => "L3T3",
            _ => sends.consumed_mode(),
        };
        sink.encodings[0].scalability_mode = Some(mode.to_owned());
        sink.header_extensions = vec![
            extension(rtp::RtpHeaderExtensionUri::Mid, 1),
            extension(rtp::RtpHeaderExtensionUri::TransportWideCcDraft01, 5),
        ];
        if sends == Sends::Av1 {
            sink.header_extensions.push(extension(rtp::RtpHeaderExtensionUri::DependencyDescriptor, 8));
        }
        harness.consume("out", "consumer", "producer", MediaKind::Video, sink, sends.streams());
        let now = Instant::now();
        let ids = ExtensionIds { transport_wide_cc: 5, ..ExtensionIds::default() };
        Self {
            harness,
            publisher,
            publisher_at,
            subscriber,
            subscriber_at,
            there: LossyLink::new(there, seed),
            back: LossyLink::new(back, seed + 1),
            receiver: TransportFeedbackGenerator::new(Ssrc(0)),
            ids,
            source: Source::new(sends, camera, seed + 2),
            camera,
            asked: VecDeque::new(),
            publisher_away: Duration::ZERO,
            viewer,
            now,
            next_frame: now,
            spatial: -1,
            switches: 0,
            padding: 0,
            media: 0,
            others: 0,
            next_of_others: now,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            if self.now >= self.next_frame {
                self.next_frame += self.camera.interval;
                for packet in self.source.picture() {
                    self.publisher.send_to(&packet, self.publisher_at).unwrap();
                }
            }
            if self.others > 0 && self.now >= self.next_of_others {
                self.there.send_sized(Vec::new(), OTHERS_BYTES, self.now);
                self.next_of_others +=
                    Duration::from_secs(1).mul_f64(OTHERS_BYTES as f64 * 8.0 / self.others as f64);
            }
            self.harness.turn_at(self.now);
            while let Some(datagram) = receive(&self.publisher) {
                for packet in rtcp::parse(&datagram) {
                    if let Ok(Packet::Pli(pli)) = packet {
                        self.asked.push_back((self.now, pli.media_ssrc.0));
                    }
                }
            }
            while self.asked.front().is_some_and(|(at, _)| self.now >= *at + self.publisher_away) {
                let (_, ssrc) = self.asked.pop_front().unwrap();
                self.source.key_frame(ssrc);
            }
            while let Some(datagram) = receive(&self.subscriber) {
                let len = datagram.len();
                if self.viewer.is_some() || !is_rtcp(&datagram) {
                    self.there.send_sized(datagram, len, self.now);
                }
            }
            while let Some((at, packet)) = self.there.receive(self.now) {
                if packet.is_empty() {
                    // Not of ours.
                    continue;
                }
                if is_rtcp(&packet) {
                    self.viewer.iter_mut().for_each(|viewer| viewer.receive_rtcp(&packet, at));
                    continue;
                }
                let header = RtpHeader::parse(&packet).unwrap();
                let seq = self.ids.read_transport_wide_cc(&header, &packet).expect("a number");
                self.receiver.record(seq, header.ssrc, at);
                let bytes = packet.len() as u64;
                if header.ssrc.0 == PROBATION_SSRC {
                    self.padding += bytes;
                    continue;
                }
                self.media += bytes;
                self.viewer.iter_mut().for_each(|viewer| viewer.receive(&packet, at));
            }
            for report in self.viewer.iter_mut().flat_map(|viewer| viewer.poll(self.now)) {
                self.back.send(report, self.now);
            }
            let mut report = Vec::new();
            while self.receiver.poll_feedback(self.now, &mut report) {
                self.back.send(std::mem::take(&mut report), self.now);
            }
            while let Some((_, report)) = self.back.receive(self.now) {
                self.subscriber.send_to(&report, self.subscriber_at).unwrap();
            }
            let spatial = self.harness.worker.consumers.iter().next().unwrap().1.forwarding.current().spatial;
            self.switches += u32::from(spatial != self.spatial);
            self.spatial = spatial;
            self.now += Duration::from_millis(1);
        }
    }

    /// Lets up to so many seconds pass until the layer is one of these; how many it took.
    fn until(&mut self, what: &str, longest: u64, layers: std::ops::RangeInclusive<i16>) -> f64 {
        let start = self.now;
        while !layers.contains(&self.spatial) {
            assert!(
                self.now - start < Duration::from_secs(longest),
                "{what}: still at layer {}",
                self.spatial
            );
            self.run(Duration::from_millis(20));
        }
        (self.now - start).as_secs_f64()
    }

    /// Switches of the spatial layer while so many seconds pass, and the media's mean bit/s.
    fn watch(&mut self, seconds: u64) -> (u32, u64) {
        let (switches, media) = (self.switches, self.media);
        self.run(Duration::from_secs(seconds));
        (self.switches - switches, (self.media - media) * 8 / seconds)
    }
}

fn link(rate: u64, delay_ms: u64) -> LinkProfile {
    let queue_bytes = (rate / 8 * 300 / 1000) as usize;
    LinkProfile { rate, queue_bytes, ..LinkProfile::perfect(Duration::from_millis(delay_ms)) }
}

/// Camera in three streams.
fn falls_and_recovers(name: &str, there: LinkProfile, feedback_lost: f64) {
    falls_and_recovers_with(Sends::Simulcast, name, there, feedback_lost);
}

/// A link of 3 Mbit/s for 15 s, of 0.5 for 35 s, then of 3 again; `feedback_lost` is the share of reports that is.
fn falls_and_recovers_with(sends: Sends, name: &str, there: LinkProfile, feedback_lost: f64) {
    for seed in [1, 2] {
        let back = LinkProfile { loss: feedback_lost, ..LinkProfile::perfect(there.delay) };
        let mut stage = Stage::new(sends, there, back, seed);
        if sends != Sends::Simulcast {
            // What a stream's layers cost is known once they have been seen: until then it may have all of them.
            stage.run(Duration::from_secs(3));
        }
        let start = stage.until("start", 10, 2..=2);
        let (early, _) = stage.watch(15);
        stage.there.set_profile(LinkProfile { rate: 500_000, queue_bytes: 18_750, ..there });
        let down = stage.until("the link fell", 6, 0..=1);
        stage.run(Duration::from_secs(5));
        let (low, media) = stage.watch(30);
        stage.there.set_profile(there);
        let up = stage.until("the link is back", 40, 2..=2);
        let (late, _) = stage.watch(30);
        println!(
            "{sends:?}, {name}: up after {start:.1} s, down {down:.1} s after the fall, back {up:.1} s after its end; \
             switches {early} in 15 s, {low} in 30 s at {} kbit/s, {late} in 30 s; padding {} kB",
            media / 1000,
            stage.padding / 1000
        );
        assert!(start < 8.0 && down < 2.5 && up < 30.0, "{sends:?}, {name}, seed {seed}");
        assert!(early == 0 && low <= 2 && late == 0, "{sends:?}, {name}, seed {seed}: layers oscillate");
        assert!(media > 110_000, "{sends:?}, {name}, seed {seed}: {media} bit/s of 500,000 used");
    }
}

const FEEDBACK_ARRIVES: f64 = 0.0;

#[test]
fn layers_follow_a_link_that_falls_and_recovers() {
    let plain = link(3_000_000, 50);
    falls_and_recovers("50 ms each way", plain, FEEDBACK_ARRIVES);
    falls_and_recovers("25 ms each way", link(3_000_000, 25), FEEDBACK_ARRIVES);
    falls_and_recovers("100 ms each way", link(3_000_000, 100), FEEDBACK_ARRIVES);
    falls_and_recovers("a third of the feedback lost", plain, 0.33);
}

#[test]
fn layers_do_not_oscillate_over_jitter_and_disorder() {
    let (ms, plain) = (Duration::from_millis, link(3_000_000, 50));
    falls_and_recovers("20 ms of jitter", LinkProfile { jitter: ms(20), ..plain }, FEEDBACK_ARRIVES);
    let reordered = LinkProfile { reorder: 0.02, reorder_delay: ms(30), ..plain };
    falls_and_recovers("reordered", reordered, FEEDBACK_ARRIVES);
}

#[test]
fn layers_do_not_oscillate_over_loss_by_chance() {
    let plain = link(3_000_000, 50);
    for loss in [0.02, 0.05, 0.10] {
        falls_and_recovers(&format!("{loss} lost"), LinkProfile { loss, ..plain }, FEEDBACK_ARRIVES);
    }
    let bursts = LinkProfile { loss: 0.05, loss_run: 6.0, ..plain };
    falls_and_recovers("0.05 lost in bursts", bursts, FEEDBACK_ARRIVES);
}

#[test]
fn layers_within_a_stream_follow_a_link_that_falls_and_recovers() {
    for sends in [Sends::Vp9, Sends::Vp9Key, Sends::Av1] {
        let plain = link(3_000_000, 50);
        falls_and_recovers_with(sends, "50 ms each way", plain, FEEDBACK_ARRIVES);
        let lossy = LinkProfile { loss: 0.02, jitter: Duration::from_millis(10), ..plain };
        falls_and_recovers_with(sends, "0.02 lost, 10 ms of jitter", lossy, FEEDBACK_ARRIVES);
    }
}

#[test]
fn the_estimate_is_in_the_statistics_and_in_traces() {
    let mut stage =
        Stage::new(Sends::Simulcast, link(3_000_000, 20), LinkProfile::perfect(Duration::from_millis(20)), 1);
    let events = vec![transport::TraceEventType::Bwe, transport::TraceEventType::Probation];
    let body = transport::EnableTraceEventRequest { events };
    let body = request::Body::TransportEnableTraceEventRequest(Box::new(body));
    stage.harness.request(Method::TransportEnableTraceEvent, "out", Some(body));
    stage.until("start", 10, 2..=2);
    stage.run(Duration::from_secs(2));
    let (index, _) = stage.harness.worker.transports.iter().find(|(_, found)| found.id == "out").unwrap();
    let stats = stage.harness.worker.transport_stats_base(index, stage.now);
    assert!(stats.available_outgoing_bitrate.unwrap() > LAYERS[2], "{stats:?}");
    assert_eq!(stats.rtp_packet_loss_sent, Some(0.0));
    assert!(stats.probation_bytes_sent > 0);
    let mut traced = [0, 0];
    for notification in &stage.harness.notifications {
        if let Some(notification::Body::TransportTraceNotification(body)) = &notification.body {
            match (&body.type_, &body.info) {
                (transport::TraceEventType::Bwe, Some(transport::TraceInfo::BweTraceInfo(info))) => {
                    assert_eq!(info.bwe_type, transport::BweType::TransportCc);
                    traced[0] += 1;
                }
                (transport::TraceEventType::Probation, None) => traced[1] += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(traced[0] >= 2 && traced[1] >= 3, "{traced:?}");
}

#[test]
fn a_limit_keeps_the_layers_down_and_its_end_lets_them_up() {
    let mut stage =
        Stage::new(Sends::Simulcast, link(5_000_000, 20), LinkProfile::perfect(Duration::from_millis(20)), 1);
    stage.until("start", 10, 2..=2);
    let limit = |stage: &mut Stage, bitrate| {
        // Not by a request, which would come at the real time.
        let worker = &mut stage.harness.worker;
        let (index, _) = worker.transports.iter().find(|(_, found)| found.id == "out").unwrap();
        worker.transports[index].bitrates.max_outgoing = bitrate;
        worker.limit_outgoing(index, stage.now);
    };
    limit(&mut stage, 600_000);
    stage.until("limited", 2, 1..=1);
    let (switches, media) = stage.watch(20);
    assert_eq!(switches, 0);
    assert!((300_000..600_000).contains(&media), "{media}");
    limit(&mut stage, 0);
    stage.until("unlimited", 12, 2..=2);
}

#[test]
fn an_audience_that_never_reports_gets_what_was_assumed() {
    let mut stage = Stage::new(
        Sends::Simulcast,
        link(5_000_000, 20),
        LinkProfile { loss: 1.0, ..LinkProfile::default() },
        1,
    );
    stage.run(Duration::from_secs(20));
    assert_eq!(stage.spatial, 1, "350 kbit/s fit into the 600 that are assumed, 1,500 do not");
    assert_eq!(stage.padding, 0, "nobody would answer a probe");
}
