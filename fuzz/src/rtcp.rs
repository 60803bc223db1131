//! RTCP compounds: what is read of a packet can be written, and reads the same again (RFC 3550, 3611, 4585, 5104).

use rtc::rtcp::{
    self, DlrrReport, FirEntry, NtpTime, Packet, RtcpError, XrBlock, compact_delay, round_trip, write_bye,
    write_fir, write_nack, write_pli, write_receiver_report, write_remb, write_sdes_cname,
    write_sender_report, write_xr_dlrr, write_xr_rrtr,
};
use rtc::rtp::{SeqNo, Ssrc};

/// The bytes are a datagram.
pub fn run(data: &[u8]) {
    let mut errors = 0;
    let mut packets = 0;
    for packet in rtcp::parse(data) {
        assert_eq!(errors, 0, "an error ends the compound");
        match packet {
            Ok(packet) => rewritten(&packet),
            Err(_) => errors += 1,
        }
        packets += 1;
    }
    assert!(packets > 0, "no datagram is silently nothing");
    assert!(packets <= 1 + data.len() / 4);
}

/// The only packet of what was written.
fn only(bytes: &[u8]) -> Packet<'_> {
    let mut packets = rtcp::parse(bytes);
    let packet =
        packets.next().expect("one packet").unwrap_or_else(|error: RtcpError| panic!("{error}: {bytes:?}"));
    assert!(packets.next().is_none(), "one packet was written");
    packet
}

fn rewritten(packet: &Packet<'_>) {
    let mut out = Vec::new();
    match packet {
        Packet::SenderReport(report) => {
            let blocks: Vec<_> = report.blocks.clone().collect();
            write_sender_report(&mut out, &report.info, &blocks);
            let Packet::SenderReport(again) = only(&out) else { panic!("another packet") };
            assert_eq!(again.info, report.info);
            assert!(again.blocks.eq(blocks));
            // A wall clock that is told is told to within what 32 bits of fraction hold.
            let ntp = report.info.ntp;
            let back = NtpTime::from_unix(ntp.to_unix());
            assert!(ntp.0.abs_diff(back.0) <= 5, "{ntp:?} came back as {back:?}");
        }
        Packet::ReceiverReport(report) => {
            let blocks: Vec<_> = report.blocks.clone().collect();
            for block in &blocks {
                let arrival = NtpTime(u64::from(block.jitter) << 32);
                if let Some(trip) = round_trip(arrival, block.last_sr, block.delay_since_last_sr) {
                    assert!(compact_delay(trip) <= i32::MAX as u32);
                }
            }
            write_receiver_report(&mut out, report.ssrc, &blocks);
            let Packet::ReceiverReport(again) = only(&out) else { panic!("another packet") };
            assert_eq!(again.ssrc, report.ssrc);
            assert!(again.blocks.eq(blocks));
        }
        Packet::Sdes(sdes) => {
            for chunk in sdes.chunks() {
                let Some(cname) = chunk.cname() else { continue };
                out.clear();
                write_sdes_cname(&mut out, chunk.ssrc, cname);
                let Packet::Sdes(again) = only(&out) else { panic!("another packet") };
                let again: Vec<_> = again.chunks().collect();
                assert_eq!(again.len(), 1);
                assert_eq!((again[0].ssrc, again[0].cname()), (chunk.ssrc, Some(cname)));
            }
        }
        Packet::Bye(bye) => {
            let sources: Vec<_> = bye.ssrcs().collect();
            write_bye(&mut out, &sources);
            let Packet::Bye(again) = only(&out) else { panic!("another packet") };
            assert!(again.ssrcs().eq(sources));
        }
        Packet::Nack(nack) => {
            let mut wanted: Vec<SeqNo> = nack.sequences().collect();
            write_nack(&mut out, nack.sender_ssrc, nack.media_ssrc, wanted.iter().copied());
            let Packet::Nack(again) = only(&out) else { panic!("another packet") };
            assert_eq!((again.sender_ssrc, again.media_ssrc), (nack.sender_ssrc, nack.media_ssrc));
            let mut told: Vec<SeqNo> = again.sequences().collect();
            for list in [&mut wanted, &mut told] {
                list.sort_unstable_by_key(|number| number.0);
                list.dedup();
            }
            assert_eq!(told, wanted, "the same numbers are asked for");
        }
        Packet::Pli(pli) => {
            write_pli(&mut out, pli.sender_ssrc, pli.media_ssrc);
            assert!(matches!(only(&out), Packet::Pli(again) if again == *pli));
        }
        Packet::Fir(fir) => {
            let entries: Vec<FirEntry> = fir.entries().collect();
            write_fir(&mut out, fir.sender_ssrc, &entries);
            let Packet::Fir(again) = only(&out) else { panic!("another packet") };
            assert_eq!(again.sender_ssrc, fir.sender_ssrc);
            assert!(again.entries().eq(entries));
        }
        Packet::Remb(remb) => {
            let sources: Vec<Ssrc> = remb.ssrcs().collect();
            write_remb(&mut out, remb.sender_ssrc, remb.bitrate, &sources);
            let Packet::Remb(again) = only(&out) else { panic!("another packet") };
            // What was read has 18 significant bits, unless it was beyond 64 bits.
            assert!(again.bitrate == remb.bitrate || remb.bitrate.0 == u64::MAX);
            assert!(again.bitrate <= remb.bitrate);
            assert!(again.ssrcs().eq(sources));
        }
        Packet::TransportFeedback(feedback) => crate::transport_feedback::rewritten(feedback),
        Packet::Xr(xr) => {
            for block in xr.blocks() {
                out.clear();
                match block {
                    XrBlock::ReceiverReferenceTime(ntp) => {
                        write_xr_rrtr(&mut out, xr.ssrc, ntp);
                        let Packet::Xr(again) = only(&out) else { panic!("another packet") };
                        assert!(
                            matches!(again.blocks().next(), Some(XrBlock::ReceiverReferenceTime(told)) if told == ntp)
                        );
                    }
                    XrBlock::DelaySinceLastRr(reports) => {
                        let reports: Vec<DlrrReport> = reports.collect();
                        write_xr_dlrr(&mut out, xr.ssrc, &reports);
                        let Packet::Xr(again) = only(&out) else { panic!("another packet") };
                        let Some(XrBlock::DelaySinceLastRr(told)) = again.blocks().next() else {
                            panic!("another block")
                        };
                        assert!(told.eq(reports));
                    }
                    XrBlock::Other { .. } => {}
                }
            }
        }
        Packet::Unknown { .. } => {}
    }
}
