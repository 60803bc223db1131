//! INIT, INIT ACK, COOKIE ECHO, COOKIE ACK (RFC 9260 section 5), collisions and restarts included.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::established::Established;
use super::{Repeat, SctpAssociation, Stage, T1};
use crate::sctp::cookie::Cookie;
use crate::sctp::packet::{Header, Init, PacketWriter, kind};
use crate::sctp::{SctpEvent, SctpState};

/// Streams offered in both directions: all that a count of 16 bits can say.
const MAX_STREAMS: u16 = 65_535;

impl SctpAssociation {
    /// Begins the handshake, if it has not begun.
    pub fn connect(&mut self, now: Instant) {
        if !matches!(self.stage, Stage::New) {
            return;
        }
        self.epoch.get_or_insert(now);
        (self.local_tag, self.local_tsn) = (random_tag(), random());
        self.stage = Stage::CookieWait;
        self.start_repeating(now);
        self.send_handshake();
        self.events.push_back(SctpEvent::Connecting);
    }

    fn start_repeating(&mut self, now: Instant) {
        self.repeat = Some(Repeat { at: now + T1, interval: T1, sent: 1 });
    }

    /// Sends what the handshake waits with.
    pub(super) fn send_handshake(&mut self) {
        match (&self.stage, &self.peer) {
            (Stage::CookieWait, _) => {
                let init = self.init(None, self.local_tag, self.local_tsn);
                let mut writer = PacketWriter::new(self.header(0));
                writer.chunk(kind::INIT, 0, |out| init.write(out));
                let packet = writer.finish();
                self.reply(packet);
            }
            (Stage::CookieEchoed(cookie), Some(peer)) => {
                let mut writer = PacketWriter::new(self.header(peer.tag));
                writer.chunk(kind::COOKIE_ECHO, 0, |out| out.extend_from_slice(cookie));
                let packet = writer.finish();
                self.reply(packet);
            }
            _ => {}
        }
    }

