//! A peer that is who it says it is, and misbehaves: garbage in valid SRTP, storms of feedback, damaged handshakes on a
//! path that ICE has validated.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rtc::rtcp::{self, FirEntry, NtpTime, SenderInfo};
use rtc::rtp::{Bitrate, DatagramKind, SeqNo, Ssrc};

use super::mutate::Mutator;
use super::outsider::{Fence, Templates};
use crate::endpoint::{Endpoint, Identity};
use crate::party::Party;
use crate::router::{Media, RemoteTransport};
use crate::source::{Shape, Source};

/// Packets between two looks at whether the worker is through with them.
const ROUND: usize = 64;
/// How long a vandal goes on with one handshake. Most of them are beyond saving long before.
const HANDSHAKE: Duration = Duration::from_millis(150);

/// SSRCs that the peer has a right to name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams {
    /// What it sends: video, or zero.
    pub producer: u32,
    /// What it receives: video, or zero.
    pub consumer: u32,
}

/// The peer, connected.
#[derive(Debug)]
pub struct Insider {
    party: Party,
    fence: Fence,
    streams: Streams,
    mutator: Mutator,
    /// The SRTP index of each stream's last packet.
    indexes: HashMap<u32, u64>,
}

impl Insider {
    /// Makes a connected peer misbehave. `remote` is its transport.
    ///
    /// # Errors
    /// Where no socket can be bound.
    pub fn new(party: Party, remote: &RemoteTransport, streams: Streams, seed: u64) -> Result<Self> {
        Ok(Self {
            party,
            fence: Fence::new(remote)?,
            streams,
            mutator: Mutator::new(seed),
            indexes: HashMap::new(),
        })
    }

    /// Goes on with another sequence of garbage.
    pub fn reseed(&mut self, seed: u64) {
        self.mutator = Mutator::new(seed);
    }

    /// Sends one round of made-up RTP and RTCP, well encrypted, and waits until the worker is through with it.
    ///
    /// # Errors
    /// Where it is not within 5 s.
    pub fn round(&mut self) -> Result<()> {
        for _ in 0..ROUND {
            if self.mutator.below(2) == 0 {
                self.send_rtp()?;
            } else {
                self.send_rtcp()?;
            }
        }
        self.settle()
    }

    /// Asks `count` times for a key frame of what it receives, PLI and FIR in turns.
    ///
    /// # Errors
    /// As [`Insider::round`].
    pub fn key_frame_storm(&mut self, count: usize) -> Result<()> {
        let ssrc = Ssrc(self.streams.consumer);
        for i in 0..count {
            let mut request = Vec::new();
            if i % 4 == 3 {
                rtcp::write_fir(&mut request, Ssrc(1), &[FirEntry { ssrc, command: i as u8 }]);
            } else {
                rtcp::write_pli(&mut request, Ssrc(1), ssrc);
            }
            self.party.send_rtcp(&request)?;
            if i % ROUND == ROUND - 1 {
                self.settle()?;
            }
        }
        self.settle()
    }

