//! SRTP and SRTCP: a receiver against a model of RFC 3711's replay window and index estimate, and against bytes that
//! nobody protected.

use std::collections::BTreeSet;

use rtc::srtp::{MAX_OVERHEAD, Profile, SrtpError, SrtpReceiver, SrtpSender};

use crate::input::Input;

/// How far behind the newest a packet is still taken; the contract of `SrtpReceiver`.
const WINDOW: u64 = 960;

/// Refusals in a row after which it looks further ahead; the contract of `SrtpReceiver`.
const LOST_AFTER: u32 = 16;

/// The first byte chooses the profile and what happens.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let profile = Profile::PREFERENCE[input.below(4)];
    let key = vec![7; profile.key_len()];
    let salt = vec![9; profile.salt_len()];
    let mut sender = SrtpSender::new(profile, &key, &salt).expect("lengths of the profile");
    let mut receiver =
        SrtpReceiver::new(profile, &key, &salt).expect("lengths of the profile").with_max_ssrcs(3);
    match input.below(3) {
        0 => replay(&mut input, &sender, &mut receiver),
        1 => rtcp(&mut input, &mut sender, &mut receiver),
        _ => {
            for rtcp in [false, true] {
                let mut bytes = input.clone().rest().to_vec();
                let result = if rtcp {
                    receiver.unprotect_rtcp(&mut bytes)
                } else {
                    receiver.unprotect_rtp(&mut bytes)
                };
                assert!(result.is_err(), "nobody protected this");
            }
            assert_eq!(receiver.ssrcs(), 0, "what is not authentic leaves no trace");
        }
    }
}

/// Packets of one stream in any order, some twice, some changed on the way.
fn replay(input: &mut Input<'_>, sender: &SrtpSender, receiver: &mut SrtpReceiver) {
    let mut index = u64::from(input.u16());
    let mut highest: Option<u64> = None;
    let mut accepted = BTreeSet::new();
    let mut refused = 0;
    for _ in 0..300 {
        if input.is_empty() {
            return;
        }
        let step = input.u8();
        index = match step & 7 {
            0..=2 => index + 1,
            3 => index.saturating_sub(u64::from(step >> 3)),
            4 => index + u64::from(step >> 3) * 40,
            5 => index.saturating_sub(u64::from(step >> 3) * 40),
            6 => index + u64::from(input.u16()),
            _ => index.saturating_sub(u64::from(input.u16())),
        };
        let payload = input.take(usize::from(step >> 4));
        let mut header = vec![0x80, 96];
        header.extend_from_slice(&(index as u16).to_be_bytes());
        header.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 42]);
        let mut datagram = vec![0; header.len() + payload.len() + MAX_OVERHEAD];
        let len = sender.protect_rtp(&header, payload, index, &mut datagram).expect("a packet of this index");
        assert_eq!(len, header.len() + payload.len() + sender.profile().rtp_overhead());
        datagram.truncate(len);
        let changed = step & 0x80 != 0 && input.flag();
        if changed {
            let at = usize::from(input.u8()) % len;
            datagram[at] ^= input.u8() | 1;
        }
        let result = receiver.unprotect_rtp(&mut datagram);
        if changed {
            assert!(result.is_err(), "a changed packet was taken");
            refused += 1;
            continue;
        }
        // RFC 3711, section 3.3.1: the index nearest to the highest. Before the first packet, that of ROC 0.
        let estimate = match highest {
            None => Some(index & 0xffff),
            Some(highest) => highest
                .checked_add_signed(i64::from((index as u16).wrapping_sub(highest as u16).cast_signed())),
        };
        let expected = match (estimate, highest) {
            (None, _) => Err(SrtpError::TooOld),
            (Some(estimate), Some(highest)) if estimate <= highest && highest - estimate >= WINDOW => {
                Err(SrtpError::TooOld)
            }
            (Some(estimate), _) if accepted.contains(&estimate) => Err(SrtpError::Replayed),
            (Some(estimate), _) if estimate != index => Err(SrtpError::Authentication),
            _ => Ok(header.len() + payload.len()),
        };
        // After so many refusals in a row the receiver looks whether more than 2^15 packets were lost.
        let ahead = highest.is_some_and(|highest| index > highest);
        if !(result.is_ok() && ahead && refused >= LOST_AFTER) {
            assert_eq!(result, expected, "index {index}, highest {highest:?}");
        }
        refused = if result.is_ok() { 0 } else { refused + 1 };
        if result.is_ok() {
            assert_eq!(datagram[..header.len()], header);
            assert_eq!(&datagram[header.len()..header.len() + payload.len()], payload);
            accepted.insert(index);
            highest = Some(highest.map_or(index, |highest| highest.max(index)));
        }
    }
}

/// Compounds of one sender: each is taken once.
fn rtcp(input: &mut Input<'_>, sender: &mut SrtpSender, receiver: &mut SrtpReceiver) {
    let mut sent: Vec<Vec<u8>> = Vec::new();
    while !input.is_empty() && sent.len() < 100 {
        let choice = input.u8();
        if choice & 1 == 1 && !sent.is_empty() {
            let mut old = sent[usize::from(choice >> 1) % sent.len()].clone();
            assert!(receiver.unprotect_rtcp(&mut old).is_err(), "a replay was taken");
            continue;
        }
        let mut plain = vec![0x80, 201, 0, 1, 0, 0, 0, 5];
        plain.extend_from_slice(input.short());
        let mut datagram = vec![0; plain.len() + MAX_OVERHEAD];
        let len = sender.protect_rtcp(&plain, &mut datagram).expect("room for the overhead");
        assert_eq!(len, plain.len() + sender.profile().rtcp_overhead());
        datagram.truncate(len);
        sent.push(datagram.clone());
        let mut changed = datagram.clone();
        let at = usize::from(choice) % len;
        changed[at] ^= 0x40;
        assert!(receiver.unprotect_rtcp(&mut changed).is_err(), "a changed byte {at} was not noticed");
        assert_eq!(receiver.unprotect_rtcp(&mut datagram), Ok(plain.len()));
        assert_eq!(datagram[..plain.len()], plain);
    }
}
