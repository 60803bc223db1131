//! CRC-32 of ISO 3309 (polynomial 0xEDB88320, reflected), as FINGERPRINT wants it (RFC 8489 section 14.7).

/// One step of the remainder for every byte value.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut remainder = byte;
        let mut bit = 0;
        while bit < 8 {
            let carry = if remainder & 1 == 1 { 0xedb8_8320 } else { 0 };
            remainder = (remainder >> 1) ^ carry;
            bit = next(bit);
        }
        set(&mut table, byte, remainder);
        byte = next(byte);
    }
    table
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where a wrong index is an error")]
const fn set(table: &mut [u32; 256], index: u32, value: u32) {
    table[index as usize] = value;
}

const fn next(number: u32) -> u32 {
    number.wrapping_add(1)
}

/// The checksum of `bytes`.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |remainder, &byte| {
        let slot = TABLE.get(usize::from(remainder as u8 ^ byte)).copied().unwrap_or_default();
        (remainder >> 8) ^ slot
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_value_of_the_polynomial() {
        assert_eq!(super::checksum(b"123456789"), 0xcbf4_3926);
    }
}
