use super::*;
use crate::stream::{RtxParams, ScoreChange};

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn params(rtx: bool) -> StreamParams {
    let rtx = rtx.then_some(RtxParams { ssrc: Ssrc(2), payload_type: 97 });
    StreamParams { use_nack: true, use_pli: true, rtx, ..StreamParams::new(Ssrc(1), 96, "video/VP8", 90_000) }
}

fn packet(seq: u16) -> IncomingPacket {
    IncomingPacket {
        seq,
        timestamp: u32::from(seq) * 900,
        len: 1_000,
        payload_len: 980,
        ..Default::default()
    }
}

fn asked(stream: &mut RecvStream, now: Instant) -> Vec<u16> {
    let mut out = Vec::new();
    stream.poll_nack(now, &mut out);
    out
}

#[test]
fn lost_packet_is_asked_for_and_repaired_over_rtx() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), false, now);
    stream.receive(&packet(65_535), now);
    stream.receive(&packet(1), now);
    assert_eq!(asked(&mut stream, now + ms(10)), [0]);
    let accepted = stream.receive_rtx(500, 97, &packet(0), now + ms(60)).accepted().unwrap();
    assert_eq!(accepted, Accepted { seq: 2 * 65_536, newest: false, repaired: true, restarted: false });
    assert_eq!(stream.receive_rtx(501, 97, &packet(0), now + ms(61)), Verdict::Duplicate);
    assert_eq!(stream.receive(&packet(0), now + ms(62)), Verdict::Duplicate);
    let base = stream.stats(now + ms(70)).base;
    assert_eq!((base.packets_repaired, base.packets_retransmitted), (1, 2));
    assert_eq!((base.nack_count, base.nack_packet_count), (1, 1));
    // A repair does not undo the loss that reports tell (RFC 4588, section 5).
    assert_eq!(stream.receiver_report_block(0, now).cumulative_lost, 1);
}

#[test]
fn rtx_of_a_wrong_payload_type_or_without_rtx_is_invalid() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), false, now);
    stream.receive(&packet(10), now);
    assert_eq!(stream.receive_rtx(1, 98, &packet(11), now), Verdict::Invalid);
    assert_eq!(stream.stats(now).base.rtx_packets_discarded, 1);
    let mut plain = RecvStream::new(params(false), false, now);
    assert_eq!(plain.receive_rtx(1, 97, &packet(11), now), Verdict::Invalid);
}

#[test]
fn retransmission_without_rtx_is_repaired_only_if_it_was_asked_for() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(false), false, now);
    stream.receive(&packet(10), now);
    stream.receive(&packet(13), now);
    assert!(!stream.receive(&packet(11), now + ms(5)).accepted().unwrap().repaired, "only reordered");
    assert_eq!(asked(&mut stream, now + ms(10)), [12]);
    assert!(stream.receive(&packet(12), now + ms(50)).accepted().unwrap().repaired);
    assert_eq!(stream.stats(now + ms(50)).base.packets_repaired, 1);
}

#[test]
fn receiver_report_tells_loss_of_the_interval_and_in_total() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), false, now);
    for seq in (0..100).filter(|seq| seq % 4 != 1) {
        stream.receive(&packet(65_500_u16.wrapping_add(seq)), now);
    }
    let block = stream.receiver_report_block(0, now);
    assert_eq!((block.fraction_lost, block.cumulative_lost), (64, 25));
    assert_eq!(block.highest_sequence, 0x1_0000 + 63);
    for seq in 100..200 {
        stream.receive(&packet(65_500_u16.wrapping_add(seq)), now);
    }
    let block = stream.receiver_report_block(0, now);
    assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 25));
    let block = stream.receiver_report_block(128, now);
    assert_eq!(block.fraction_lost, 128, "the worst of the consumers");
}

#[test]
fn report_refers_to_the_last_sender_report() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), false, now);
    assert_eq!(stream.receiver_report_block(0, now).last_sr, 0);
    stream.on_sender_report(NtpTime(0x1122_3344_5566_7788), 900, now);
    let block = stream.receiver_report_block(0, now + ms(1_500));
    assert_eq!((block.last_sr, block.delay_since_last_sr), (0x3344_5566, 65_536 + 32_768));
}

