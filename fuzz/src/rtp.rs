//! RTP headers, header extensions and repair packets: what a parsed packet says is what a written one says (RFC 3550,
//! RFC 8285, RFC 4588).

use rtc::rtp::{
    DatagramKind, EgressHeader, ExtensionForm, ExtensionIds, ExtensionKind, FIXED_HEADER_LEN, RtpHeader,
    SeqNo, Ssrc, rtx, write_header,
};

use crate::input::Input;

/// Twelve bytes are the identifiers of the header extensions, the rest is the packet.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut ids = ExtensionIds::default();
    for kind in ExtensionKind::ALL {
        ids.set(kind, input.u8());
    }
    let packet = input.rest();
    let _ = DatagramKind::of(packet);
    let Ok(header) = RtpHeader::parse(packet) else {
        // Only the padding may be what is wrong.
        if let Ok(header) = RtpHeader::parse_ignoring_padding(packet) {
            assert!(packet[0] & 0x20 != 0 && header.padding_len == 0);
        }
        return;
    };
    let parts = [header.header_len, header.payload_len, u16::from(header.padding_len)].map(usize::from);
    assert_eq!(parts.into_iter().sum::<usize>(), packet.len(), "header, payload and padding are the packet");
    assert_eq!(header.payload(packet).len(), parts[1]);
    elements(&header, packet);
    typed_values(&ids, &header, packet);
    written_anew(&ids, &header, packet);
    repaired(&header, packet);
}

/// The elements lie one after another within the block.
fn elements(header: &RtpHeader, packet: &[u8]) {
    let block = header.extension;
    let mut at = block.map_or(0, |block| usize::from(block.offset));
    let end = at + block.map_or(0, |block| usize::from(block.len));
    for element in header.elements(packet) {
        let start = element.value.as_ptr() as usize - packet.as_ptr() as usize;
        assert!(element.id != 0 || block.is_some_and(|block| block.form == ExtensionForm::OneByte));
        assert!(start > at && start + element.value.len() <= end, "elements lie in order within the block");
        at = start + element.value.len();
        if element.id != 0 {
            assert!(header.extension(packet, element.id).is_some());
        }
    }
    assert!(header.extension(packet, 0).is_none());
}

fn typed_values(ids: &ExtensionIds, header: &RtpHeader, packet: &[u8]) {
    for text in [ids.read_mid(header, packet), ids.read_rid(header, packet), ids.read_rrid(header, packet)] {
        assert!(text.is_none_or(|text| !text.is_empty() && !text.contains('\0')));
    }
    assert!(ids.read_audio_level(header, packet).is_none_or(|level| level.dbov() <= 0));
    assert!(ids.read_abs_send_time(header, packet).is_none_or(|time| time < 1 << 24));
    assert!(ids.read_video_orientation(header, packet).is_none_or(|turn| turn.rotation_degrees % 90 == 0));
    let _ = ids.read_transport_wide_cc(header, packet);
}

/// A header written with what was read has the same fields and the same forwarded elements.
fn written_anew(ids: &ExtensionIds, header: &RtpHeader, packet: &[u8]) {
    let forwarded = ids.forwarded(header, packet);
    let egress = EgressHeader {
        marker: header.marker,
        padding: false,
        payload_type: header.payload_type,
        sequence: header.sequence,
        timestamp: header.timestamp,
        ssrc: header.ssrc,
        csrcs: header.csrcs(packet),
        ids,
        mid: ids.read_mid(header, packet).unwrap_or_default(),
        forwarded: &forwarded,
    };
    let mut out = [0; 8192];
    let written = write_header(&mut out, &egress).expect("what was read can be written");
    assert!(write_header(&mut vec![0; written.len - 1], &egress).is_err(), "one byte less is too little");
    written.stamp_abs_send_time(&mut out, 0x12_3456);
    written.stamp_transport_wide_cc(&mut out, 0x789a);
    let again = RtpHeader::parse(&out[..written.len]).expect("what is written parses");
    assert_eq!(usize::from(again.header_len), written.len);
    assert_eq!(
        (again.marker, again.payload_type, again.sequence, again.timestamp, again.ssrc),
        (header.marker, header.payload_type, header.sequence, header.timestamp, header.ssrc)
    );
    assert_eq!(again.csrcs(&out), header.csrcs(packet));
    // Where identifiers collide (nobody negotiates that) or cannot be told in any form, the first one wins.
    let all: Vec<u8> =
        ExtensionKind::ALL.into_iter().map(|kind| ids.id(kind)).filter(|id| *id != 0).collect();
    let unique = all.iter().all(|id| all.iter().filter(|other| *other == id).count() == 1);
    if !unique {
        return;
    }
    for &(kind, value) in &forwarded {
        assert_eq!(again.extension(&out, ids.id(kind)), Some(value), "{kind:?} is passed on as it was");
    }
    if ids.abs_send_time != 0 {
        assert_eq!(ids.read_abs_send_time(&again, &out), Some(0x12_3456));
    }
    if ids.transport_wide_cc != 0 {
        assert_eq!(ids.read_transport_wide_cc(&again, &out), Some(0x789a));
    }
    if ids.mid != 0 && !egress.mid.is_empty() {
        assert_eq!(ids.read_mid(&again, &out), Some(egress.mid));
    }
}

/// A repair packet made of the packet gives the packet back.
fn repaired(header: &RtpHeader, packet: &[u8]) {
    let header_len = usize::from(header.header_len);
    let Some(longest) = usize::from(u16::MAX).checked_sub(rtx::OSN_LEN) else { return };
    if packet.len() > longest {
        return;
    }
    let mut repair = packet[..header_len].to_vec();
    repair.extend_from_slice(&rtx::osn(header.sequence));
    repair.extend_from_slice(&packet[header_len..]);
    repair[1] = (repair[1] & 0x80) | 99;
    repair[2..4].copy_from_slice(&7_u16.to_be_bytes());
    repair[8..FIXED_HEADER_LEN].copy_from_slice(&0xfeed_u32.to_be_bytes());
    let parsed = RtpHeader::parse(&repair).expect("a repair is a packet");
    assert_eq!((parsed.ssrc, parsed.sequence), (Ssrc(0xfeed), SeqNo(7)));
    assert_eq!(rtx::original_sequence(&parsed, &repair), Some(header.sequence));
    let restored =
        rtx::restore(&mut repair, &parsed, header.ssrc, header.payload_type).expect("it has a number");
    assert_eq!(restored, packet);
}
