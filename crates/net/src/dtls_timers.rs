//! What BoringSSL's safe bindings leave out for DTLS: its retransmission timers and their clock (RFC 6347 section
//! 4.2.4, RFC 9147 section 5.8), and two limits on memory.
//!
//! `rtc` may not depend on this crate; its `dtls::DtlsTimers` takes these functions as pointers.
//!
//! BoringSSL reads a clock of its own. [`prepare_context`] puts another in its place, that stands where [`set_now`] has
//! set it on this thread: time is passed in, and a test's clock is the one that counts.

#![expect(unsafe_code, reason = "the functions are not in the safe bindings")]

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use boring::ssl::{SslContextBuilder, SslRef};
use boring_sys as ffi;
use foreign_types::ForeignTypeRef;

/// What the clock shows at the first instant that it is given. Far enough from zero for earlier ones.
const EPOCH: Duration = Duration::from_secs(1 << 30);

/// Longest handshake message that is put together from fragments, in bytes. The longest honest one is a certificate
/// chain; BoringSSL's own limit of 100 kB could be asked for by any peer, and each would hold it.
const MAX_HANDSHAKE_MESSAGE: usize = 16 * 1024;

/// The instant that the clock counts from.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(EPOCH) };
}

/// Puts this module's clock into a context, and bounds the length of handshake messages.
pub fn prepare_context(context: &mut SslContextBuilder) {
    // SAFETY: the pointer is that of a live context which nobody else uses while it is borrowed mutably. `read_clock` has
    // the signature that the function wants, is valid for ever, and touches nothing but its output argument.
    unsafe {
        ffi::SSL_CTX_set_current_time_cb(context.as_ptr(), Some(read_clock));
        ffi::SSL_CTX_set_max_cert_list(context.as_ptr(), MAX_HANDSHAKE_MESSAGE);
    }
}

/// Sets the clock of this thread. To be called before anything else is done with a connection.
pub fn set_now(now: Instant) {
    let origin = *ORIGIN.get_or_init(|| now);
    let time = match now.checked_duration_since(origin) {
        Some(later) => EPOCH.saturating_add(later),
        None => EPOCH.saturating_sub(origin.duration_since(now)),
    };
    NOW.set(time);
}

/// Sets how long the first flight waits for its answer (it doubles from there), and lets the connection free what only a
/// handshake needs as soon as it has ended.
pub fn prepare_connection(ssl: &mut SslRef, initial_timeout: Duration) {
    let milliseconds = u32::try_from(initial_timeout.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: the pointer is that of a live connection which nobody else uses while it is borrowed mutably.
    unsafe {
        ffi::DTLSv1_set_initial_timeout_duration(ssl.as_ptr(), milliseconds);
        ffi::SSL_set_shed_handshake_config(ssl.as_ptr(), 1);
    }
}

/// Time until the connection's next timer is due, by this thread's clock; `None` when none runs.
pub fn timeout(ssl: &SslRef) -> Option<Duration> {
    let mut left = ffi::timeval { tv_sec: 0, tv_usec: 0 };
    // SAFETY: the pointer is that of a live connection, which is only read; `left` is valid for writes.
    let running = unsafe { ffi::DTLSv1_get_timeout(ssl.as_ptr(), &mut left) };
    if running != 1 {
        return None;
    }
    let seconds = u64::try_from(left.tv_sec).unwrap_or_default();
    let microseconds = u64::try_from(left.tv_usec).unwrap_or_default();
    Some(Duration::from_secs(seconds).saturating_add(Duration::from_micros(microseconds)))
}

/// Does what is due: sends a flight or an acknowledgement again. `false` when the connection has failed, the peer having
/// been silent for too many repeats.
pub fn handle_timeout(ssl: &mut SslRef) -> bool {
    // SAFETY: the pointer is that of a live connection which nobody else uses while it is borrowed mutably. It writes to the
    // connection's transport, which the safe bindings have set up for being called from here as from any other function.
    unsafe { ffi::DTLSv1_handle_timeout(ssl.as_ptr()) >= 0 }
}

/// Sends the flight that waits for its answer again before its timer says so, as if it had. It counts among BoringSSL's
/// twelve repeats like any other, and `initial_timeout` is again what it doubles from. As [`handle_timeout`] otherwise.
pub fn repeat_now(ssl: &mut SslRef, initial_timeout: Duration) -> bool {
    // SAFETY: the pointer is that of a live connection which nobody else uses while it is borrowed mutably.
    unsafe { ffi::DTLSv1_set_initial_timeout_duration(ssl.as_ptr(), 0) };
    let alive = handle_timeout(ssl);
    prepare_connection(ssl, initial_timeout);
    alive
}

/// BoringSSL's question for the time.
unsafe extern "C" fn read_clock(_ssl: *const ffi::SSL, out: *mut ffi::timeval) {
    let now = NOW.get();
    let time = ffi::timeval {
        tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        tv_usec: i64::from(now.subsec_micros()),
    };
    // SAFETY: BoringSSL passes a pointer to a `timeval` of its own that is valid for writes during the call.
    unsafe { out.write(time) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Duration {
        let mut time = ffi::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: `time` is valid for writes.
        unsafe { read_clock(std::ptr::null(), &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
    }

    #[test]
    fn clock_stands_where_it_was_set() {
        let start = Instant::now() + Duration::from_secs(10);
        set_now(start);
        let first = shown();
        set_now(start + Duration::from_millis(1500));
        assert_eq!(shown() - first, Duration::from_millis(1500));
        set_now(start - Duration::from_secs(5));
        assert_eq!(first - shown(), Duration::from_secs(5));
    }
}
