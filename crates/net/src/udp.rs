//! Batched UDP: many datagrams a system call, in both directions.
//!
//! [`RecvBatch`] takes what waits in a socket with `recvmmsg` into buffers of its own. [`SendQueue`] is the arena of
//! one loop turn: callers reserve room, write a datagram in place and commit it with its destination; one `flush` hands
//! everything to the kernel with `sendmmsg`. Neither allocates once it has grown to its working size.
//!
//! Where the kernel has neither call, `portable` does the same with one datagram a call; both pass the same tests.
//!
//! What is queued stays in order, and neighbours of one destination and one length lie side by side in the arena: that
//! is the shape that UDP segmentation offload takes (one message, one address, one segment size).

mod batch;
pub mod portable;
mod queue;
mod sys;

#[cfg(test)]
mod tests;

pub use batch::{MAX_DATAGRAM, RecvBatch};
pub use queue::{FlushReport, MAX_QUEUED_BYTES, SendQueue};