    /// Asks `count` times for everything that was ever sent to it.
    ///
    /// # Errors
    /// As [`Insider::round`].
    pub fn nack_storm(&mut self, count: usize) -> Result<()> {
        for i in 0..count {
            let mut request = Vec::new();
            let first = (i * 400) as u16;
            let all = (0..400).map(|n| SeqNo(first.wrapping_add(n)));
            rtcp::write_nack(&mut request, Ssrc(1), Ssrc(self.streams.consumer), all);
            self.party.send_rtcp(&request)?;
            // Repeats come back on the same socket; what overflows it is this peer's own loss.
            if i % 16 == 15 {
                self.settle()?;
            }
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<()> {
        self.fence.wait()?;
        self.party.serve_until(Instant::now() + Duration::from_micros(100))?;
        self.party.received.clear();
        self.party.refused.clear();
        Ok(())
    }

    fn send_rtp(&mut self) -> Result<()> {
        let known = [self.streams.producer, self.streams.producer + 1, self.streams.consumer];
        // Many unknown ones, among them always new ones: a table of streams must not grow with them.
        let ssrc = match self.mutator.below(4) {
            0 => known[self.mutator.below(known.len())],
            1 => self.mutator.below(50) as u32,
            _ => self.mutator.number(),
        };
        // Mostly the next number, sometimes a gap, which asks for repeats that never come.
        let step = if self.mutator.below(10) == 0 { 1 + self.mutator.below(2_000) as u64 } else { 1 };
        let index = self.indexes.entry(ssrc).or_default();
        *index += step;
        let index = *index;
        let payload_types = [Media::Video.payload_type(), 102, Media::Audio.payload_type(), 0, 127, 96];
        let payload_type = payload_types[self.mutator.below(payload_types.len())];
        let marker = if self.mutator.below(3) == 0 { 0x80 } else { 0 };
        let csrc_count = if self.mutator.below(4) == 0 { self.mutator.below(16) } else { 0 };
        let has_extension = self.mutator.below(2) == 0;
        let padding = if self.mutator.below(4) == 0 { 0x20 } else { 0 };
        let first = 0x80 | padding | if has_extension { 0x10 } else { 0 } | csrc_count as u8;
        let mut header = vec![first, marker | payload_type];
        header.extend((index as u16).to_be_bytes());
        header.extend(self.mutator.number().to_be_bytes());
        header.extend(ssrc.to_be_bytes());
        header.extend(self.mutator.random(csrc_count * 4, csrc_count * 4));
        if has_extension {
            let words = self.mutator.below(8);
            let profiles = [0xbede_u16, 0x1000, 0x1005, 0x0001];
            header.extend(profiles[self.mutator.below(profiles.len())].to_be_bytes());
            header.extend((words as u16).to_be_bytes());
            header.extend(self.mutator.random(words * 4, words * 4));
        }
        // A payload descriptor that lies, or an end where one was due.
        let payload = match self.mutator.below(3) {
            0 => self.mutator.random(0, 8),
            1 => {
                let shape = [Shape::VIDEO, Shape::AUDIO][self.mutator.below(2)];
                let packets = Source::new(shape, ssrc, payload_type, None).frame();
                let valid = packets.into_iter().next().map(|packet| packet.payload).unwrap_or_default();
                self.mutator.mutate(&valid)
            }
            _ => self.mutator.random(0, 1_200),
        };
        self.party.endpoint.send_rtp(&self.party.socket, &header, &payload, index)
    }

    fn send_rtcp(&mut self) -> Result<()> {
        let templates = compounds(&[self.streams.producer, self.streams.consumer, self.mutator.number()]);
        let mut plain = match self.mutator.below(6) {
            0 => self.mutator.random(8, 1_200),
            _ => match self.mutator.pick(&templates).cloned() {
                Some(template) => self.mutator.mutate(&template),
                None => Vec::new(),
            },
        };
        // SRTCP needs a first header word that says RTCP, and a source; what follows is anybody's guess.
        plain.resize(plain.len().max(8), 0);
        plain[0] = 0x80 | plain[0] & 0x3f;
        plain[1] = 192 + plain[1] % 32;
        self.party.send_rtcp(&plain)
    }
}

/// Valid RTCP of every kind about these sources.
pub fn compounds(sources: &[u32]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for &ssrc in sources {
        let ssrc = Ssrc(ssrc);
        let mut write = |writer: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            writer(&mut out);
            all.push(out);
        };
        write(&|out| {
            let info = SenderInfo {
                ssrc,
                ntp: NtpTime(0xdead_beef_0000_0001),
                rtp_timestamp: 1,
                packet_count: 2,
                octet_count: 3,
            };
            rtcp::write_sender_report(out, &info, &[]);
            rtcp::write_sdes_cname(out, ssrc, "insider");
        });
        write(&|out| {
            rtcp::write_receiver_report(out, ssrc, &[]);
            rtcp::write_xr_rrtr(out, ssrc, NtpTime(7));
        });
        write(&|out| rtcp::write_nack(out, Ssrc(1), ssrc, (0..40).map(SeqNo)));
        write(&|out| rtcp::write_pli(out, Ssrc(1), ssrc));
        write(&|out| rtcp::write_fir(out, Ssrc(1), &[FirEntry { ssrc, command: 1 }]));
        write(&|out| rtcp::write_remb(out, Ssrc(1), Bitrate(1_000_000), &[ssrc]));
        write(&|out| rtcp::write_bye(out, &[ssrc]));
        // Transport-wide feedback: base 1, two packets in a run, one delta each.
        write(&|out| {
            out.extend([0x8f, 205, 0, 5, 0, 0, 0, 1]);
            out.extend(ssrc.0.to_be_bytes());
            out.extend([0, 1, 0, 2, 0, 0, 1, 0, 0x20, 2, 4, 4]);
        });
    }
    all
}

/// A peer whose ICE is right and whose DTLS is broken on the way: damaged, repeated, held back.
///
/// # Errors
/// Where no socket can be bound, or ICE is not answered.
pub fn vandalized_handshake(
    identity: &Identity,
    remote: &RemoteTransport,
    mutator: &mut Mutator,
) -> Result<()> {
    let mut endpoint = Endpoint::new(identity, remote, Instant::now())?;
    let local = if remote.address.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let socket = UdpSocket::bind(local).context("cannot bind a loopback socket")?;
    let deadline = Instant::now() + HANDSHAKE;
    let mut held = Vec::new();
    let mut out = Vec::new();
    let mut datagram = [0; 2_048];
    while Instant::now() < deadline && endpoint.profile().is_none() {
        while endpoint.poll_transmit(Instant::now(), &mut out) {
            if DatagramKind::of(&out) != DatagramKind::Dtls {
                socket.send_to(&out, remote.address)?;
                continue;
            }
            for _ in 0..4 {
                socket.send_to(&mutator.mutate(&out), remote.address)?;
            }
            held.push(out.clone());
            // Sometimes the real one comes too, so that later flights get their turn.
            if mutator.below(3) != 0
                && let Some(real) = mutator.pick(&held)
            {
                socket.send_to(real, remote.address)?;
            }
        }
        let wait = endpoint.next_timeout().min(deadline).saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(wait.max(Duration::from_micros(50))))?;
        if let Ok(len) = socket.recv(&mut datagram) {
            endpoint.handle_datagram(Instant::now(), &mut datagram[..len], |_| {});
        }
        if endpoint.handle_timeout(Instant::now()).is_err() {
            break; // The server has had enough, or the client has.
        }
    }
    // What it would send once connected, before the server is, and what it has no key for.
    for _ in 0..32 {
        let mut garbage = mutator.random(12, 400);
        garbage[0] = 0x80;
        garbage[1] = if mutator.below(2) == 0 { 96 } else { 200 };
        socket.send_to(&garbage, remote.address)?;
    }
    Ok(())
}

/// Templates of everything that a peer sends: its recorded handshake, and media and reports, protected and not.
///
/// # Errors
/// Where the peer is not connected.
pub fn templates(party: &mut Party, ssrc: u32) -> Result<Templates> {
    let mut templates = Templates::default();
    for datagram in party.endpoint.take_recorded() {
        templates.learn(datagram);
    }
    for shape in [Shape::VIDEO, Shape::AUDIO, Shape::THIN_VIDEO] {
        let mut source = Source::new(shape, ssrc, shape.media.payload_type(), Some((1, "0".into())));
        for packet in source.frame().into_iter().take(2) {
            templates.learn([&packet.header[..], &packet.payload].concat());
            templates
                .learn(party.endpoint.protect_rtp(&packet.header, &packet.payload, packet.index)?.to_vec());
        }
    }
    for plain in compounds(&[ssrc]) {
        templates.learn(party.endpoint.protect_rtcp(&plain)?.to_vec());
        templates.learn(plain);
    }
    Ok(templates)
}