#[test]
fn even_arrivals_have_no_jitter_and_uneven_ones_do() {
    let start = Instant::now();
    let mut even = RecvStream::new(params(true), false, start);
    let mut uneven = RecvStream::new(params(true), false, start);
    for seq in 0..500_u16 {
        let at = start + ms(u64::from(seq) * 10);
        even.receive(&packet(seq), at);
        uneven.receive(&packet(seq), at + ms(u64::from(seq % 2) * 5));
    }
    assert_eq!(even.receiver_report_block(0, start).jitter, 0);
    let jitter = uneven.receiver_report_block(0, start).jitter;
    // 5 ms each way: 450 ticks of difference from packet to packet.
    assert!((430..=450).contains(&jitter), "{jitter}");
}

#[test]
fn silent_stream_scores_zero_and_recovers_with_media_not_padding() {
    let start = Instant::now();
    let mut stream = RecvStream::new(params(true), true, start);
    stream.receive(&packet(1), start);
    let timeout = stream.next_timeout().unwrap();
    assert_eq!(timeout, start + INACTIVITY_TIMEOUT);
    stream.handle_timeout(timeout);
    let change = ScoreChange { score: 0, previous: 10 };
    assert_eq!(stream.poll_event(), Some(RecvEvent::Score(change)));
    assert_eq!(stream.poll_event(), None);
    stream.receive(&IncomingPacket { payload_len: 0, ..packet(2) }, timeout + ms(10));
    assert_eq!(stream.poll_event(), None);
    stream.receive(&packet(3), timeout + ms(20));
    let change = ScoreChange { score: 10, previous: 0 };
    assert_eq!(stream.poll_event(), Some(RecvEvent::Score(change)));
}

#[test]
fn loss_lowers_the_score_with_sender_reports() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), false, now);
    for seq in (0..100).filter(|seq| seq % 2 == 0) {
        stream.receive(&packet(seq), now);
    }
    stream.on_sender_report(NtpTime(1), 0, now);
    assert!(stream.score() < 3, "{}", stream.score());
}

#[test]
fn burst_of_loss_wants_a_key_frame() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), false, now);
    stream.receive(&packet(1), now);
    stream.receive(&packet(1_500), now);
    assert_eq!(stream.poll_event(), Some(RecvEvent::KeyFrameNeeded));
    assert_eq!(stream.poll_event(), None);
    assert_eq!(stream.request_key_frame(), Some(KeyFrameRequest::Pli));
}

#[test]
fn restarted_sender_goes_on_with_greater_numbers() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), false, now);
    let last = stream.receive(&packet(40_000), now).accepted().unwrap();
    assert_eq!(stream.receive(&packet(10), now), Verdict::Invalid);
    let restarted = stream.receive(&packet(11), now).accepted().unwrap();
    assert!(restarted.restarted && restarted.seq > last.seq && restarted.seq as u16 == 11);
    assert!(asked(&mut stream, now + ms(10)).is_empty(), "nothing is asked for over a restart");
}

#[test]
fn paused_stream_asks_for_nothing() {
    let now = Instant::now();
    let mut stream = RecvStream::new(params(true), true, now);
    stream.receive(&packet(1), now);
    stream.pause();
    stream.receive(&packet(5), now);
    assert!(asked(&mut stream, now + ms(10)).is_empty());
    assert_eq!(stream.next_timeout(), None);
    stream.resume(now + ms(20));
    stream.receive(&packet(9), now + ms(20));
    stream.receive(&packet(11), now + ms(20));
    assert_eq!(asked(&mut stream, now + ms(30)), [10]);
}

#[test]
fn bitrate_by_layer_counts_what_a_consumer_of_the_layer_gets() {
    let start = Instant::now();
    let params = StreamParams { spatial_layers: 2, temporal_layers: 2, ..params(true) };
    let mut stream = RecvStream::new(params, false, start);
    for seq in 0..400_u16 {
        let spatial_layer = (seq % 4 / 2) as u8;
        let incoming = IncomingPacket { spatial_layer, temporal_layer: (seq % 2) as u8, ..packet(seq) };
        stream.receive(&incoming, start + ms(u64::from(seq) * 10));
    }
    let now = start + ms(3_999);
    let whole = stream.bitrate(now);
    assert!((760_000..=800_000).contains(&whole), "{whole}");
    assert_eq!(stream.layer_bitrate(1, 1, now), whole);
    assert!(stream.layer_bitrate(0, 0, now).abs_diff(whole / 4) < 10_000);
    assert!(stream.layer_bitrate(1, 0, now).abs_diff(whole * 3 / 4) < 10_000);
    assert!(stream.spatial_layer_bitrate(1, now).abs_diff(whole / 2) < 10_000);
    assert_eq!(stream.layer_bitrate(2, 0, now) + stream.layer_bitrate(0, 2, now), 0);
    assert_eq!(stream.stats(now).packet_count, 400);
}
