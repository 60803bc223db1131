//! CRC-32C (Castagnoli), the checksum of SCTP packets (RFC 9260 appendix A), eight bytes a step.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[n][byte]`: the remainder of `byte` followed by `n` zeros.
static TABLES: [[u32; 256]; 8] = tables();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where a wrong index is an error")]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = remainder;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// The remainder after `bytes` as well; begin with `u32::MAX`, invert at the end.
#[expect(clippy::indexing_slicing, reason = "bytes index tables of 256, and there are eight tables")]
pub(super) fn update(mut remainder: u32, bytes: &[u8]) -> u32 {
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let Ok(eight) = <[u8; 8]>::try_from(chunk) else { continue };
        let mixed = u64::from_le_bytes(eight) ^ u64::from(remainder);
        let at = mixed.to_le_bytes();
        remainder = 0;
        for (position, byte) in at.iter().enumerate() {
            remainder ^= TABLES[7 - position][usize::from(*byte)];
        }
    }
    for byte in chunks.remainder() {
        remainder = (remainder >> 8) ^ TABLES[0][usize::from(remainder as u8 ^ byte)];
    }
    remainder
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_value_of_the_polynomial() {
        assert_eq!(!super::update(u32::MAX, b"123456789"), 0xe306_9283);
        assert_eq!(!super::update(u32::MAX, b"12345678"), 0x6087_809a);
    }
}
