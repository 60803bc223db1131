//! Attacks with media: replays, identities that are taken, numbers that wrap, addresses that change.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rtc::rtcp;
use rtc::rtp::Ssrc;
use rtc::srtp::Profile;
use rtc::stun::{Class, IntegrityKey, Method, StunBuilder, StunMessage};

use super::stage::Stage;
use crate::endpoint::Identity;
use crate::party::Party;
use crate::router::{Media, RemoteTransport, Router};
use crate::source::{Packet, Shape, Source};

/// How long anything on loopback may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the call under attack.
const VIDEO: u32 = 50_000;
const OUT: u32 = 60_000;

/// A publisher, a subscriber, and what the publisher sent.
struct Call {
    publisher: Party,
    publisher_at: RemoteTransport,
    subscriber: Party,
    subscriber_at: RemoteTransport,
    producer: String,
    source: Source,
    captured: Vec<Vec<u8>>,
}

impl Call {
    fn new(router: &mut Router, ssrc: u32, out: u32) -> Result<Self> {
        let identity = Identity::new(&Profile::PREFERENCE)?;
        let (publisher_at, publisher) = join(router, &identity)?;
        let producer = router.produce(&publisher.transport_id, Media::Video, ssrc, Some(ssrc + 1))?;
        let (subscriber_at, subscriber) = join(router, &identity)?;
        router.consume(&subscriber.transport_id, &producer, Media::Video, ssrc, out, Some(out + 1))?;
        let source = Source::new(Shape::VIDEO, ssrc, Media::Video.payload_type(), None);
        // The first frame is a key frame, and the subscriber is there.
        Ok(Self {
            publisher,
            publisher_at,
            subscriber,
            subscriber_at,
            producer,
            source,
            captured: Vec::new(),
        })
    }

    fn send(&mut self, packet: &Packet) -> Result<()> {
        let endpoint = &mut self.publisher.endpoint;
        let remote = endpoint.remote();
        let datagram = endpoint.protect_rtp(&packet.header, &packet.payload, packet.index)?.to_vec();
        self.publisher.socket.send_to(&datagram, remote)?;
        self.captured.push(datagram);
        Ok(())
    }

    /// A frame, whole and nothing else.
    fn exchange(&mut self) -> Result<()> {
        let packets = self.source.frame();
        for packet in &packets {
            self.send(packet)?;
        }
        self.arrive(&packets)
    }

    fn arrive(&mut self, packets: &[Packet]) -> Result<()> {
        self.subscriber.wait_until("frame", PATIENCE, |party| party.received.len() >= packets.len())?;
        let received = std::mem::take(&mut self.subscriber.received);
        let same =
            received.iter().map(|packet| &packet.payload).eq(packets.iter().map(|packet| &packet.payload));
        ensure!(same, "what arrived is not what was sent: {} packets of {}", received.len(), packets.len());
        ensure!(self.subscriber.refused.is_empty(), "something came twice, or under a wrong key");
        Ok(())
    }
}

/// A peer and where it is, with the password that only it knows.
fn join(router: &mut Router, identity: &Identity) -> Result<(RemoteTransport, Party)> {
    let remote = router.web_rtc_transport()?;
    router.connect_web_rtc(&remote.id, identity.fingerprint())?;
    let mut party = Party::new(identity, &remote)?;
    party.handshake()?;
    Ok((remote, party))
}

/// Every packet three times more from where it came from, once more from elsewhere; RTCP as well.
pub(super) fn replay(stage: &mut Stage) -> Result<()> {
    let mut call = Call::new(&mut stage.router, VIDEO, OUT)?;
    for _ in 0..50 {
        call.exchange()?;
    }
    let remote = call.publisher.endpoint.remote();
    let mut report = Vec::new();
    rtcp::write_pli(&mut report, Ssrc(1), Ssrc(VIDEO));
    let report = call.publisher.endpoint.protect_rtcp(&report)?.to_vec();
    let stranger = UdpSocket::bind("127.0.0.1:0")?;
    let captured = std::mem::take(&mut call.captured);
    for datagrams in captured.chunks(10) {
        for datagram in datagrams {
            for _ in 0..3 {
                call.publisher.socket.send_to(datagram, remote)?;
            }
            stranger.send_to(datagram, remote)?;
        }
        // The worker's socket is a queue: once this has arrived, all before was looked at, and none overflowed.
        call.exchange().context("among the replays")?;
    }
    for _ in 0..4 {
        call.publisher.socket.send_to(&report, remote)?;
    }
    stage.figures.insert("captured", captured.len() as u64);
    // All but the report's first coming are replays.
    let replays = 3 * captured.len() as u64 + 3;
    stage.expect_counter("srtp_replayed", replays)?;
    stage.expect_counter("stray_datagrams", captured.len() as u64)?;
    call.captured.clear();
    call.exchange().context("after the replays")?;
    Ok(())
}

