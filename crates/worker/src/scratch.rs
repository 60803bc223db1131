//! Memory that packets pass through: allocated once, reused for each.

use net::udp::RecvBatch;
use rtc::rtcp::ReportBlock;
use rtc::rtp::Ssrc;
use rtc::stream::send::Repeat;

use crate::consumer::allocation::Share;
use crate::consumer::egress::Effect;
use crate::table::ConsumerIdx;

/// Reused buffers. Whoever takes one leaves an empty one behind and puts it back.
#[derive(Debug)]
pub struct Scratch {
    /// What UDP sockets received.
    pub batch: Option<RecvBatch>,
    /// What a TCP connection received.
    pub frame: Vec<u8>,
    /// RTCP that is being written.
    pub rtcp: Vec<u8>,
    /// Sources that a report names.
    pub ssrcs: Vec<Ssrc>,
    /// Report blocks that are being collected.
    pub blocks: Vec<ReportBlock>,
    /// A payload that is being rewritten.
    pub payload: Vec<u8>,
    /// Sequence numbers to ask for.
    pub nacks: Vec<u16>,
    /// Packets to repeat.
    pub repeats: Vec<Repeat>,
    /// What packets caused at Consumers, with the place of the packet among those that were forwarded.
    pub effects: Vec<(ConsumerIdx, Effect, usize)>,
    /// Consumers that bandwidth is given out to.
    pub shares: Vec<Share>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            batch: Some(RecvBatch::new()),
            frame: vec![0; net::udp::MAX_DATAGRAM],
            rtcp: Vec::with_capacity(2048),
            ssrcs: Vec::with_capacity(32),
            blocks: Vec::with_capacity(32),
            payload: Vec::with_capacity(2048),
            nacks: Vec::with_capacity(256),
            repeats: Vec::with_capacity(256),
            effects: Vec::with_capacity(64),
            shares: Vec::new(),
        }
    }
}
