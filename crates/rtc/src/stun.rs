//! STUN messages: RFC 8489, with the attributes of ICE (RFC 8445 section 7.1) and of renomination.
//!
//! Parses and writes; what a message means for a connection is `ice`'s business. Both sides are here, so that
//! a client (a load generator) can build requests and check responses with the same code. Works on borrowed
//! bytes and allocates nothing.
//!
//! A request without MESSAGE-INTEGRITY parses: whoever answers it with an error must be able to read it.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod builder;
mod crc32;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

pub use builder::StunBuilder;

/// Length of the fixed header.
pub const HEADER_LEN: usize = 20;

/// The fixed value in bytes 4 to 8 of every message (RFC 8489 section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_a442;

const FINGERPRINT_XOR: u32 = 0x5354_554e;
const INTEGRITY_LEN: usize = 20;
/// RFC 8489 section 14.3.
const MAX_USERNAME_LEN: usize = 513;
/// RFC 8489 section 14.14.
const MAX_SOFTWARE_LEN: usize = 763;

/// Attribute types (RFC 8489 section 18.3, RFC 8445 section 16.1).
mod attribute {
    pub(super) const USERNAME: u16 = 0x0006;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const PRIORITY: u16 = 0x0024;
    pub(super) const USE_CANDIDATE: u16 = 0x0025;
    /// draft-thatcher-ice-renomination, as registered.
    pub(super) const NOMINATION: u16 = 0x0030;
    pub(super) const SOFTWARE: u16 = 0x8022;
    pub(super) const FINGERPRINT: u16 = 0x8028;
    pub(super) const ICE_CONTROLLED: u16 = 0x8029;
    pub(super) const ICE_CONTROLLING: u16 = 0x802a;
    /// The number that libwebrtc uses for NOMINATION.
    pub(super) const NOMINATION_LIBWEBRTC: u16 = 0xc001;
}

/// A message's class (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wants a response.
    Request,
    /// Wants none.
    Indication,
    /// The request was granted.
    SuccessResponse,
    /// The request was refused.
    ErrorResponse,
}

/// A message's method (RFC 8489 section 5); only Binding means anything to ICE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method(pub u16);

impl Method {
    /// The Binding method.
    pub const BINDING: Self = Self(1);
}

/// What pairs a response with its request.
pub type TransactionId = [u8; 12];

/// Why bytes are no STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// First byte, cookie or size is not that of a STUN message.
    #[error("not a stun message")]
    NotStun,
    /// The length field does not agree with the datagram or is no multiple of four.
    #[error("wrong message length")]
    Length,
    /// An attribute runs past the message's end, or has a length that its type forbids.
    #[error("malformed attribute")]
    Attribute,
    /// The FINGERPRINT is not the last attribute or not the message's checksum.
    #[error("wrong fingerprint")]
    Fingerprint,
    /// The message to be written does not fit into the given buffer.
    #[error("output slice too short")]
    NoSpace,
}

/// Whether a datagram is STUN, by first byte (RFC 7983 section 7) and magic cookie.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN
        && datagram.first().is_some_and(|&first| first < 4)
        && datagram.get(4..8) == Some(&MAGIC_COOKIE.to_be_bytes())
}

/// The prepared key of MESSAGE-INTEGRITY under a short-term credential (RFC 8489 section 14.5).
#[derive(Clone, Debug)]
pub struct IntegrityKey(hmac::Key);

impl IntegrityKey {
    /// The key of a password; ICE passwords need no SASLprep.
    pub fn new(password: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()))
    }
}

