//! Forwarding: what one peer sends reaches the others whole, and what they miss is repeated.

use anyhow::Result;
use bench::router::Media;
use bench::source::Shape;
use rtc::rtcp;
use rtc::rtp::{SeqNo, Ssrc};
use rtc::srtp::Profile;

use crate::support::{Call, PATIENCE, Subscriber, VIDEO, worker};

const FRAMES: usize = 40;
const GCM_256: Profile = Profile::AeadAes256Gcm;
const GCM_128: Profile = Profile::AeadAes128Gcm;
const CM_80: Profile = Profile::AesCm128HmacSha1_80;
const CM_32: Profile = Profile::AesCm128HmacSha1_32;

/// A publisher and two receivers, each with a cipher of its own.
fn run_call(publisher: Profile, receivers: [Profile; 2]) -> Result<(Call, [Subscriber; 2])> {
    let mut call = Call::new(worker(&[])?, publisher)?;
    let mut subscribers =
        [call.subscribe(receivers[0], 100_000, true)?, call.subscribe(receivers[1], 200_000, false)?];
    // The first frame is a key frame, and the receivers are there: they miss nothing.
    for _ in 0..FRAMES {
        call.publisher.exchange(&mut subscribers)?;
    }
    Ok((call, subscribers))
}

#[test]
fn gcm_and_cm_peers_receive_every_packet_of_a_gcm_publisher() -> Result<()> {
    let (call, subscribers) = run_call(GCM_256, [GCM_256, CM_80])?;
    subscribers.iter().for_each(|subscriber| subscriber.check(&call.publisher.sent));
    Ok(())
}

#[test]
fn gcm_and_cm_peers_receive_every_packet_of_a_cm_publisher() -> Result<()> {
    let (call, subscribers) = run_call(CM_80, [GCM_128, CM_32])?;
    subscribers.iter().for_each(|subscriber| subscriber.check(&call.publisher.sent));
    Ok(())
}

#[test]
fn a_picture_loss_reaches_the_publisher() -> Result<()> {
    let (mut call, [subscriber, _]) = run_call(GCM_256, [GCM_256, GCM_256])?;
    let mut subscriber = subscriber;
    assert!(!call.publisher.party.endpoint.take_key_frame_request(VIDEO), "a key frame was just sent");
    let mut pli = Vec::new();
    rtcp::write_pli(&mut pli, Ssrc(1), Ssrc(subscriber.video_ssrc));
    subscriber.party.send_rtcp(&pli)?;
    call.publisher.answer_key_frame_request()
}

#[test]
fn a_late_joiner_starts_with_a_key_frame_made_for_it() -> Result<()> {
    let (mut call, _subscribers) = run_call(GCM_256, [GCM_256, GCM_256])?;
    let mut late = call.subscribe(CM_80, 300_000, true)?;
    call.publisher.answer_key_frame_request()?;
    call.publisher.exchange(&mut [])?;
    let frame = Shape::VIDEO.packets_per_frame as usize;
    late.party.wait_until("first frame", PATIENCE, |party| party.received.len() > frame)?;
    let video = late.stream(late.video_ssrc);
    let sent = &call.publisher.sent[0];
    let expected = &sent[sent.len() - frame..];
    assert!(
        video.iter().map(|packet| &packet.payload).eq(expected),
        "the whole key frame and nothing before it"
    );
    Ok(())
}

fn ask_again(subscriber: &mut Subscriber, sequence: u16) -> Result<()> {
    let mut nack = Vec::new();
    rtcp::write_nack(&mut nack, Ssrc(1), Ssrc(subscriber.video_ssrc), [SeqNo(sequence)]);
    subscriber.party.send_rtcp(&nack)
}

#[test]
fn a_lost_packet_is_repeated_on_the_repair_stream() -> Result<()> {
    for profile in [GCM_256, CM_80] {
        let (_call, [mut subscriber, _]) = run_call(GCM_128, [profile, GCM_256])?;
        let lost = subscriber.stream(subscriber.video_ssrc)[FRAMES * 3].clone();
        ask_again(&mut subscriber, lost.sequence)?;
        let rtx_ssrc = subscriber.video_ssrc + 1;
        subscriber.party.wait_until("repeat", PATIENCE, |party| {
            party.received.last().is_some_and(|packet| packet.ssrc == rtx_ssrc)
        })?;
        let repeats = subscriber.stream(rtx_ssrc);
        assert_eq!(repeats.len(), 1);
        assert_eq!(repeats[0].payload_type, Media::Video.payload_type() + 1);
        let expected = [&lost.sequence.to_be_bytes()[..], &lost.payload].concat();
        assert!(repeats[0].payload == expected, "original sequence number, then the payload as it was");
    }
    Ok(())
}

#[test]
fn without_a_repair_stream_a_repeat_is_the_very_same_datagram() -> Result<()> {
    for profile in [GCM_256, CM_80] {
        let (_call, [_, mut subscriber]) = run_call(GCM_128, [GCM_256, profile])?;
        let lost = subscriber.stream(subscriber.video_ssrc)[FRAMES * 3].clone();
        ask_again(&mut subscriber, lost.sequence)?;
        // The receiver refuses it as a replay: it had not really lost it.
        subscriber.party.wait_until("repeat", PATIENCE, |party| !party.refused.is_empty())?;
        assert!(subscriber.party.refused == [lost.datagram], "one repeat, equal to the last byte");
    }
    Ok(())
}
