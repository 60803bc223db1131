//! Batched UDP: many datagrams a system call, in both directions.
//!
//! [`RecvBatch`] takes what waits in a socket with `recvmmsg` into buffers of its own. [`SendQueue`] is the arena of
//! one loop turn: callers reserve room, write a datagram in place and commit it with its destination; one `flush` hands
//! everything to the kernel with `sendmmsg`. Neither allocates once it has grown to its working size.
//!
//! Where the kernel has neither call, `portable` does the same with one datagram a call; both pass the same tests.
//!
//! Datagrams of one destination and one length form runs, which go to the kernel as one message each where it can cut
//! them itself (UDP segmentation offload): a run of six costs what two or three single datagrams do.

mod batch;
pub mod portable;
mod queue;
mod sys;

#[cfg(test)]
mod tests;

pub use batch::{MAX_DATAGRAM, RecvBatch};
pub use queue::{FlushReport, MAX_QUEUED_BYTES, RunHint, SendQueue};
