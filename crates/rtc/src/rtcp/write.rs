//! Writing RTCP packets to the end of a buffer. Several writes in a row make a compound packet.

use super::{
    BYE, DlrrReport, EXTENDED_REPORT, FORMAT_APPLICATION, FORMAT_FIR, FORMAT_NACK, FORMAT_PLI, FirEntry,
    NtpTime, PAYLOAD_SPECIFIC_FEEDBACK, RECEIVER_REPORT, ReportBlock, SENDER_REPORT, SOURCE_DESCRIPTION,
    SenderInfo, TRANSPORT_LAYER_FEEDBACK,
};
use crate::rtp::{Bitrate, SeqNo, Ssrc};

/// The most blocks, sources or chunks that the count of five bits can tell.
pub const MAX_REPORT_BLOCKS: usize = 31;

/// Writes a packet: `body` appends what follows the first word. The length is filled in, after zero
/// bytes up to a full word.
pub(super) fn write_packet(
    out: &mut Vec<u8>,
    count: usize,
    packet_type: u8,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0x80 | (count & 0x1f) as u8, packet_type, 0, 0]);
    body(out);
    let len = out.len().saturating_sub(start);
    let padded = len.next_multiple_of(4);
    out.resize(start.saturating_add(padded), 0);
    let words = (padded / 4).saturating_sub(1) as u16;
    if let Some([_, _, l0, l1, ..]) = out.get_mut(start..) {
        [*l0, *l1] = words.to_be_bytes();
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_blocks(out: &mut Vec<u8>, blocks: &[ReportBlock]) {
    for block in blocks {
        out.extend_from_slice(&block.to_bytes());
    }
}

/// Writes a sender report with the first [`MAX_REPORT_BLOCKS`] of `blocks`.
pub fn write_sender_report(out: &mut Vec<u8>, info: &SenderInfo, blocks: &[ReportBlock]) {
    let blocks = blocks.get(..MAX_REPORT_BLOCKS).unwrap_or(blocks);
    write_packet(out, blocks.len(), SENDER_REPORT, |out| {
        put_u32(out, info.ssrc.0);
        out.extend_from_slice(&info.ntp.0.to_be_bytes());
        put_u32(out, info.rtp_timestamp);
        put_u32(out, info.packet_count);
        put_u32(out, info.octet_count);
        put_blocks(out, blocks);
    });
}

/// Writes receiver reports: one packet for every [`MAX_REPORT_BLOCKS`] blocks, an empty one where there
/// is none.
pub fn write_receiver_report(out: &mut Vec<u8>, ssrc: Ssrc, blocks: &[ReportBlock]) {
    let mut rest = blocks;
    loop {
        let (now, later) = rest.split_at_checked(MAX_REPORT_BLOCKS).unwrap_or((rest, &[]));
        write_packet(out, now.len(), RECEIVER_REPORT, |out| {
            put_u32(out, ssrc.0);
            put_blocks(out, now);
        });
        if later.is_empty() {
            return;
        }
        rest = later;
    }
}

/// Writes the description of one source by its canonical name, of which at most 255 bytes are written.
pub fn write_sdes_cname(out: &mut Vec<u8>, ssrc: Ssrc, cname: &str) {
    let cname = cname.as_bytes();
    let cname = cname.get(..255).unwrap_or(cname);
    write_packet(out, 1, SOURCE_DESCRIPTION, |out| {
        put_u32(out, ssrc.0);
        out.extend_from_slice(&[1, cname.len() as u8]);
        out.extend_from_slice(cname);
        // At least one zero byte ends the items; `write_packet` fills the word.
        out.push(0);
    });
}

/// Writes a goodbye for the first [`MAX_REPORT_BLOCKS`] of `sources`.
pub fn write_bye(out: &mut Vec<u8>, sources: &[Ssrc]) {
    let sources = sources.get(..MAX_REPORT_BLOCKS).unwrap_or(sources);
    write_packet(out, sources.len(), BYE, |out| {
        for ssrc in sources {
            put_u32(out, ssrc.0);
        }
    });
}

/// Writes a NACK for sequence numbers in rising (circular) order; out of order they cost more room,
/// nothing else. Nothing is written where there are none.
pub fn write_nack(
    out: &mut Vec<u8>,
    sender_ssrc: Ssrc,
    media_ssrc: Ssrc,
    sequences: impl IntoIterator<Item = SeqNo>,
) {
    let mut sequences = sequences.into_iter();
    let Some(mut first) = sequences.next() else { return };
    write_packet(out, usize::from(FORMAT_NACK), TRANSPORT_LAYER_FEEDBACK, |out| {
        put_u32(out, sender_ssrc.0);
        put_u32(out, media_ssrc.0);
        let mut following = 0_u16;
        for sequence in sequences {
            match sequence.0.wrapping_sub(first.0) {
                0 => {}
                distance @ 1..=16 => following |= 1 << distance.wrapping_sub(1),
                _ => {
                    put_nack_entry(out, first, following);
                    (first, following) = (sequence, 0);
                }
            }
        }
        put_nack_entry(out, first, following);
    });
}

fn put_nack_entry(out: &mut Vec<u8>, first: SeqNo, following: u16) {
    out.extend_from_slice(&first.0.to_be_bytes());
    out.extend_from_slice(&following.to_be_bytes());
}

/// Writes a picture loss indication.
pub fn write_pli(out: &mut Vec<u8>, sender_ssrc: Ssrc, media_ssrc: Ssrc) {
    write_packet(out, usize::from(FORMAT_PLI), PAYLOAD_SPECIFIC_FEEDBACK, |out| {
        put_u32(out, sender_ssrc.0);
        put_u32(out, media_ssrc.0);
    });
}

/// Writes a full intra request; its common media source is 0, as RFC 5104 has it.
pub fn write_fir(out: &mut Vec<u8>, sender_ssrc: Ssrc, entries: &[FirEntry]) {
    write_packet(out, usize::from(FORMAT_FIR), PAYLOAD_SPECIFIC_FEEDBACK, |out| {
        put_u32(out, sender_ssrc.0);
        put_u32(out, 0);
        for entry in entries {
            put_u32(out, entry.ssrc.0);
            out.extend_from_slice(&[entry.command, 0, 0, 0]);
        }
    });
}

/// Writes a receiver estimated maximum bitrate for at most 255 sources. The rate is rounded down to the
/// 18 bits that there are.
pub fn write_remb(out: &mut Vec<u8>, sender_ssrc: Ssrc, bitrate: Bitrate, sources: &[Ssrc]) {
    let sources = sources.get(..255).unwrap_or(sources);
    let significant_bits = 64_u32.saturating_sub(bitrate.0.leading_zeros());
    let exponent = significant_bits.saturating_sub(18);
    let mantissa = bitrate.0.checked_shr(exponent).unwrap_or(0) as u32 & 0x3_ffff;
    let [_, m2, m1, m0] = mantissa.to_be_bytes();
    write_packet(out, usize::from(FORMAT_APPLICATION), PAYLOAD_SPECIFIC_FEEDBACK, |out| {
        put_u32(out, sender_ssrc.0);
        put_u32(out, 0);
        out.extend_from_slice(b"REMB");
        out.extend_from_slice(&[sources.len() as u8, ((exponent as u8) << 2) | m2, m1, m0]);
        for ssrc in sources {
            put_u32(out, ssrc.0);
        }
    });
}

/// Writes an extended report with a receiver's reference time.
pub fn write_xr_rrtr(out: &mut Vec<u8>, ssrc: Ssrc, ntp: NtpTime) {
    write_packet(out, 0, EXTENDED_REPORT, |out| {
        put_u32(out, ssrc.0);
        out.extend_from_slice(&[4, 0, 0, 2]);
        out.extend_from_slice(&ntp.0.to_be_bytes());
    });
}

/// Writes an extended report that answers receivers' reference times.
pub fn write_xr_dlrr(out: &mut Vec<u8>, ssrc: Ssrc, reports: &[DlrrReport]) {
    write_packet(out, 0, EXTENDED_REPORT, |out| {
        put_u32(out, ssrc.0);
        let words = reports.len().saturating_mul(3) as u16;
        let [l0, l1] = words.to_be_bytes();
        out.extend_from_slice(&[5, 0, l0, l1]);
        for report in reports {
            put_u32(out, report.ssrc.0);
            put_u32(out, report.last_rr);
            put_u32(out, report.delay_since_last_rr);
        }
    });
}
