//! An alarm clock that a poll can wait for, finer than the milliseconds that polls count in.
#![expect(unsafe_code, reason = "timerfd, which the standard library does not have")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// A descriptor that becomes readable when a set time has passed.
#[derive(Debug)]
pub struct Alarm {
    fd: OwnedFd,
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    /// Where the kernel gives no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer; its result is checked.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh, nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Rings after this time (at once for zero), in place of what was set before; until it is set again, the descriptor
    /// stays readable from then on.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        // All zero would switch it off.
        self.set_to(after.max(Duration::from_nanos(1)))
    }

    /// Does not ring until it is set again.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn clear(&self) -> io::Result<()> {
        self.set_to(Duration::ZERO)
    }

    fn set_to(&self, after: Duration) -> io::Result<()> {
        let value = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: after.as_secs() as libc::time_t,
                tv_nsec: libc::c_long::from(after.subsec_nanos()),
            },
        };
        // SAFETY: the kernel reads one `itimerspec`, and is not asked for the old value.
        let result =
            unsafe { libc::timerfd_settime(self.fd.as_raw_fd(), 0, &raw const value, std::ptr::null_mut()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wait(alarm: &Alarm, timeout_ms: i32) -> bool {
        let mut poll = libc::pollfd { fd: alarm.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one `pollfd` is passed, and its number.
        unsafe { libc::poll(&raw mut poll, 1, timeout_ms) == 1 }
    }

    #[test]
    fn it_rings_when_it_is_time_and_not_before_it_is_set() {
        let alarm = Alarm::new().unwrap();
        assert!(!wait(&alarm, 0));
        let start = Instant::now();
        alarm.set(Duration::from_micros(300)).unwrap();
        assert!(wait(&alarm, 10_000));
        assert!(start.elapsed() >= Duration::from_micros(300));
        alarm.set(Duration::from_secs(3600)).unwrap();
        assert!(!wait(&alarm, 0), "set anew, it no longer rings for what was before");
        alarm.set(Duration::ZERO).unwrap();
        assert!(wait(&alarm, 10_000));
        alarm.clear().unwrap();
        assert!(!wait(&alarm, 0));
    }
}
