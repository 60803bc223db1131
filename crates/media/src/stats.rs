//! Statistics as mediasoup's JSON has them. Bitrates are in bit/s, timestamps in ms, sizes in bytes.

use std::collections::BTreeMap;

use ortc::{MediaKind, TransportProtocol};
use serde::Serialize;
use worker_protocol::wire::{rtp_stream, transport};

use crate::{
    event::{DtlsState, IceState},
    wire_parameters::{kind_from_wire, protocol_from_wire},
};

/// The addresses that a transport uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransportTuple {
    /// The same as `local_address`: what older programs read.
    pub local_ip: String,
    /// Ours, as announced.
    pub local_address: String,
    /// Ours.
    pub local_port: u16,
    /// The other side's, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// The other side's, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// UDP or TCP.
    pub protocol: TransportProtocol,
}

impl TransportTuple {
    pub(crate) fn from_wire(tuple: transport::Tuple) -> Self {
        let remote_ip = tuple.remote_ip.filter(|ip| !ip.is_empty());
        Self {
            local_ip: tuple.local_address.clone(),
            local_address: tuple.local_address,
            local_port: tuple.local_port,
            remote_port: remote_ip.is_some().then_some(tuple.remote_port),
            remote_ip,
            protocol: protocol_from_wire(tuple.protocol),
        }
    }
}

/// Statistics of a transport.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are mediasoup's and say what they count")]
pub struct TransportStats {
    #[serde(rename = "type")]
    pub stats_type: &'static str,
    pub transport_id: String,
    pub timestamp: u64,
    pub bytes_received: u64,
    pub recv_bitrate: u64,
    pub bytes_sent: u64,
    pub send_bitrate: u64,
    pub rtp_bytes_received: u64,
    pub rtp_recv_bitrate: u64,
    pub rtp_bytes_sent: u64,
    pub rtp_send_bitrate: u64,
    pub rtx_bytes_received: u64,
    pub rtx_recv_bitrate: u64,
    pub rtx_bytes_sent: u64,
    pub rtx_send_bitrate: u64,
    pub probation_bytes_sent: u64,
    pub probation_send_bitrate: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_outgoing_bitrate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_incoming_bitrate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_incoming_bitrate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_outgoing_bitrate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_outgoing_bitrate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtp_packet_loss_received: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtp_packet_loss_sent: Option<f64>,
    /// WebRtcTransports only.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub web_rtc: Option<WebRtcStats>,
    /// Plain and Pipe transports only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuple: Option<TransportTuple>,
}

/// What only a WebRtcTransport has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebRtcStats {
    /// Always `controlled`.
    pub ice_role: &'static str,
    /// Where ICE stands.
    pub ice_state: IceState,
    /// The addresses in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ice_selected_tuple: Option<TransportTuple>,
    /// Where DTLS stands.
    pub dtls_state: DtlsState,
}

impl TransportStats {
    pub(crate) fn from_wire(stats_type: &'static str, base: transport::Stats) -> Self {
        Self {
            stats_type,
            transport_id: base.transport_id,
            timestamp: base.timestamp,
            bytes_received: base.bytes_received,
            recv_bitrate: base.recv_bitrate,
            bytes_sent: base.bytes_sent,
            send_bitrate: base.send_bitrate,
            rtp_bytes_received: base.rtp_bytes_received,
            rtp_recv_bitrate: base.rtp_recv_bitrate,
            rtp_bytes_sent: base.rtp_bytes_sent,
            rtp_send_bitrate: base.rtp_send_bitrate,
            rtx_bytes_received: base.rtx_bytes_received,
            rtx_recv_bitrate: base.rtx_recv_bitrate,
            rtx_bytes_sent: base.rtx_bytes_sent,
            rtx_send_bitrate: base.rtx_send_bitrate,
            probation_bytes_sent: base.probation_bytes_sent,
            probation_send_bitrate: base.probation_send_bitrate,
            available_outgoing_bitrate: base.available_outgoing_bitrate,
            available_incoming_bitrate: base.available_incoming_bitrate,
            max_incoming_bitrate: base.max_incoming_bitrate,
            max_outgoing_bitrate: base.max_outgoing_bitrate,
            min_outgoing_bitrate: base.min_outgoing_bitrate,
            rtp_packet_loss_received: base.rtp_packet_loss_received,
            rtp_packet_loss_sent: base.rtp_packet_loss_sent,
            web_rtc: None,
            tuple: None,
        }
    }
}

/// Statistics of one RTP stream: `inbound-rtp` from a Producer's endpoint, `outbound-rtp` to a Consumer's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are mediasoup's and say what they count")]
pub struct RtpStreamStats {
    #[serde(rename = "type")]
    pub stats_type: &'static str,
    pub timestamp: u64,
    pub ssrc: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtx_ssrc: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<String>,
    pub kind: MediaKind,
    pub mime_type: String,
    pub packets_lost: i32,
    pub fraction_lost: u8,
    pub jitter: u32,
    pub packets_discarded: u64,
    pub packets_retransmitted: u64,
    pub packets_repaired: u64,
    pub nack_count: u64,
    pub nack_packet_count: u64,
    pub pli_count: u64,
    pub fir_count: u64,
    pub round_trip_time: f32,
    pub rtx_packets_discarded: u64,
    pub score: u8,
    pub packet_count: u64,
    pub byte_count: u64,
    pub bitrate: u64,
    /// By `spatial.temporal`; received streams only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bitrate_by_layer: BTreeMap<String, u64>,
}

impl RtpStreamStats {
    /// `None` where the worker nests its tables in a way that means nothing.
    pub(crate) fn from_wire(stats: rtp_stream::Stats) -> Option<Self> {
        match stats.data {
            rtp_stream::StatsData::RecvStats(received) => {
                let layers =
                    received.bitrate_by_layer.into_iter().map(|entry| (entry.layer, entry.bitrate)).collect();
                Some(Self {
                    packet_count: received.packet_count,
                    byte_count: received.byte_count,
                    bitrate: received.bitrate,
                    bitrate_by_layer: layers,
                    ..Self::base("inbound-rtp", *received.base)?
                })
            }
            rtp_stream::StatsData::SendStats(sent) => Some(Self {
                packet_count: sent.packet_count,
                byte_count: sent.byte_count,
                bitrate: sent.bitrate,
                ..Self::base("outbound-rtp", *sent.base)?
            }),
            rtp_stream::StatsData::BaseStats(_) => None,
        }
    }

    fn base(stats_type: &'static str, stats: rtp_stream::Stats) -> Option<Self> {
        let rtp_stream::StatsData::BaseStats(base) = stats.data else { return None };
        Some(Self {
            stats_type,
            timestamp: base.timestamp,
            ssrc: base.ssrc,
            rtx_ssrc: base.rtx_ssrc,
            rid: base.rid.filter(|rid| !rid.is_empty()),
            kind: kind_from_wire(base.kind),
            mime_type: base.mime_type,
            packets_lost: base.packets_lost,
            fraction_lost: base.fraction_lost,
            jitter: base.jitter,
            packets_discarded: base.packets_discarded,
            packets_retransmitted: base.packets_retransmitted,
            packets_repaired: base.packets_repaired,
            nack_count: base.nack_count,
            nack_packet_count: base.nack_packet_count,
            pli_count: base.pli_count,
            fir_count: base.fir_count,
            round_trip_time: base.round_trip_time,
            rtx_packets_discarded: base.rtx_packets_discarded,
            score: base.score,
            packet_count: 0,
            byte_count: 0,
            bitrate: 0,
            bitrate_by_layer: BTreeMap::new(),
        })
    }
}