/// A parsed message. Of an attribute given twice, the first counts.
#[derive(Clone, Debug)]
pub struct StunMessage<'a> {
    bytes: &'a [u8],
    class: Class,
    method: Method,
    transaction_id: &'a TransactionId,
    username: Option<&'a [u8]>,
    priority: Option<u32>,
    ice_controlling: Option<u64>,
    ice_controlled: Option<u64>,
    use_candidate: bool,
    nomination: Option<u32>,
    software: Option<&'a [u8]>,
    xor_mapped_address: Option<SocketAddr>,
    error_code: Option<(u16, &'a [u8])>,
    /// Offset of the MESSAGE-INTEGRITY attribute, and its value.
    integrity: Option<(usize, &'a [u8])>,
    has_fingerprint: bool,
}

impl<'a> StunMessage<'a> {
    /// Parses one datagram. Attributes of unknown type are skipped, as mediasoup does it; those after
    /// MESSAGE-INTEGRITY but FINGERPRINT are ignored, as nobody vouches for them (RFC 8489 section 14.5).
    ///
    /// # Errors
    /// Whatever [`StunError`] says, but [`StunError::NoSpace`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StunError> {
        if !is_stun(bytes) {
            return Err(StunError::NotStun);
        }
        let (header, attributes) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(StunError::NotStun)?;
        let [t0, t1, l0, l1, _, _, _, _, transaction_id @ ..] = header;
        let message_type = u16::from_be_bytes([*t0, *t1]);
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if length != attributes.len() || length % 4 != 0 {
            return Err(StunError::Length);
        }
        let (class, method) = split_type(message_type);
        let mut message = Self {
            bytes,
            class,
            method,
            transaction_id,
            username: None,
            priority: None,
            ice_controlling: None,
            ice_controlled: None,
            use_candidate: false,
            nomination: None,
            software: None,
            xor_mapped_address: None,
            error_code: None,
            integrity: None,
            has_fingerprint: false,
        };
        let mut offset = HEADER_LEN;
        let mut rest = attributes;
        while let Some(([k0, k1, l0, l1], tail)) = rest.split_first_chunk::<4>() {
            if message.has_fingerprint {
                return Err(StunError::Fingerprint);
            }
            let kind = u16::from_be_bytes([*k0, *k1]);
            let len = usize::from(u16::from_be_bytes([*l0, *l1]));
            let padded = len.checked_next_multiple_of(4).ok_or(StunError::Attribute)?;
            let value = tail.get(..len).ok_or(StunError::Attribute)?;
            rest = tail.get(padded..).ok_or(StunError::Attribute)?;
            message.take_attribute(kind, value, offset)?;
            offset =
                offset.checked_add(padded).and_then(|sum| sum.checked_add(4)).ok_or(StunError::Attribute)?;
        }
        Ok(message)
    }

    fn take_attribute(&mut self, kind: u16, value: &'a [u8], offset: usize) -> Result<(), StunError> {
        if kind == attribute::FINGERPRINT {
            let covered = self.bytes.get(..offset).ok_or(StunError::Attribute)?;
            if word(value)? != crc32::checksum(covered) ^ FINGERPRINT_XOR {
                return Err(StunError::Fingerprint);
            }
            self.has_fingerprint = true;
            return Ok(());
        }
        if self.integrity.is_some() {
            return Ok(());
        }
        match kind {
            attribute::MESSAGE_INTEGRITY => {
                limit(value, INTEGRITY_LEN..=INTEGRITY_LEN)?;
                self.integrity = Some((offset, value));
            }
            attribute::USERNAME => {
                limit(value, 0..=MAX_USERNAME_LEN)?;
                self.username.get_or_insert(value);
            }
            attribute::SOFTWARE => {
                limit(value, 0..=MAX_SOFTWARE_LEN)?;
                self.software.get_or_insert(value);
            }
            attribute::PRIORITY => {
                self.priority.get_or_insert(word(value)?);
            }
            attribute::NOMINATION | attribute::NOMINATION_LIBWEBRTC => {
                self.nomination.get_or_insert(word(value)?);
            }
            attribute::ICE_CONTROLLING => {
                self.ice_controlling.get_or_insert(long_word(value)?);
            }
            attribute::ICE_CONTROLLED => {
                self.ice_controlled.get_or_insert(long_word(value)?);
            }
            attribute::USE_CANDIDATE => {
                limit(value, 0..=0)?;
                self.use_candidate = true;
            }
            attribute::XOR_MAPPED_ADDRESS => {
                let address = unmask_address(value, self.transaction_id).ok_or(StunError::Attribute)?;
                self.xor_mapped_address.get_or_insert(address);
            }
            attribute::ERROR_CODE => {
                let ([_, _, class, number], reason) =
                    value.split_first_chunk::<4>().ok_or(StunError::Attribute)?;
                let code = u16::from(class & 7).saturating_mul(100).saturating_add(u16::from(*number));
                self.error_code.get_or_insert((code, reason));
            }
            _ => {}
        }
        Ok(())
    }

    /// The message's class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The message's method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The transaction that the message belongs to.
    pub fn transaction_id(&self) -> &'a TransactionId {
        self.transaction_id
    }

    /// Length of the whole message in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no message is empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// USERNAME as text, if it is UTF-8. In ICE: receiver's ufrag, colon, sender's ufrag.
    pub fn username(&self) -> Option<&'a str> {
        self.username.and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The ufrag of the receiver: what USERNAME has before the colon (RFC 8445 section 7.2.2). Tells which
    /// of several transports behind one socket is meant.
    pub fn local_username_fragment(&self) -> Option<&'a str> {
        self.username()?.split_once(':').map(|(local, _)| local)
    }

    /// PRIORITY.
    pub fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// The tie breaker of ICE-CONTROLLING.
    pub fn ice_controlling(&self) -> Option<u64> {
        self.ice_controlling
    }

    /// The tie breaker of ICE-CONTROLLED.
    pub fn ice_controlled(&self) -> Option<u64> {
        self.ice_controlled
    }

    /// Whether USE-CANDIDATE is present.
    pub fn use_candidate(&self) -> bool {
        self.use_candidate
    }

    /// The counter of the renomination attribute, under either of its numbers.
    pub fn nomination(&self) -> Option<u32> {
        self.nomination
    }

    /// SOFTWARE as text, if it is UTF-8.
    pub fn software(&self) -> Option<&'a str> {
        self.software.and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// XOR-MAPPED-ADDRESS: where the responder saw the request come from.
    pub fn xor_mapped_address(&self) -> Option<SocketAddr> {
        self.xor_mapped_address
    }

    /// ERROR-CODE: number and reason (empty when it is not UTF-8).
    pub fn error_code(&self) -> Option<(u16, &'a str)> {
        self.error_code.map(|(code, reason)| (code, std::str::from_utf8(reason).unwrap_or_default()))
    }

    /// Whether MESSAGE-INTEGRITY is present; that it is right only [`Self::check_integrity`] says.
    pub fn has_integrity(&self) -> bool {
        self.integrity.is_some()
    }

    /// Whether FINGERPRINT is present; parsing has checked it.
    pub fn has_fingerprint(&self) -> bool {
        self.has_fingerprint
    }

    /// Whether MESSAGE-INTEGRITY is present and made with this key. Takes the same time for every wrong value.
    pub fn check_integrity(&self, key: &IntegrityKey) -> bool {
        let Some((offset, value)) = self.integrity else {
            return false;
        };
        let Some(covered) = self.bytes.get(HEADER_LEN..offset) else {
            return false;
        };
        let computed = integrity(key, self.bytes, covered);
        verify_slices_are_equal(computed.as_ref(), value).is_ok()
    }
}

