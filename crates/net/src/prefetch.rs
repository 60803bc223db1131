//! Fetching memory into the caches ahead of its use. A fan-out touches the state of hundreds of receivers, each a few
//! dozen cache lines that nothing else has touched for milliseconds: asked for in time, they come at once instead of one
//! after the other.
#![expect(unsafe_code, reason = "the standard library has no stable prefetch")]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Lines that one call fetches at most.
const MAX_LINES: usize = 24;

/// Words of a value that may be addresses.
const MAX_WORDS: usize = 4;

/// Below this nothing is mapped.
const LOWEST_ADDRESS: usize = 0x1_0000;

/// Asks the processor to fetch `value`'s own bytes, not what it points to; at most 1.5 kB. Costs about a nanosecond a
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

/// Asks for what `value` points to: `bytes` from each of its words on that can be an address. For state that a library
/// keeps behind a pointer of its own. A wrong guess costs a few nanoseconds and has no other effect.
#[inline]
pub fn prefetch_behind<T: ?Sized>(value: &T, bytes: usize) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    if !start.addr().is_multiple_of(size_of::<usize>()) {
        return;
    }
    for word in (0..size_of_val(value) / size_of::<usize>()).take(MAX_WORDS) {
        let address = read_word(start.wrapping_add(word * size_of::<usize>()));
        // Small numbers are lengths and tags, and what is allocated is aligned.
        if address > LOWEST_ADDRESS && address.is_multiple_of(align_of::<usize>()) {
            for line in 0..=(bytes / LINE).min(MAX_LINES) {
                prefetch_line(std::ptr::without_provenance(address.wrapping_add(line * LINE)));
            }
        }
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

/// Reads a word of a value, which may be padding that nobody ever wrote: only the processor's own load gives such bytes
/// a value.
#[cfg(target_arch = "x86_64")]
#[inline]
fn read_word(address: *const u8) -> usize {
    let word: usize;
    // SAFETY: the caller's address is aligned and lies, with the seven bytes behind it, within a value that is borrowed; the
    // instruction reads these and changes neither memory nor flags.
    unsafe {
        std::arch::asm!("mov {}, [{}]", out(reg) word, in(reg) address, options(nostack, preserves_flags, readonly));
    }
    word
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn read_word(address: *const u8) -> usize {
    let word: usize;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("ldr {}, [{}]", out(reg) word, in(reg) address, options(nostack, preserves_flags, readonly));
    }
    word
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn read_word(_address: *const u8) -> usize {
    0
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

    #[test]
    fn what_is_no_address_does_no_harm() {
        prefetch_behind(&(Box::new([1_u8; 600]), 7_u16), 600);
        prefetch_behind(&[usize::MAX, 0, 1 << 63, 0xdead_bee8], 1 << 20);
        prefetch_behind("x", 64);
        prefetch_behind(&None::<Box<u8>>, 64);
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_word_is_read_as_it_is() {
        let value = 0x0123_4567_89ab_cdef_usize;
        let read = read_word((&raw const value).cast());
        assert!(read == value || cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))));
    }
}
