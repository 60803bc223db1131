//! What a worker process needs of the kernel besides sockets: its inherited descriptors, its signals, its usage.
//!
//! These are here because they cannot be asked for without `unsafe`, which only this crate may write.
#![expect(unsafe_code, reason = "calls of the kernel that the standard library does not have")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Signals that a worker ignores: its driver may send them to the whole process group.
const IGNORED: [libc::c_int; 5] = [libc::SIGPIPE, libc::SIGHUP, libc::SIGALRM, libc::SIGUSR1, libc::SIGUSR2];

/// Descriptors below 64 that [`inherited_fd`] has handed out, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Takes ownership of a descriptor that the parent process left open in this one.
///
/// # Errors
/// `EBADF` where no such descriptor is open; `AlreadyExists` where it was taken before; `InvalidInput` outside 3..64.
pub fn inherited_fd(fd: RawFd) -> io::Result<OwnedFd> {
    let bit = match u32::try_from(fd) {
        Ok(number @ 3..64) => 1_u64 << number,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an inherited descriptor is between 3 and 63",
            ));
        }
    };
    // SAFETY: F_GETFD only reads the descriptor's flags and fails for one that is not open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if TAKEN.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the descriptor was already taken"));
    }
    // SAFETY: the descriptor is open (checked above) and nobody else in this process owns it: descriptors are handed
    // out by this function alone, once each, and a worker takes them before it opens anything of its own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ignores the signals that must not end a worker (PIPE, HUP, ALRM, USR1, USR2).
pub fn ignore_signals() {
    for signal in IGNORED {
        // SAFETY: SIG_IGN installs no handler, so nothing of ours runs in signal context.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A descriptor that becomes readable when INT or TERM arrives; they no longer end the process by themselves.
///
/// # Errors
/// What the kernel answered.
pub fn termination_fd() -> io::Result<OwnedFd> {
    // SAFETY: `sigset_t` is plain data that sigemptyset initialises; the mask is passed by pointer for the duration of
    // each call; signalfd returns a fresh descriptor that nobody else owns.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut mask);
        libc::sigaddset(&mut mask, libc::SIGINT);
        libc::sigaddset(&mut mask, libc::SIGTERM);
        let status = libc::pthread_sigmask(libc::SIG_BLOCK, &mask, std::ptr::null_mut());
        if status != 0 {
            return Err(io::Error::from_raw_os_error(status));
        }
        let fd = libc::signalfd(-1, &mask, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives memory that was freed back to the kernel, pages between what is still used included. Other threads go on meanwhile,
/// but for those that allocate or free. Does nothing where the C library is not glibc.
pub fn give_memory_back() {
    // SAFETY: it takes the allocator's own locks, moves nothing that is in use, and may be called by any thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the process has used so far, as `getrusage(2)` tells it. Times in milliseconds, memory in kilobytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named after those of rusage(2)")]
pub struct ResourceUsage {
    pub utime_ms: u64,
    pub stime_ms: u64,
    pub maxrss: u64,
    pub ixrss: u64,
    pub idrss: u64,
    pub isrss: u64,
    pub minflt: u64,
    pub majflt: u64,
    pub nswap: u64,
    pub inblock: u64,
    pub oublock: u64,
    pub msgsnd: u64,
    pub msgrcv: u64,
    pub nsignals: u64,
    pub nvcsw: u64,
    pub nivcsw: u64,
}

/// Asks the kernel for this process' usage.
///
/// # Errors
/// What the kernel answered.
pub fn resource_usage() -> io::Result<ResourceUsage> {
    // SAFETY: `rusage` is plain data, valid as zeroes, and the kernel fills it through the pointer during the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
            return Err(io::Error::last_os_error());
        }
        usage
    };
    let count = |value: libc::c_long| u64::try_from(value).unwrap_or(0);
    let millis = |time: libc::timeval| count(time.tv_sec) * 1000 + count(time.tv_usec) / 1000;
    Ok(ResourceUsage {
        utime_ms: millis(usage.ru_utime),
        stime_ms: millis(usage.ru_stime),
        maxrss: count(usage.ru_maxrss),
        ixrss: count(usage.ru_ixrss),
        idrss: count(usage.ru_idrss),
        isrss: count(usage.ru_isrss),
        minflt: count(usage.ru_minflt),
        majflt: count(usage.ru_majflt),
        nswap: count(usage.ru_nswap),
        inblock: count(usage.ru_inblock),
        oublock: count(usage.ru_oublock),
        msgsnd: count(usage.ru_msgsnd),
        msgrcv: count(usage.ru_msgrcv),
        nsignals: count(usage.ru_nsignals),
        nvcsw: count(usage.ru_nvcsw),
        nivcsw: count(usage.ru_nivcsw),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_some_memory() {
        assert!(resource_usage().unwrap().maxrss > 0);
    }

    #[test]
    fn descriptors_that_nobody_opened_are_refused() {
        assert!(inherited_fd(63).is_err());
        assert!(inherited_fd(0).is_err());
    }
}
