//! What every Transport has, whatever carries its packets: its Producers and Consumers, who is meant by an SSRC, and
//! what it counted. What differs by kind is below `transport/`.

pub mod bwe;
pub mod close;
pub mod dump;
pub mod feedback;
pub mod pipe;
pub mod plain;
pub mod requests;
pub mod sctp;
pub mod srtp;
pub mod web_rtc;

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use net::udp::RunHint;
use rtc::rate::RateCounter;
use rtc::rtp::ExtensionIds;
use rustc_hash::FxHashMap;
use worker_protocol::wire::transport as wire;

use crate::error::{RequestError, RequestResult};
use crate::producer::elements::SenderClocks;
use crate::rtp_listener::RtpListener;
use crate::table::{ConsumerIdx, DataConsumerIdx, DataProducerIdx, ProducerIdx, RouterIdx, SocketIdx};
use crate::timers::TimerKey;

/// The highest bitrate that the channel can ask for; the driver's library knows the same bound.
pub const MAX_BITRATE: u64 = i64::MAX as u64 - 1;

/// The lowest outgoing bitrate that may be asked for, in bit/s.
pub const MIN_OUTGOING_BITRATE: u64 = 30_000;

/// What the path to a peer is assumed to carry where nothing is said, in bit/s; mediasoup's default.
const INITIAL_OUTGOING_BITRATE: u64 = 600_000;

/// From where to where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our socket.
    pub socket: SocketIdx,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// A Transport. What every packet that goes out looks at lies side by side here, in a few cache lines and, of hundreds of
/// Transports, in a few pages; everything else is in [`TransportRest`], which it dereferences to.
#[derive(Debug)]
pub struct Transport {
    /// Whether media can go out.
    pub connected: bool,
    /// What carries its packets.
    pub kind: TransportKind,
    /// Where media goes out.
    pub path: Option<Path>,
    /// The run that media joins on its way out.
    pub run: RunHint,
    /// Transport-wide sequence number of the packet sent last.
    transport_seq: u16,
    /// The keys, once there are any.
    pub srtp: Option<srtp::Srtp>,
    /// What it may send, where its subscriber tells about congestion.
    pub bwe: Option<Box<bwe::Bwe>>,
    /// Everything sent.
    pub sent: RateCounter,
    /// Media sent.
    pub media_sent: RateCounter,
    rest: Box<TransportRest>,
}

/// What a Transport has beside what its outgoing packets need.
#[derive(Debug)]
pub struct TransportRest {
    /// Its id.
    pub id: String,
    /// The Router that it belongs to.
    pub router: RouterIdx,
    /// What it was created with.
    pub options: TransportOptions,
    /// Its Producers, oldest first.
    pub producers: Vec<ProducerIdx>,
    /// Its Consumers, oldest first.
    pub consumers: Vec<ConsumerIdx>,
    /// Its DataProducers, oldest first.
    pub data_producers: Vec<DataProducerIdx>,
    /// Its DataConsumers, oldest first.
    pub data_consumers: Vec<DataConsumerIdx>,
    /// Which Consumer sends which media SSRC.
    pub ssrc_consumers: FxHashMap<u32, ConsumerIdx>,
    /// Which Consumer sends which RTX SSRC.
    pub rtx_ssrc_consumers: FxHashMap<u32, ConsumerIdx>,
    /// Which Producer a received packet belongs to.
    pub listener: RtpListener,
    /// Header extensions that concern the whole transport, as its Producers negotiated them.
    pub recv_extensions: ExtensionIds,
    /// How far the clocks of those who send here are from ours.
    pub sender_clocks: SenderClocks,
    /// What else it counted.
    pub stats: TransportStats,
    /// Bitrate bounds, bit/s, 0 for none.
    pub bitrates: BitrateLimits,
    /// Which trace events are wanted.
    pub traces: TransportTraces,
    /// When RTCP is due.
    pub rtcp_timer: TimerKey,
    /// The path by which authenticated SRTP came last, and when.
    pub secured: Option<(Path, Instant)>,
    /// Its SCTP association, where enabled.
    pub sctp: Option<Box<sctp::Sctp>>,
    /// What its publisher is told about congestion.
    pub feedback: Option<feedback::Feedback>,
}

impl Deref for Transport {
    type Target = TransportRest;

    fn deref(&self) -> &TransportRest {
        &self.rest
    }
}

impl DerefMut for Transport {
    fn deref_mut(&mut self) -> &mut TransportRest {
        &mut self.rest
    }
}

/// What carries a Transport's packets.
#[derive(Debug)]
pub enum TransportKind {
    /// ICE, DTLS, SRTP.
    WebRtc(Box<web_rtc::WebRtc>),
    /// UDP to one peer, perhaps SRTP.
    Plain(Box<plain::Plain>),
    /// UDP to another Router, perhaps SRTP.
    Pipe(Box<pipe::Pipe>),
    /// The channel.
    Direct,
}

/// The part of `transport.Options` that is kept.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// Nothing is sent; packets go through the channel.
    pub direct: bool,
    /// Longest data message sent, in bytes.
    pub max_send_message_size: u32,
    /// Longest data message received, in bytes.
    pub max_receive_message_size: u32,
    /// SCTP as configured, where enabled.
    pub sctp: Option<SctpOptions>,
    /// What the path to the peer is assumed to carry at first, in bit/s.
    pub initial_outgoing_bitrate: u64,
}

