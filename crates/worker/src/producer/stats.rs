//! Streams of either direction as dumps and statistics show them.

use std::time::Instant;

use rtc::stream::{StreamParams, StreamStats};
use worker_protocol::wire::{rtp_parameters, rtp_stream as wire, rtx_stream};

use super::ProducerStream;

/// A stream in a dump.
pub fn dump_stream(params: &StreamParams, score: u8) -> wire::Dump {
    wire::Dump {
        params: Box::new(wire::Params {
            encoding_idx: params.encoding_idx,
            ssrc: params.ssrc.0,
            payload_type: params.payload_type,
            mime_type: params.mime_type.clone(),
            clock_rate: params.clock_rate,
            // The driver's library reads the length of this without looking whether it is there.
            rid: Some(params.rid.clone()),
            cname: params.cname.clone(),
            rtx_ssrc: params.rtx.map(|rtx| rtx.ssrc.0),
            rtx_payload_type: params.rtx.map(|rtx| rtx.payload_type),
            use_nack: params.use_nack,
            use_pli: params.use_pli,
            use_fir: params.use_fir,
            use_in_band_fec: params.use_in_band_fec,
            use_dtx: params.use_dtx,
            spatial_layers: params.spatial_layers,
            temporal_layers: params.temporal_layers,
        }),
        score,
        rtx_stream: params.rtx.map(|rtx| {
            Box::new(rtx_stream::RtxDump {
                params: Box::new(rtx_stream::Params {
                    ssrc: rtx.ssrc.0,
                    payload_type: rtx.payload_type,
                    mime_type: rtx_mime(params),
                    clock_rate: params.clock_rate,
                    rrid: Some(params.rid.clone()),
                    cname: params.cname.clone(),
                }),
            })
        }),
    }
}

fn rtx_mime(params: &StreamParams) -> String {
    if params.is_video() { "video/rtx".to_owned() } else { "audio/rtx".to_owned() }
}

/// Statistics of a sending stream.
pub fn send_stats(params: &StreamParams, stats: &StreamStats, timestamp_ms: u64) -> wire::Stats {
    wire::Stats {
        data: wire::StatsData::SendStats(Box::new(wire::SendStats {
            base: Box::new(base_stats(params, stats, timestamp_ms)),
            packet_count: stats.packet_count,
            byte_count: stats.byte_count,
            bitrate: stats.bitrate,
        })),
    }
}

/// Statistics of a received stream.
pub fn recv_stats(stream: &mut ProducerStream, timestamp_ms: u64, now: Instant) -> wire::Stats {
    let stats = stream.recv.stats(now);
    let (spatial_layers, temporal_layers) =
        (stream.recv.params().spatial_layers, stream.recv.params().temporal_layers);
    let mut bitrate_by_layer = Vec::new();
    if spatial_layers > 1 || temporal_layers > 1 {
        for spatial in 0..spatial_layers {
            for temporal in 0..temporal_layers {
                bitrate_by_layer.push(wire::BitrateByLayer {
                    layer: format!("{spatial}.{temporal}"),
                    bitrate: stream.recv.layer_bitrate(spatial, temporal, now),
                });
            }
        }
    }
    wire::Stats {
        data: wire::StatsData::RecvStats(Box::new(wire::RecvStats {
            base: Box::new(base_stats(stream.recv.params(), &stats, timestamp_ms)),
            packet_count: stats.packet_count,
            byte_count: stats.byte_count,
            bitrate: stats.bitrate,
            bitrate_by_layer,
        })),
    }
}

fn base_stats(params: &StreamParams, stats: &StreamStats, timestamp: u64) -> wire::Stats {
    let base = &stats.base;
    wire::Stats {
        data: wire::StatsData::BaseStats(Box::new(wire::BaseStats {
            timestamp,
            ssrc: params.ssrc.0,
            kind: if params.is_video() {
                rtp_parameters::MediaKind::Video
            } else {
                rtp_parameters::MediaKind::Audio
            },
            mime_type: params.mime_type.clone(),
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
            rid: Some(params.rid.clone()).filter(|rid| !rid.is_empty()),
            rtx_ssrc: params.rtx.map(|rtx| rtx.ssrc.0),
            rtx_packets_discarded: base.rtx_packets_discarded,
            round_trip_time: base.round_trip_time_ms,
            score: base.score,
        })),
    }
}
