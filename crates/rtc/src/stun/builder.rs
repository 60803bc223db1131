//! Writing STUN messages into a caller's buffer: RFC 8489 section 5 and 14.

use std::net::SocketAddr;

use super::{
    Class, FINGERPRINT_XOR, HEADER_LEN, INTEGRITY_LEN, IntegrityKey, MAGIC_COOKIE, Method, StunError,
    TransactionId, address_mask, attribute, crc32, integrity, join_type,
};

/// Writes one message. Attributes follow in the order of the calls; what does not fit is remembered and
/// reported by [`Self::finish`].
#[derive(Debug)]
pub struct StunBuilder<'a> {
    out: &'a mut [u8],
    len: usize,
    transaction_id: TransactionId,
    overflow: bool,
}

impl<'a> StunBuilder<'a> {
    /// Begins a message in `out`.
    pub fn new(out: &'a mut [u8], class: Class, method: Method, transaction_id: &TransactionId) -> Self {
        let mut builder = Self { out, len: 0, transaction_id: *transaction_id, overflow: false };
        builder.push(&join_type(class, method).to_be_bytes());
        builder.push(&[0, 0]);
        builder.push(&MAGIC_COOKIE.to_be_bytes());
        builder.push(transaction_id);
        builder
    }

    /// USERNAME: the receiver's ufrag, a colon, the sender's.
    #[must_use]
    pub fn username(mut self, receiver: &str, sender: &str) -> Self {
        let len = receiver.len().saturating_add(sender.len()).saturating_add(1);
        self.attribute_header(attribute::USERNAME, len);
        self.push(receiver.as_bytes());
        self.push(b":");
        self.push(sender.as_bytes());
        self.pad(len)
    }

    /// PRIORITY: the priority that a peer-reflexive candidate of this path would have.
    #[must_use]
    pub fn priority(self, priority: u32) -> Self {
        self.attribute(attribute::PRIORITY, &priority.to_be_bytes())
    }

    /// ICE-CONTROLLING with its tie breaker.
    #[must_use]
    pub fn ice_controlling(self, tie_breaker: u64) -> Self {
        self.attribute(attribute::ICE_CONTROLLING, &tie_breaker.to_be_bytes())
    }

    /// ICE-CONTROLLED with its tie breaker.
    #[must_use]
    pub fn ice_controlled(self, tie_breaker: u64) -> Self {
        self.attribute(attribute::ICE_CONTROLLED, &tie_breaker.to_be_bytes())
    }

    /// USE-CANDIDATE: nominates the path.
    #[must_use]
    pub fn use_candidate(self) -> Self {
        self.attribute(attribute::USE_CANDIDATE, &[])
    }

    /// NOMINATION: nominates the path over those with lower counters.
    #[must_use]
    pub fn nomination(self, counter: u32) -> Self {
        self.attribute(attribute::NOMINATION_LIBWEBRTC, &counter.to_be_bytes())
    }

    /// SOFTWARE.
    #[must_use]
    pub fn software(self, name: &str) -> Self {
        self.attribute(attribute::SOFTWARE, name.as_bytes())
    }

    /// XOR-MAPPED-ADDRESS.
    #[must_use]
    pub fn xor_mapped_address(self, address: SocketAddr) -> Self {
        let port = (address.port() ^ (MAGIC_COOKIE >> 16) as u16).to_be_bytes();
        match address {
            SocketAddr::V4(v4) => {
                let [a, b, c, d] = (v4.ip().to_bits() ^ MAGIC_COOKIE).to_be_bytes();
                self.attribute(attribute::XOR_MAPPED_ADDRESS, &[0, 1, port[0], port[1], a, b, c, d])
            }
            SocketAddr::V6(v6) => {
                let masked = (v6.ip().to_bits() ^ address_mask(&self.transaction_id)).to_be_bytes();
                let mut builder = self;
                builder.attribute_header(attribute::XOR_MAPPED_ADDRESS, 20);
                builder.push(&[0, 2]);
                builder.push(&port);
                builder.push(&masked);
                builder
            }
        }
    }

    /// ERROR-CODE, 300 to 699, with a reason that may be empty.
    #[must_use]
    pub fn error_code(mut self, code: u16, reason: &str) -> Self {
        let len = reason.len().saturating_add(4);
        self.attribute_header(attribute::ERROR_CODE, len);
        self.push(&[0, 0, (code / 100) as u8, (code % 100) as u8]);
        self.push(reason.as_bytes());
        self.pad(len)
    }

    /// Ends the message with MESSAGE-INTEGRITY, if a key is given, and FINGERPRINT; returns its length.
    ///
    /// # Errors
    /// [`StunError::NoSpace`] when the message does not fit.
    pub fn finish(mut self, key: Option<&IntegrityKey>) -> Result<usize, StunError> {
        if let Some(key) = key {
            let covered = self.out.get(HEADER_LEN..self.len).ok_or(StunError::NoSpace)?;
            let tag = integrity(key, self.out, covered);
            self.attribute_header(attribute::MESSAGE_INTEGRITY, INTEGRITY_LEN);
            self.push(tag.as_ref());
        }
        // The checksum covers the length field as it will be at last.
        let length = self.len.saturating_add(8).saturating_sub(HEADER_LEN);
        let length = u16::try_from(length).map_err(|_| StunError::NoSpace)?;
        self.out.get_mut(2..4).ok_or(StunError::NoSpace)?.copy_from_slice(&length.to_be_bytes());
        let covered = self.out.get(..self.len).ok_or(StunError::NoSpace)?;
        let checksum = crc32::checksum(covered) ^ FINGERPRINT_XOR;
        let finished = self.attribute(attribute::FINGERPRINT, &checksum.to_be_bytes());
        if finished.overflow { Err(StunError::NoSpace) } else { Ok(finished.len) }
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.attribute_header(kind, value.len());
        self.push(value);
        self.pad(value.len())
    }

    fn attribute_header(&mut self, kind: u16, len: usize) {
        self.push(&kind.to_be_bytes());
        match u16::try_from(len) {
            Ok(len) => self.push(&len.to_be_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    fn pad(mut self, len: usize) -> Self {
        let missing = len.wrapping_neg() % 4;
        self.push([0; 3].get(..missing).unwrap_or_default());
        self
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        match self.out.get_mut(self.len..end) {
            Some(slot) if !self.overflow => {
                slot.copy_from_slice(bytes);
                self.len = end;
            }
            _ => self.overflow = true,
        }
    }
}