/// SCTP as configured.
#[derive(Debug, Clone, Copy)]
pub struct SctpOptions {
    /// Bytes that may wait to be sent.
    pub send_buffer_size: u32,
    /// Bytes that may wait per stream.
    pub per_stream_send_queue_limit: u32,
    /// The receive window.
    pub max_receiver_window_buffer_size: u32,
    /// At how many waiting bytes a stream is said to be low, where nothing else is set.
    pub default_low_threshold: u32,
    /// Whether streams are WebRTC data channels.
    pub is_data_channel: bool,
}

/// Bitrate bounds in bit/s, 0 for none.
#[derive(Debug, Clone, Copy, Default)]
pub struct BitrateLimits {
    /// What the peer is told to stay below.
    pub max_incoming: u64,
    /// What we stay below.
    pub max_outgoing: u64,
    /// What we do not go below.
    pub min_outgoing: u64,
}

/// Which trace events are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct TransportTraces {
    /// Probation packets.
    pub probation: bool,
    /// Bandwidth estimations.
    pub bwe: bool,
}

/// What a batch of media packets came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct MediaSent {
    /// How many there were.
    pub packets: u64,
    /// Their bytes as datagrams.
    pub datagram_bytes: usize,
    /// Their bytes before encryption.
    pub plain_bytes: usize,
}

/// Bytes and bitrates of a Transport, beside those of everything and of all media that it sent.
#[derive(Debug, Default)]
pub struct TransportStats {
    /// Everything received.
    pub recv: RateCounter,
    /// Media received.
    pub rtp_recv: RateCounter,
    /// RTX received.
    pub rtx_recv: RateCounter,
    /// RTX sent.
    pub rtx_send: RateCounter,
}

impl TransportOptions {
    /// Checks `transport.Options`.
    ///
    /// # Errors
    /// `TypeError` for what mediasoup refuses too.
    pub fn parse(options: &wire::Options) -> RequestResult<Self> {
        if options.initial_available_outgoing_bitrate.is_some_and(|bitrate| bitrate > MAX_BITRATE) {
            return Err(RequestError::type_error(format!(
                "wrong initialAvailableOutgoingBitrate (must be <= {MAX_BITRATE})"
            )));
        }
        if options.enable_sctp && options.direct {
            return Err(RequestError::type_error("cannot enable SCTP in a direct Transport"));
        }
        Ok(Self {
            direct: options.direct,
            initial_outgoing_bitrate: options
                .initial_available_outgoing_bitrate
                .unwrap_or(INITIAL_OUTGOING_BITRATE)
                .max(MIN_OUTGOING_BITRATE),
            max_send_message_size: options.max_send_message_size,
            max_receive_message_size: options.max_receive_message_size,
            sctp: options.enable_sctp.then_some(SctpOptions {
                send_buffer_size: options.sctp_send_buffer_size,
                per_stream_send_queue_limit: options.sctp_per_stream_send_queue_limit,
                max_receiver_window_buffer_size: options.sctp_max_receiver_window_buffer_size,
                default_low_threshold: options.sctp_default_stream_buffered_amount_low_threshold,
                is_data_channel: options.is_data_channel,
            }),
        })
    }
}

impl Transport {
    /// A Transport without Producers and Consumers.
    pub fn new(
        id: String,
        router: RouterIdx,
        kind: TransportKind,
        options: TransportOptions,
        rtcp_timer: TimerKey,
    ) -> Self {
        let rest = TransportRest {
            id,
            router,
            options,
            producers: Vec::new(),
            consumers: Vec::new(),
            data_producers: Vec::new(),
            data_consumers: Vec::new(),
            ssrc_consumers: FxHashMap::default(),
            rtx_ssrc_consumers: FxHashMap::default(),
            listener: RtpListener::default(),
            recv_extensions: ExtensionIds::default(),
            sender_clocks: SenderClocks::default(),
            stats: TransportStats::default(),
            bitrates: BitrateLimits::default(),
            traces: TransportTraces::default(),
            rtcp_timer,
            secured: None,
            sctp: None,
            feedback: None,
        };
        Self {
            connected: false,
            kind,
            path: None,
            run: RunHint::default(),
            transport_seq: 0,
            srtp: None,
            bwe: None,
            sent: RateCounter::default(),
            media_sent: RateCounter::default(),
            rest: Box::new(rest),
        }
    }

    /// The next transport-wide sequence number.
    pub fn next_transport_seq(&mut self) -> u16 {
        self.transport_seq = self.transport_seq.wrapping_add(1);
        self.transport_seq
    }

    /// A packet of `len` bytes goes out under a transport-wide number.
    pub fn note_sent(&mut self, transport_seq: u16, len: usize, now: Instant) {
        if let Some(bwe) = &mut self.bwe {
            bwe.estimator.sent(transport_seq, len, now);
        }
    }

    /// Counts a datagram that arrived.
    pub fn data_received(&mut self, bytes: usize, now: Instant) {
        self.stats.recv.add(bytes, now);
    }

    /// Counts the media that a batch of packets was: in datagrams as sent, and before encryption.
    pub fn media_sent(&mut self, sent: &MediaSent, now: Instant) {
        if sent.packets > 0 {
            self.sent.add_batch(sent.datagram_bytes, sent.packets, now);
            self.media_sent.add_batch(sent.plain_bytes, sent.packets, now);
        }
    }

    /// Counts a datagram that was sent.
    pub fn data_sent(&mut self, bytes: usize, now: Instant) {
        self.sent.add(bytes, now);
    }
}
