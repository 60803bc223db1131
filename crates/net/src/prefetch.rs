//! Fetching memory into the caches ahead of its use. A fan-out touches the state of hundreds of receivers, each a few
//! dozen cache lines that nothing else has touched for milliseconds: asked for in time, they come at once instead of one
//! after the other.
#![expect(unsafe_code, reason = "the standard library has no stable prefetch")]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Lines that one call fetches at most.
const MAX_LINES: usize = 16;

/// Asks the processor to fetch `value`'s own bytes, not what it points to; at most a kilobyte. Costs about a nanosecond a
/// line and has no other effect.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    let offset = start.addr() % LINE;
    let lines = (offset + size_of_val(value)).div_ceil(LINE).min(MAX_LINES);
    for line in 0..lines {
        prefetch_line(start.wrapping_sub(offset).wrapping_add(line * LINE));
    }
}

/// Asks for the one line at an address, whatever is there.
#[inline]
pub fn prefetch_at<T>(address: *const T) {
    prefetch_line(address.cast());
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint: it neither reads nor writes as far as a program can tell, and no address faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn prefetch_line(address: *const u8) {
    // SAFETY: as above; the instruction changes neither registers nor flags.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn prefetch_line(_address: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_can_be_fetched() {
        prefetch(&());
        prefetch("");
        prefetch(&[0_u8; 5000]);
        prefetch(&vec![1_u64; 3][..]);
    }
}