/// Another's SSRC: refused on the same transport, harmless on another, ignored without a Producer.
pub(super) fn collision(stage: &mut Stage) -> Result<()> {
    let mut call = Call::new(&mut stage.router, VIDEO, OUT)?;
    call.exchange()?;
    let router = &mut stage.router;
    let own = call.publisher.transport_id.clone();
    for (ssrc, repair) in
        [(VIDEO, None), (VIDEO + 1, None), (VIDEO + 7, Some(VIDEO)), (VIDEO + 7, Some(VIDEO + 1))]
    {
        let answer = router.produce(&own, Media::Video, ssrc, repair);
        ensure!(answer.is_err(), "a second Producer with SSRC {ssrc} and {repair:?} was taken");
    }
    call.exchange().context("after four refused Producers")?;
    // The same numbers on another transport are another stream.
    let mut double = Call::new(router, VIDEO, OUT)?;
    ensure!(double.producer != call.producer, "two Producers have two ids");
    for _ in 0..20 {
        double.exchange().context("the double")?;
        call.exchange().context("the original")?;
    }
    // And without a Producer they are nobody's.
    let identity = Identity::new(&Profile::PREFERENCE)?;
    let (_, mut intruder) = join(router, &identity)?;
    let mut source = Source::new(Shape::VIDEO, VIDEO, Media::Video.payload_type(), None);
    let mut sent = 0;
    for _ in 0..20 {
        for packet in source.frame() {
            intruder.send_rtp(&packet)?;
            sent += 1;
        }
        call.exchange().context("among the intruder's")?;
    }
    stage.expect_counter("rtp_no_producer", sent)?;
    call.exchange().context("after the intruder")?;
    double.exchange().context("after the intruder")
}

/// Sequence numbers through five turns, with outages of 20,000 packets that hide the wraps, and timestamps through one;
/// then outages of more than half a turn, after which RFC 3711's own estimate of the index is wrong for ever.
pub(super) fn wrap(stage: &mut Stage) -> Result<()> {
    let mut call = Call::new(&mut stage.router, VIDEO, OUT)?;
    let mut index = 65_520_u64;
    let mut timestamp = u32::MAX - 20_000;
    let (mut frames, mut outages) = (0_u64, 0_u64);
    while index < 5 << 16 {
        for _ in 0..20 {
            let mut packets = call.source.frame();
            for packet in &mut packets {
                packet.index = index;
                packet.header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                packet.header[4..8].copy_from_slice(&timestamp.to_be_bytes());
                index += 1;
            }
            timestamp = timestamp.wrapping_add(3_000);
            for packet in &packets {
                call.send(packet)?;
            }
            call.arrive(&packets).with_context(|| format!("frame {frames}, up to packet {index}"))?;
            frames += 1;
        }
        // The publisher's packets do not come through for a while. Of those after, RFC 3550 (appendix A.1) wants two in a
        // row before it believes in the jump.
        index += 20_000;
        timestamp = timestamp.wrapping_add(60_000_000);
        outages += 1;
        back(&mut call, &mut index, &mut timestamp)?;
    }
    stage.figures.insert("frames", frames);
    stage.figures.insert("outages", outages);
    stage.figures.insert("turns", index >> 16);
    stage.figures.insert("srtp_authentication_failed", stage.counter("srtp_authentication_failed")?);
    ensure!(stage.figures["srtp_authentication_failed"] == 0, "the rollover counter was guessed wrong");
    for lost in [40_000, 65_536, 100_000] {
        index += lost;
        timestamp = timestamp.wrapping_add(60_000_000);
        back(&mut call, &mut index, &mut timestamp).with_context(|| format!("after {lost} lost packets"))?;
    }
    Ok(())
}

