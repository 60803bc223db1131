//! Opus packets (RFC 6716, section 3.1): telling discontinuous transmission from sound by the
//! table-of-contents byte and the length.

/// Whether the packet holds no coded sound: frames of codes 0 and 1 that are a lone table-of-contents
/// byte, or a code 2 packet of two empty frames. Such packets say "silence goes on".
#[must_use]
pub fn is_dtx(payload: &[u8]) -> bool {
    match payload {
        [toc] => toc & 0x03 <= 1,
        // In a code 2 packet of two bytes the first frame's length byte can only be zero.
        [toc, _] => toc & 0x03 == 2,
        _ => false,
    }
}