/// HMAC over a header whose length field ends with MESSAGE-INTEGRITY, and the attributes before it.
fn integrity(key: &IntegrityKey, message: &[u8], attributes: &[u8]) -> hmac::Tag {
    let length = attributes.len().saturating_add(INTEGRITY_LEN).saturating_add(4) as u16;
    let mut context = hmac::Context::with_key(&key.0);
    context.update(message.get(..2).unwrap_or_default());
    context.update(&length.to_be_bytes());
    context.update(message.get(4..HEADER_LEN).unwrap_or_default());
    context.update(attributes);
    context.sign()
}

/// Class and method are interleaved (RFC 8489 section 5, figure 3).
fn split_type(message_type: u16) -> (Class, Method) {
    let class = match message_type & 0x0110 {
        0x0000 => Class::Request,
        0x0010 => Class::Indication,
        0x0100 => Class::SuccessResponse,
        _ => Class::ErrorResponse,
    };
    let method = (message_type & 0x000f) | ((message_type & 0x00e0) >> 1) | ((message_type & 0x3e00) >> 2);
    (class, Method(method))
}

fn join_type(class: Class, Method(method): Method) -> u16 {
    let class = match class {
        Class::Request => 0x0000,
        Class::Indication => 0x0010,
        Class::SuccessResponse => 0x0100,
        Class::ErrorResponse => 0x0110,
    };
    (method & 0x000f) | ((method & 0x0070) << 1) | ((method & 0x0f80) << 2) | class
}

fn limit(value: &[u8], allowed: std::ops::RangeInclusive<usize>) -> Result<(), StunError> {
    if allowed.contains(&value.len()) { Ok(()) } else { Err(StunError::Attribute) }
}

fn word(value: &[u8]) -> Result<u32, StunError> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| StunError::Attribute)
}

fn long_word(value: &[u8]) -> Result<u64, StunError> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| StunError::Attribute)
}

/// Cookie and transaction id: what addresses are masked with (RFC 8489 section 14.2).
fn address_mask(transaction_id: &TransactionId) -> u128 {
    transaction_id.iter().fold(u128::from(MAGIC_COOKIE), |mask, &byte| (mask << 8) | u128::from(byte))
}

fn unmask_address(value: &[u8], transaction_id: &TransactionId) -> Option<SocketAddr> {
    let ([_, family, p0, p1], address) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([*p0, *p1]) ^ (MAGIC_COOKIE >> 16) as u16;
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes(address.try_into().ok()?) ^ MAGIC_COOKIE)),
        2 => {
            let bits = u128::from_be_bytes(address.try_into().ok()?) ^ address_mask(transaction_id);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
