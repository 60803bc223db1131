//! The corpus of hostile bytes, and damage done to it, against every parser that sees bytes from outside: whatever it
//! says, it does not panic, and it knows what is valid.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::hostile::mutate::Mutator;
use rtc::codec::{self, CodecKind};
use rtc::dtls::DtlsRole;
use rtc::ice::{IceServer, Protocol, Tuple};
use rtc::rtcp::{self, Packet};
use rtc::rtp::{DatagramKind, RtpHeader, Ssrc, rtx};
use rtc::srtp::{Profile, SrtpReceiver};
use rtc::stun::{IntegrityKey, StunMessage};
use worker_protocol::framing::{self, Decoder};
use worker_protocol::wire::message::Message;

/// Damaged copies of each file that are parsed besides.
const MUTANTS: usize = 300;

/// The files of one kind, by name, oldest name first.
fn corpus(kind: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus").join(kind);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory).with_context(|| format!("{}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, std::fs::read(&path)?));
    }
    files.sort();
    ensure!(files.len() >= 8, "the corpus of {kind} has only {} files", files.len());
    Ok(files)
}

/// Every file of a kind and its mutants; `parse` says whether it took them for valid, which valid files must be.
fn replay(kind: &str, mut parse: impl FnMut(&[u8]) -> bool) -> Result<()> {
    let mut mutator = Mutator::new(5);
    for (name, bytes) in corpus(kind)? {
        let accepted = parse(&bytes);
        assert!(accepted || !name.starts_with("valid"), "{kind}/{name} is valid and was refused");
        for _ in 0..MUTANTS {
            parse(&mutator.mutate(&bytes));
        }
    }
    Ok(())
}

#[test]
fn stun_is_parsed_and_answered_without_panic() -> Result<()> {
    let now = Instant::now();
    let key = IntegrityKey::new("password");
    let mut server = IceServer::new("fragment".into(), "password".into(), std::time::Duration::ZERO);
    let tuple = Tuple { protocol: Protocol::Udp, local: 0, remote: "127.0.0.1:2".parse()? };
    replay("stun", |bytes| {
        let Ok(message) = StunMessage::parse(bytes) else { return false };
        let _ =
            (message.username(), message.local_username_fragment(), message.priority(), message.software());
        let _ = (message.xor_mapped_address(), message.error_code(), message.nomination());
        let _ = message.check_integrity(&key);
        let mut answer = [0; 256];
        let len = server.handle_message(&message, tuple, now, &mut answer).unwrap_or(0);
        assert!(len <= bytes.len(), "an unauthenticated request of {} bytes got {len} back", bytes.len());
        while server.poll_event().is_some() {}
        DatagramKind::of(bytes) == DatagramKind::Stun
    })
}

#[test]
fn dtls_is_taken_without_panic() -> Result<()> {
    let identity = Identity::new(&Profile::PREFERENCE)?;
    let now = Instant::now();
    replay("dtls", |bytes| {
        for role in [DtlsRole::Server, DtlsRole::Client] {
            let mut transport = identity.dtls();
            if transport.start(role, now).is_ok() {
                transport.handle_datagram(bytes, now);
                let mut out = [0; 2_048];
                while transport.poll_transmit(&mut out).is_some() {}
                while transport.poll_event().is_some() {}
            }
        }
        DatagramKind::of(bytes) == DatagramKind::Dtls
    })
}

#[test]
fn rtp_and_its_payloads_are_parsed_without_panic() -> Result<()> {
    let codecs = [
        CodecKind::Opus,
        CodecKind::MultiOpus,
        CodecKind::Vp8,
        CodecKind::Vp9,
        CodecKind::H264,
        CodecKind::Av1,
        CodecKind::Rtx,
    ];
    let mut receivers = srtp_receivers()?;
    replay("rtp", |bytes| {
        for receiver in &mut receivers {
            let _ = receiver.unprotect_rtp(&mut bytes.to_vec());
        }
        let ignoring_padding = RtpHeader::parse_ignoring_padding(bytes).is_ok();
        let Ok(header) = RtpHeader::parse(bytes) else { return ignoring_padding };
        let _ = (header.csrcs(bytes), header.elements(bytes).count(), header.extension(bytes, 1));
        for codec in codecs {
            let _ = codec::inspect(codec, header.payload(bytes), header.marker);
        }
        let mut packet = bytes.to_vec();
        if let Ok(media) = rtx::restore(&mut packet, &header, Ssrc(1), 96) {
            let _ = RtpHeader::parse(media);
        }
        true
    })
}

#[test]
fn rtcp_is_parsed_without_panic() -> Result<()> {
    let mut receivers = srtp_receivers()?;
    replay("rtcp", |bytes| {
        for receiver in &mut receivers {
            let _ = receiver.unprotect_rtcp(&mut bytes.to_vec());
        }
        for packet in rtcp::parse(bytes) {
            match packet {
                Ok(Packet::SenderReport(report)) => drop(report.blocks.count()),
                Ok(Packet::ReceiverReport(report)) => drop(report.blocks.count()),
                Ok(Packet::Nack(nack)) => drop(nack.sequences().count()),
                Ok(Packet::Fir(fir)) => drop(fir.entries().count()),
                Ok(Packet::Xr(xr)) => drop(xr.blocks().count()),
                Ok(other) => drop(format!("{other:?}")),
                Err(_) => {}
            }
        }
        DatagramKind::of(bytes) == DatagramKind::Rtcp
    })
}

#[test]
fn channel_messages_are_parsed_without_panic() -> Result<()> {
    replay("channel", |bytes| {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        while let Ok(Some(_)) = decoder.poll() {}
        framing::read(bytes).is_ok_and(|message| Message::try_from(message).is_ok())
    })
}

/// The server's own codec replays these too; here they only have to be what they say.
#[test]
fn protoo_messages_are_json_where_they_are_valid() -> Result<()> {
    replay("protoo", |bytes| serde_json::from_slice::<serde_json::Value>(bytes).is_ok())
}

fn srtp_receivers() -> Result<Vec<SrtpReceiver>> {
    let receiver = |profile: Profile| {
        SrtpReceiver::new(profile, &vec![1; profile.key_len()], &vec![2; profile.salt_len()])
    };
    Ok(Profile::PREFERENCE.into_iter().map(receiver).collect::<Result<_, _>>()?)
}
