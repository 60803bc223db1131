//! HMAC-SHA1 (RFC 2104) with the key's two blocks digested beforehand: a packet pays for copying two small states, where a
//! general context of a library is set up and wiped each time.

use boring::sha::Sha1;

/// SHA-1's block.
const BLOCK_LEN: usize = 64;

/// A key of HMAC-SHA1, ready to authenticate.
pub(super) struct HmacSha1 {
    /// SHA-1 after the key xor ipad.
    inner: Sha1,
    /// SHA-1 after the key xor opad.
    outer: Sha1,
}

impl HmacSha1 {
    /// From SRTP's session authentication key (RFC 3711 section 5.2: 160 bits), which is shorter than a block.
    pub(super) fn new(key: &[u8; 20]) -> Self {
        let padded = |pad: u8| {
            let mut block = [pad; BLOCK_LEN];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = Sha1::new();
            state.update(&block);
            state
        };
        Self { inner: padded(0x36), outer: padded(0x5c) }
    }

    /// The whole tag over the parts, one after the other.
    pub(super) fn sign(&self, parts: [&[u8]; 3]) -> [u8; 20] {
        let mut inner = self.inner.clone();
        for part in parts {
            inner.update(part);
        }
        let mut outer = self.outer.clone();
        outer.update(&inner.finish());
        outer.finish()
    }
}
