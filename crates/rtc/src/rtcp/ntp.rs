//! NTP timestamps and the short delays that reports carry (RFC 3550, sections 4 and 6.4.1).

use std::time::Duration;

/// Seconds from NTP's epoch (1900) to Unix' (1970).
const UNIX_EPOCH_SECONDS: u64 = 2_208_988_800;

/// A wall-clock time in 32.32 fixed-point seconds since 1900; it wraps in 2036.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// From a wall-clock time, given as time since the Unix epoch.
    #[must_use]
    pub fn from_unix(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs().wrapping_add(UNIX_EPOCH_SECONDS) & 0xffff_ffff;
        let fraction = (u64::from(since_epoch.subsec_nanos()) << 32).div_ceil(1_000_000_000);
        Self((seconds << 32) | fraction)
    }

    /// As time since the Unix epoch. Times before 1970 (to 1900 in this era) are taken to lie after the
    /// wrap of 2036.
    #[must_use]
    pub fn to_unix(self) -> Duration {
        let mut seconds = self.0 >> 32;
        if seconds < UNIX_EPOCH_SECONDS {
            seconds = seconds.saturating_add(1 << 32);
        }
        let nanos = (self.0 & 0xffff_ffff).wrapping_mul(1_000_000_000) >> 32;
        Duration::new(seconds.saturating_sub(UNIX_EPOCH_SECONDS), nanos as u32)
    }

    /// The middle 32 bits, 16.16 seconds: what a report block carries as LSR.
    #[must_use]
    pub const fn compact(self) -> u32 {
        ((self.0 >> 16) & 0xffff_ffff) as u32
    }
}

/// A delay in units of 1/65,536 s, as DLSR and DLRR carry it; the longest is about 18 hours.
#[must_use]
pub fn compact_delay(delay: Duration) -> u32 {
    let fraction = (u64::from(delay.subsec_nanos()) << 16).wrapping_div(1_000_000_000);
    let units = delay.as_secs().saturating_mul(65_536).saturating_add(fraction);
    u32::try_from(units).unwrap_or(u32::MAX)
}

/// The round trip that a report block tells (RFC 3550, section 6.4.1): arrival minus LSR minus DLSR.
/// `None` when the peer has seen no sender report (LSR 0), or when the difference is negative, which a
/// clock that was set or a lie can make it.
#[must_use]
pub fn round_trip(arrival: NtpTime, last_sr: u32, delay_since_last_sr: u32) -> Option<Duration> {
    if last_sr == 0 {
        return None;
    }
    let units = arrival.compact().wrapping_sub(last_sr).wrapping_sub(delay_since_last_sr);
    if units.cast_signed() < 0 {
        return None;
    }
    let nanos = u64::from(units).saturating_mul(1_000_000_000) >> 16;
    Some(Duration::from_nanos(nanos))
}
