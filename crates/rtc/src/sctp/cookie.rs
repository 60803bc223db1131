//! State cookies (RFC 9260 sections 5.1.3 and 5.2.4): what an association would have to remember of an INIT, kept by the
//! peer instead, and authenticated so that nobody else can make one up.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::packet::{Init, Reader};

/// Authenticator bytes kept.
const MAC_LEN: usize = 16;
/// Valid.Cookie.Life of RFC 9260 section 16.
const LIFE_MS: u64 = 60_000;

/// What is agreed on once the cookie comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cookie {
    /// Milliseconds since the association's first sign of life.
    pub(super) made_ms: u64,
    pub(super) local_tag: u32,
    pub(super) local_tsn: u32,
    pub(super) peer_tag: u32,
    pub(super) peer_tsn: u32,
    pub(super) peer_window: u32,
    pub(super) outbound_streams: u16,
    pub(super) inbound_streams: u16,
    pub(super) forward_tsn: bool,
    pub(super) reconfig: bool,
    /// Local and peer's tag of the association that there was, zero if none.
    pub(super) tie_tags: (u32, u32),
}

impl Cookie {
    /// What the peer's INIT or INIT ACK and our own side come to, at an age of zero and with no association before.
    pub(super) fn agreed(init: &Init<'_>, local_tag: u32, local_tsn: u32) -> Self {
        Self {
            made_ms: 0,
            local_tag,
            local_tsn,
            peer_tag: init.tag,
            peer_tsn: init.tsn,
            peer_window: init.window,
            // What we offer is the most there is: what the peer takes is what both agree on.
            outbound_streams: init.inbound_streams,
            inbound_streams: init.outbound_streams,
            forward_tsn: init.forward_tsn,
            reconfig: init.reconfig,
            tie_tags: (0, 0),
        }
    }

    pub(super) fn seal(&self, key: &hmac::Key) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.made_ms.to_be_bytes());
        for word in [self.local_tag, self.local_tsn, self.peer_tag, self.peer_tsn, self.peer_window] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(self.outbound_streams.to_be_bytes());
        bytes.extend(self.inbound_streams.to_be_bytes());
        bytes.extend(self.tie_tags.0.to_be_bytes());
        bytes.extend(self.tie_tags.1.to_be_bytes());
        bytes.extend([u8::from(self.forward_tsn), u8::from(self.reconfig)]);
        let mac = hmac::sign(key, &bytes);
        bytes.extend(mac.as_ref().iter().take(MAC_LEN));
        bytes
    }

    /// Reads what [`Self::seal`] made with the same key not long ago.
    pub(super) fn open(bytes: &[u8], key: &hmac::Key, now_ms: u64) -> Option<Self> {
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_LEN)?)?;
        let expected = hmac::sign(key, body);
        verify_slices_are_equal(expected.as_ref().get(..MAC_LEN)?, mac).ok()?;
        let mut reader = Reader(body);
        let cookie = Self {
            made_ms: reader.u64()?,
            local_tag: reader.u32()?,
            local_tsn: reader.u32()?,
            peer_tag: reader.u32()?,
            peer_tsn: reader.u32()?,
            peer_window: reader.u32()?,
            outbound_streams: reader.u16()?,
            inbound_streams: reader.u16()?,
            tie_tags: (reader.u32()?, reader.u32()?),
            forward_tsn: reader.u8()? != 0,
            reconfig: reader.u8()? != 0,
        };
        (now_ms.saturating_sub(cookie.made_ms) <= LIFE_MS).then_some(cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: Cookie = Cookie {
        made_ms: 5,
        local_tag: 1,
        local_tsn: 2,
        peer_tag: 3,
        peer_tsn: 4,
        peer_window: 5,
        outbound_streams: 6,
        inbound_streams: 7,
        forward_tsn: true,
        reconfig: false,
        tie_tags: (8, 9),
    };

    #[test]
    fn only_an_untouched_fresh_cookie_of_ours_opens() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let sealed = COOKIE.seal(&key);
        assert_eq!(Cookie::open(&sealed, &key, 60_005), Some(COOKIE));
        assert_eq!(Cookie::open(&sealed, &key, 60_006), None, "stale");
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]);
        assert_eq!(Cookie::open(&sealed, &other, 5), None, "another key");
        for position in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[position] ^= 1;
            assert_eq!(Cookie::open(&forged, &key, 5), None, "byte {position}");
        }
    }
}
