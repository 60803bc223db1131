//! Audio that says only that silence goes on (Opus' DTX), and what a Consumer makes of it that does not want it.

use rtc::rtp::RtpHeader;
use worker_protocol::wire::rtp_parameters::{self as rtp, MediaKind};

use crate::forwarding::{Call, SINK, SOURCE};
use crate::harness::*;

/// A frame that holds sound, and a lone table-of-contents byte.
const SOUND: &[u8] = &[0x78, 1, 2, 3, 4];
const SILENCE: &[u8] = &[0x78];

fn opus(payload_type: u8) -> rtp::RtpCodecParameters {
    rtp::RtpCodecParameters {
        mime_type: "audio/opus".to_owned(),
        clock_rate: 48_000,
        channels: Some(2),
        rtcp_feedback: None,
        ..vp8(payload_type)
    }
}

fn packet(seq: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend_from_slice(&seq.to_be_bytes());
    packet.extend_from_slice(&(u32::from(seq) * 960).to_be_bytes());
    packet.extend_from_slice(&SOURCE.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// What arrives of a talk with a pause: each packet's number from the first, its time, and whether it is sound.
fn heard(ignores_dtx: bool) -> Vec<(u16, u32, bool)> {
    let mut call = Call::new();
    call.harness.ignores_dtx = ignores_dtx;
    let source = parameters(vec![opus(96)], vec![encoding(SOURCE, None)]);
    call.harness.produce("in", "producer", MediaKind::Audio, source);
    let sink = parameters(vec![opus(97)], vec![encoding(SINK, None)]);
    call.harness.consume("out", "consumer", "producer", MediaKind::Audio, sink, 1);
    let talk = [SOUND, SOUND, SILENCE, SILENCE, SILENCE, SOUND, SILENCE, SOUND];
    for (seq, payload) in (0..).zip(talk) {
        call.publish(&packet(seq, payload));
    }
    let mut first = None;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|(_, timestamp, _)| *timestamp != 7 * 960) {
        let datagram = call.next_rtp();
        let header = RtpHeader::parse(&datagram).unwrap();
        let first = *first.get_or_insert(header.sequence.0);
        let sounds = header.payload(&datagram) == SOUND;
        heard.push((header.sequence.0.wrapping_sub(first), header.timestamp, sounds));
    }
    heard
}

#[test]
fn silence_is_left_out_without_a_gap_where_that_is_asked_for() {
    assert_eq!(heard(true), [(0, 0, true), (1, 960, true), (2, 5 * 960, true), (3, 7 * 960, true)]);
}

#[test]
fn silence_is_forwarded_where_nobody_asked_otherwise() {
    let sounds = [true, true, false, false, false, true, false, true];
    let all: Vec<_> = (0..).zip(sounds).map(|(seq, sound)| (seq, u32::from(seq) * 960, sound)).collect();
    assert_eq!(heard(false), all);
}