    fn init<'a>(&self, cookie: Option<&'a [u8]>, tag: u32, tsn: u32) -> Init<'a> {
        Init {
            tag,
            window: u32::try_from(self.options.max_receiver_window).unwrap_or(u32::MAX),
            outbound_streams: MAX_STREAMS,
            inbound_streams: MAX_STREAMS,
            tsn,
            cookie,
            forward_tsn: true,
            reconfig: true,
        }
    }

    /// The peer begins: at first, at the same time as we, or again. Nothing of it is kept.
    pub(super) fn handle_init(&mut self, header: Header, value: &[u8], now: Instant) {
        let Some(init) = Init::parse(value) else {
            self.counts.malformed += 1;
            return;
        };
        self.counts.inits += 1;
        let (local_tag, local_tsn, tie_tags) = match &self.stage {
            Stage::New | Stage::Ended(_) => (random_tag(), random(), (0, 0)),
            Stage::CookieWait | Stage::CookieEchoed(_) => (self.local_tag, self.local_tsn, (0, 0)),
            Stage::Established => {
                let peer_tag = self.peer.as_ref().map_or(0, |peer| peer.tag);
                (random_tag(), random(), (self.local_tag, peer_tag))
            }
        };
        let made_ms = self.age_ms(now);
        let cookie = Cookie { made_ms, tie_tags, ..Cookie::agreed(&init, local_tag, local_tsn) };
        let sealed = cookie.seal(self.key());
        let answer = self.init(Some(&sealed), local_tag, local_tsn);
        let mut writer = PacketWriter::new(Header {
            source_port: header.destination_port,
            destination_port: header.source_port,
            tag: init.tag,
        });
        writer.chunk(kind::INIT_ACK, 0, |out| answer.write(out));
        let packet = writer.finish();
        self.reply(packet);
    }

    pub(super) fn handle_init_ack(&mut self, header: Header, value: &[u8], now: Instant) {
        if !matches!(self.stage, Stage::CookieWait) {
            return;
        }
        let Some((init, echo)) = Init::parse(value).and_then(|init| Some((init, init.cookie?.to_vec())))
        else {
            self.counts.malformed += 1;
            return;
        };
        let cookie = Cookie::agreed(&init, self.local_tag, self.local_tsn);
        self.remote_port = header.source_port;
        self.peer = Some(Box::new(Established::new(&cookie, &self.options)));
        self.stage = Stage::CookieEchoed(echo);
        self.start_repeating(now);
        self.send_handshake();
    }

    /// RFC 9260 section 5.2.4. Returns whether the rest of the packet is of this association.
    pub(super) fn handle_cookie_echo(&mut self, header: Header, value: &[u8], now: Instant) -> bool {
        let now_ms = self.age_ms(now);
        let cookie = Cookie::open(value, self.key(), now_ms).filter(|cookie| cookie.local_tag == header.tag);
        let Some(cookie) = cookie else {
            self.counts.cookies_refused += 1;
            return false;
        };
        let peer_tag = self.peer.as_ref().map_or(0, |peer| peer.tag);
        match &self.stage {
            Stage::New | Stage::Ended(_) => {
                self.events.push_back(SctpEvent::Connecting);
                self.establish(header, &cookie, now);
            }
            // Both began: the cookie has the tag that we began with, unless it is of an attempt before.
            Stage::CookieWait | Stage::CookieEchoed(_) if cookie.local_tag == self.local_tag => {
                self.establish(header, &cookie, now);
            }
            // Action D: our COOKIE ACK was lost.
            Stage::Established if (cookie.local_tag, cookie.peer_tag) == (self.local_tag, peer_tag) => {}
            // Action A: the peer lost its memory and begins anew.
            Stage::Established
                if cookie.tie_tags == (self.local_tag, peer_tag) && cookie.local_tag != self.local_tag =>
            {
                self.queue.restart(&mut self.events);
                self.establish(header, &cookie, now);
            }
            _ => {
                self.counts.cookies_refused += 1;
                return false;
            }
        }
        let mut writer = PacketWriter::new(self.header(cookie.peer_tag));
        writer.chunk(kind::COOKIE_ACK, 0, |_| {});
        let packet = writer.finish();
        self.reply(packet);
        true
    }

    pub(super) fn handle_cookie_ack(&mut self, now: Instant) {
        if matches!(self.stage, Stage::CookieEchoed(_)) {
            self.stage = Stage::Established;
            self.repeat = None;
            if let Some(peer) = &mut self.peer {
                peer.start(now);
            }
            self.events.push_back(SctpEvent::Connected);
        }
    }

    /// Takes what a cookie of ours says for true.
    fn establish(&mut self, header: Header, cookie: &Cookie, now: Instant) {
        let restarted = self.state() == SctpState::Connected;
        (self.local_tag, self.local_tsn) = (cookie.local_tag, cookie.local_tsn);
        (self.local_port, self.remote_port) = (header.destination_port, header.source_port);
        self.repeat = None;
        self.stage = Stage::Established;
        let mut peer = Established::new(cookie, &self.options);
        peer.start(now);
        self.peer = Some(Box::new(peer));
        self.events.push_back(if restarted { SctpEvent::Restarted } else { SctpEvent::Connected });
    }

    fn age_ms(&self, now: Instant) -> u64 {
        let age = self.epoch.map_or(Duration::ZERO, |epoch| now.saturating_duration_since(epoch));
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    /// What authenticates cookies. Made when the first is, so that an idle association needs none.
    fn key(&mut self) -> &hmac::Key {
        self.key.get_or_insert_with(|| {
            let mut secret = [0; 32];
            fill(&mut secret);
            hmac::Key::new(hmac::HMAC_SHA256, &secret)
        })
    }
}

fn random_tag() -> u32 {
    loop {
        let tag = random();
        if tag != 0 {
            return tag;
        }
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[expect(clippy::expect_used, reason = "without randomness there is no tag that a stranger could not guess")]
fn fill(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the generator is seeded by the system, which does not fail at it");
}