/// Sends frames until the subscriber gets whole ones again; a second's worth must be enough.
fn back(call: &mut Call, index: &mut u64, timestamp: &mut u32) -> Result<()> {
    call.source.request_key_frame();
    for _ in 0..30 {
        let mut packets = call.source.frame();
        for packet in &mut packets {
            packet.index = *index;
            packet.header[2..4].copy_from_slice(&(*index as u16).to_be_bytes());
            packet.header[4..8].copy_from_slice(&timestamp.to_be_bytes());
            *index += 1;
            call.send(packet)?;
        }
        *timestamp = timestamp.wrapping_add(3_000);
        let end = Instant::now() + Duration::from_millis(33);
        call.subscriber.serve_until(end)?;
        call.publisher.serve_until(Instant::now() + Duration::from_millis(1))?;
        if call.publisher.endpoint.take_key_frame_request(VIDEO) {
            call.source.request_key_frame();
        }
        let received = std::mem::take(&mut call.subscriber.received);
        let whole =
            received.iter().map(|packet| &packet.payload).eq(packets.iter().map(|packet| &packet.payload));
        if whole {
            return Ok(());
        }
    }
    anyhow::bail!("no whole frame within a second of an outage's end")
}

/// Both peers move to other addresses in the middle of the call; strangers try to move them, and fail.
pub(super) fn roam(stage: &mut Stage) -> Result<()> {
    let mut call = Call::new(&mut stage.router, VIDEO, OUT)?;
    call.exchange()?;
    let remote = call.publisher.endpoint.remote();
    // Whoever does not know the password moves nobody, and a right packet from a wrong address is nobody's.
    let stranger = UdpSocket::bind("127.0.9.9:0")?;
    for at in [&call.publisher_at, &call.subscriber_at] {
        for key in [Some("guessed"), None] {
            stranger.send_to(&binding(at, key.map(IntegrityKey::new).as_ref(), 1)?, remote)?;
        }
    }
    let packets = call.source.frame();
    for packet in &packets {
        let datagram = call.publisher.endpoint.protect_rtp(&packet.header, &packet.payload, packet.index)?;
        stranger.send_to(datagram, remote)?;
    }
    stage.expect_counter("stun_refused", 4)?;
    stage.expect_counter("stray_datagrams", packets.len() as u64)?;
    for packet in &packets {
        call.send(packet)?;
    }
    call.arrive(&packets).context("after a stranger's attempts")?;
    stranger.set_nonblocking(true)?;
    let mut buffer = [0; 2048];
    while let Ok((len, _)) = stranger.recv_from(&mut buffer) {
        ensure!(buffer[0] < 4, "a stranger got {len} bytes of media");
    }
    for round in 0..10_u8 {
        let next = UdpSocket::bind((std::net::Ipv4Addr::new(127, 0, 10 + round, 1), 0))?;
        if round % 2 == 0 {
            moved(&next, &call.publisher_at)?;
            call.publisher.socket = next;
        } else {
            moved(&next, &call.subscriber_at)?;
            let left = std::mem::replace(&mut call.subscriber.socket, next);
            call.exchange().with_context(|| format!("move {round}"))?;
            // Nothing more comes to where he was.
            left.set_nonblocking(true)?;
            while let Ok((len, _)) = left.recv_from(&mut buffer) {
                ensure!(
                    buffer[0] < 4 || len == 0 || (192..=223).contains(&buffer[1]),
                    "media went to the old address"
                );
            }
        }
        call.exchange().with_context(|| format!("move {round}"))?;
    }
    stage.figures.insert("moves", 10);
    Ok(())
}

/// A Binding request that nominates.
fn binding(remote: &RemoteTransport, key: Option<&IntegrityKey>, transaction: u8) -> Result<Vec<u8>> {
    let mut out = vec![0; 256];
    let len = StunBuilder::new(&mut out, Class::Request, Method::BINDING, &[transaction; 12])
        .username(&remote.username_fragment, "roaming")
        .priority(1)
        .ice_controlling(7)
        .use_candidate()
        .finish(key)?;
    out.truncate(len);
    Ok(out)
}

/// Nominates a new address, as a browser does that has changed networks, and waits for the answer.
fn moved(socket: &UdpSocket, remote: &RemoteTransport) -> Result<()> {
    let key = IntegrityKey::new(&remote.password);
    socket.send_to(&binding(remote, Some(&key), 9)?, remote.address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 2048];
    let deadline = Instant::now() + PATIENCE;
    loop {
        ensure!(Instant::now() < deadline, "no answer at the new address");
        let (len, _) = socket.recv_from(&mut buffer).context("no answer at the new address")?;
        let Ok(message) = StunMessage::parse(&buffer[..len]) else { continue };
        ensure!(message.class() == Class::SuccessResponse && message.check_integrity(&key), "refused");
        ensure!(message.xor_mapped_address() == Some(socket.local_addr()?), "another address was seen");
        return Ok(());
    }
}
