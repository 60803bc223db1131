#![expect(clippy::arithmetic_side_effects, reason = "test arithmetic on small numbers")]

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
use proptest::prelude::*;

use super::cipher::{Associated, PacketCipher, PacketNonce};
use super::*;

const SSRC: u32 = 0x1234_5678;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn pair(profile: Profile) -> (SrtpSender, SrtpReceiver) {
    let key: Vec<u8> = (1..).take(profile.key_len()).collect();
    let salt: Vec<u8> = (100..).take(profile.salt_len()).collect();
    (SrtpSender::new(profile, &key, &salt).unwrap(), SrtpReceiver::new(profile, &key, &salt).unwrap())
}

/// A header with two CSRCs and an extension of one word, so that the payload's offset is not 12.
fn header(sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut header = vec![0x92, 96];
    header.extend(sequence.to_be_bytes());
    header.extend(7_u32.to_be_bytes());
    header.extend(ssrc.to_be_bytes());
    header.extend([1, 1, 1, 1, 2, 2, 2, 2, 0xbe, 0xde, 0, 1, 0x10, 9, 0, 0]);
    header
}

fn protect(sender: &SrtpSender, index: u64, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 2048];
    let len = sender.protect_rtp(&header(index as u16, ssrc), payload, index, &mut out).unwrap();
    out.truncate(len);
    out
}

fn rtcp(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x81, 206, 0, 2];
    packet.extend(ssrc.to_be_bytes());
    packet.extend([9, 9, 9, 9]);
    packet
}

#[test]
fn rtp_comes_back_with_every_profile() {
    for profile in Profile::PREFERENCE {
        let (sender, mut receiver) = pair(profile);
        for len in [0, 1, 15, 16, 17, 100, 1200] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let index = 1000 + len as u64;
            let mut datagram = protect(&sender, index, SSRC, &payload);
            let expected = [header(index as u16, SSRC), payload].concat();
            assert_eq!(datagram.len(), expected.len() + profile.rtp_overhead());
            assert_eq!(datagram[..28], expected[..28]);
            assert!(len < 8 || datagram[28..28 + len] != expected[28..]);
            let len = receiver.unprotect_rtp(&mut datagram).unwrap();
            assert_eq!(datagram[..len], expected);
        }
    }
}

#[test]
fn rtcp_comes_back_with_every_profile() {
    for profile in Profile::PREFERENCE {
        let (mut sender, mut receiver) = pair(profile);
        let mut earlier = Vec::new();
        for _ in 0..3 {
            let mut out = [0; 64];
            let len = sender.protect_rtcp(&rtcp(SSRC), &mut out).unwrap();
            assert_eq!(len, 12 + profile.rtcp_overhead());
            assert_ne!(out[..len].to_vec(), earlier);
            earlier = out[..len].to_vec();
            let mut again = out;
            let plain = receiver.unprotect_rtcp(&mut out[..len]).unwrap();
            assert_eq!(out[..plain], rtcp(SSRC));
            assert_eq!(receiver.unprotect_rtcp(&mut again[..len]), Err(SrtpError::Replayed));
        }
    }
}

/// The session salt of RFC 7714 section 16, "Quid pro quo".
const SALT: &str = "517569642070726f2071756f";

/// The session keys of RFC 7714 section 16, below key derivation.
fn rfc_7714_ciphers() -> [PacketCipher; 2] {
    let salt: [u8; 12] = hex(SALT).try_into().unwrap();
    let key: Vec<u8> = (0..32).collect();
    let cipher = |algorithm, key| PacketCipher::Gcm {
        key: LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap()),
        salt,
    };
    [cipher(&AES_128_GCM, &key[..16]), cipher(&AES_256_GCM, &key)]
}

fn seal(cipher: &PacketCipher, nonce: PacketNonce, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plain.len() + 16];
    let (ciphertext, tag) = out.split_at_mut(plain.len());
    cipher.seal(nonce, Associated { gcm: aad, head: &[], tail: [0; 4] }, plain, ciphertext, tag).unwrap();
    let mut data = ciphertext.to_vec();
    cipher.open(nonce, Associated { gcm: aad, head: &[], tail: [0; 4] }, &mut data, tag).unwrap();
    assert_eq!(data, plain);
    out
}

#[test]
fn rfc_7714_16_rtp_vectors() {
    let expected = [
        "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
         899d7f27beb16a9152cf765ee4390cce",
        "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
         7aa3db36dfffd6b0f9bb7878d7a76c13",
    ];
    for (cipher, expected) in rfc_7714_ciphers().iter().zip(expected) {
        let nonce = PacketNonce { ssrc: 0x5501_a0b2, index: 0xf17b };
        let sealed =
            seal(cipher, nonce, &hex("8040f17b8041f8d35501a0b2"), b"Gallia est omnis divisa in partes tres");
        assert_eq!(sealed, hex(expected));
    }
}

#[test]
fn rfc_7714_17_rtcp_vectors() {
    let packet = hex("81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                      deadbeefdeadbeefdeadbeefdeadbeefdeadbeef");
    let expected = [
        "63e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9275b\
         c84aa45896cf4d2fc5abf87245d9eade",
        "d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b6fad\
         1d1eb30c4446839f57ff6f6cb26ac3be",
    ];
    for (cipher, expected) in rfc_7714_ciphers().iter().zip(expected) {
        let nonce = PacketNonce { ssrc: u32::from_be_bytes(*b"Mars"), index: 0x5d4 };
        let aad = [&packet[..8], &hex("800005d4")].concat();
        assert_eq!(seal(cipher, nonce, &aad, &packet[8..]), hex(expected));
    }
    // Section 17.3: authenticated only.
    let aad = [packet.clone(), hex("000005d4")].concat();
    let nonce = PacketNonce { ssrc: u32::from_be_bytes(*b"Mars"), index: 0x5d4 };
    let [cipher, _] = rfc_7714_ciphers();
    assert_eq!(seal(&cipher, nonce, &aad, &[]), hex("841dd9683dd78ec92ae58790125f62b3"));
}

#[test]
fn rfc_3711_b2_key_stream() {
    let key = hex("2B7E151628AED2A6ABF7158809CF4F3C");
    let salt: [u8; 14] = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").try_into().unwrap();
    let unbound = aws_lc_rs::cipher::UnboundCipherKey::new(&aws_lc_rs::cipher::AES_128, &key).unwrap();
    let cipher = PacketCipher::Cm(Box::new(cipher::CmKeys {
        key: aws_lc_rs::cipher::EncryptingKey::ctr(unbound).unwrap(),
        salt,
        authentication: hmac_sha1::HmacSha1::new(&[0; 20]),
        tag_len: 10,
    }));
    let mut stream = [0; 48];
    let associated = Associated { gcm: &[], head: &[], tail: [0; 4] };
    cipher.seal(PacketNonce { ssrc: 0, index: 0 }, associated, &[0; 48], &mut stream, &mut [0; 10]).unwrap();
    let expected = "E03EAD0935C95E80E166B16DD92B4EB4D23513162B02D0F72A43A2FE4A5F97AB\
                    41E95B3BB0A2E8DD477901E4FCA894C0";
    assert_eq!(stream.to_vec(), hex(expected));
}

/// RFC 2202 section 3, case 1; every length against another implementation.
#[test]
fn hmac_sha1_is_what_others_compute() {
    let key: [u8; 20] = [0x0b; 20];
    let tag = hmac_sha1::HmacSha1::new(&key).sign([b"Hi ", b"", b"There"]);
    assert_eq!(tag.to_vec(), hex("b617318655057264e28bc0b6fb378c8ef146be00"));
    let other = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let text: Vec<u8> = (0..).take(1_500).map(|at: u32| at.to_le_bytes()[0]).collect();
    for len in 0..text.len() {
        let (head, rest) = text[..len].split_at(len.min(12));
        let tag = hmac_sha1::HmacSha1::new(&key).sign([head, rest, &[]]);
        assert_eq!(tag, aws_lc_rs::hmac::sign(&other, &text[..len]).as_ref(), "{len} bytes");
    }
}

/// As libsrtp's test of the whole: its key, packet and expected bytes.
#[test]
fn known_packet_of_aes_cm_128_hmac_sha1_80() {
    let key = hex("e1f97a0d3e018be0d64fa32c06de4139");
    let salt = hex("0ec675ad498afeebb6960b3aabe6");
    let sender = SrtpSender::new(Profile::AesCm128HmacSha1_80, &key, &salt).unwrap();
    let mut out = [0; 64];
    let header = hex("800f1234decafbadcafebabe");
    let len = sender.protect_rtp(&header, &[0xab; 16], 0x1234, &mut out).unwrap();
    let expected = "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb";
    assert_eq!(out[..len].to_vec(), hex(expected));
}

#[test]
fn authenticated_only_rtcp_is_accepted() {
    for profile in Profile::PREFERENCE {
        let (_, mut receiver) = pair(profile);
        let key: Vec<u8> = (1..).take(profile.key_len()).collect();
        let salt: Vec<u8> = (100..).take(profile.salt_len()).collect();
        let derivation = key_derivation::KeyDerivation::new(&key, &salt).unwrap();
        let cipher = PacketCipher::new(profile, cipher::Kind::Rtcp, &derivation).unwrap();
        let (packet, word) = (rtcp(SSRC), 5_u32.to_be_bytes());
        let mut tag = vec![0; cipher.tag_len()];
        let mut datagram = packet.clone();
        match &cipher {
            PacketCipher::Gcm { .. } => {
                let aad = [&packet[..], &word].concat();
                let associated = Associated { gcm: &aad, head: &[], tail: word };
                cipher
                    .seal(PacketNonce { ssrc: SSRC, index: 5 }, associated, &[], &mut [], &mut tag)
                    .unwrap();
                datagram.extend(&tag);
                datagram.extend(word);
            }
            PacketCipher::Cm(keys) => {
                datagram.extend(word);
                let full = keys.authentication.sign([&datagram, &[], &[]]);
                datagram.extend(&full[..10]);
            }
        }
        let mut tampered = datagram.clone();
        tampered[9] ^= 1;
        assert_eq!(receiver.unprotect_rtcp(&mut tampered), Err(SrtpError::Authentication));
        let mut again = datagram.clone();
        let len = receiver.unprotect_rtcp(&mut datagram).unwrap();
        assert_eq!(datagram[..len], packet);
        assert_eq!(receiver.unprotect_rtcp(&mut again), Err(SrtpError::Replayed));
    }
}

#[test]
fn same_index_and_bytes_give_the_same_datagram() {
    for profile in Profile::PREFERENCE {
        let (sender, _) = pair(profile);
        let first = protect(&sender, 70_000, SSRC, b"payload");
        assert_ne!(protect(&sender, 70_001, SSRC, b"payload"), first);
        assert_eq!(protect(&sender, 70_000, SSRC, b"payload"), first);
    }
}

#[test]
fn replayed_packets_are_refused() {
    for profile in Profile::PREFERENCE {
        let (sender, mut receiver) = pair(profile);
        let datagrams: Vec<_> = (0..200).map(|index| protect(&sender, index, SSRC, b"x")).collect();
        for place in (0..200).rev() {
            assert!(receiver.unprotect_rtp(&mut datagrams[place].clone()).is_ok());
        }
        for datagram in datagrams {
            assert_eq!(receiver.unprotect_rtp(&mut datagram.clone()), Err(SrtpError::Replayed));
        }
    }
}

#[test]
fn late_packets_are_taken_within_the_window() {
    let (sender, mut receiver) = pair(Profile::AeadAes128Gcm);
    let newest = 5000 + replay::WINDOW;
    receiver.unprotect_rtp(&mut protect(&sender, 5000, SSRC, b"x")).unwrap();
    receiver.unprotect_rtp(&mut protect(&sender, newest, SSRC, b"x")).unwrap();
    assert!(receiver.unprotect_rtp(&mut protect(&sender, 5001, SSRC, b"x")).is_ok());
    assert_eq!(receiver.unprotect_rtp(&mut protect(&sender, 4999, SSRC, b"x")), Err(SrtpError::TooOld));
}

#[test]
fn sequence_wraps_count_rollovers_in_both_directions() {
    for profile in Profile::PREFERENCE {
        let (sender, mut receiver) = pair(profile);
        let mut order: Vec<u64> = (65_000..66_000).collect();
        // Swapping neighbours sends packets around the wrap in the wrong order.
        order.chunks_mut(7).for_each(<[u64]>::reverse);
        order.extend((66_000..400_000).step_by(20_000));
        for index in order {
            let mut datagram = protect(&sender, index, SSRC, b"x");
            assert!(receiver.unprotect_rtp(&mut datagram).is_ok(), "index {index}");
        }
    }
}

#[test]
fn a_stream_is_found_again_after_more_lost_packets_than_half_a_turn() {
    for profile in Profile::PREFERENCE {
        for lost in [33_000, 40_000, 65_536, 70_000, 150_000, 200_000] {
            for first in [3, 30_000, 65_530] {
                let (sender, mut receiver) = pair(profile);
                receiver.unprotect_rtp(&mut protect(&sender, first, SSRC, b"x")).unwrap();
                let mut refused = 0;
                let mut index = first + lost;
                while receiver.unprotect_rtp(&mut protect(&sender, index, SSRC, b"x")).is_err() {
                    refused += 1;
                    index += 1;
                    assert!(refused <= 24, "{profile:?}: {lost} lost after {first}");
                }
                // From then on nothing is tried twice, and nothing taken twice.
                let again = receiver.unprotect_rtp(&mut protect(&sender, index, SSRC, b"x"));
                assert_eq!(again, Err(SrtpError::Replayed));
                for next in index + 1..index + 100 {
                    receiver.unprotect_rtp(&mut protect(&sender, next, SSRC, b"x")).unwrap();
                }
            }
        }
    }
}

#[test]
fn forgeries_in_a_row_move_no_index() {
    for profile in Profile::PREFERENCE {
        let (sender, mut receiver) = pair(profile);
        let (stranger, _) = pair(profile);
        let mut forged = protect(&stranger, 50_000, SSRC, b"forged");
        *forged.last_mut().unwrap() ^= 1;
        receiver.unprotect_rtp(&mut protect(&sender, 100, SSRC, b"x")).unwrap();
        for _ in 0..1_000 {
            assert!(receiver.unprotect_rtp(&mut forged.clone()).is_err());
        }
        // What was captured before is no newer for it.
        assert_eq!(receiver.unprotect_rtp(&mut protect(&sender, 100, SSRC, b"x")), Err(SrtpError::Replayed));
        receiver.unprotect_rtp(&mut protect(&sender, 101, SSRC, b"x")).unwrap();
    }
}

#[test]
fn wrong_rollover_is_no_packet() {
    for profile in Profile::PREFERENCE {
        let (sender, mut receiver) = pair(profile);
        let result = receiver.unprotect_rtp(&mut protect(&sender, 1 << 16, SSRC, b"x"));
        assert_eq!(result, Err(SrtpError::Authentication));
        assert_eq!(receiver.ssrcs(), 0);
    }
}

#[test]
fn every_changed_byte_is_noticed_and_changes_nothing() {
    for profile in Profile::PREFERENCE {
        let (mut sender, mut receiver) = pair(profile);
        let datagram = protect(&sender, 9, SSRC, b"some payload");
        for place in 0..datagram.len() {
            let mut tampered = datagram.clone();
            tampered[place] ^= 0x40;
            assert!(receiver.unprotect_rtp(&mut tampered).is_err(), "byte {place}");
        }
        assert_eq!(receiver.ssrcs(), 0);
        assert!(receiver.unprotect_rtp(&mut datagram.clone()).is_ok());

        let mut out = [0; 64];
        let len = sender.protect_rtcp(&rtcp(SSRC), &mut out).unwrap();
        for place in 0..len {
            let mut tampered = out;
            tampered[place] ^= 0x40;
            assert!(receiver.unprotect_rtcp(&mut tampered[..len]).is_err(), "byte {place}");
        }
        assert!(receiver.unprotect_rtcp(&mut out[..len]).is_ok());
    }
}

#[test]
fn forged_sequence_does_not_move_the_index() {
    let (sender, mut receiver) = pair(Profile::AesCm128HmacSha1_80);
    receiver.unprotect_rtp(&mut protect(&sender, 100, SSRC, b"x")).unwrap();
    for index in [30_000, 32_000, 20_000] {
        let mut forged = protect(&sender, index, SSRC, b"x");
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(receiver.unprotect_rtp(&mut forged), Err(SrtpError::Authentication));
    }
    assert!(receiver.unprotect_rtp(&mut protect(&sender, 101, SSRC, b"x")).is_ok());
}

#[test]
fn ssrcs_are_bounded() {
    let (mut sender, receiver) = pair(Profile::AeadAes256Gcm);
    let mut receiver = receiver.with_max_ssrcs(3);
    for ssrc in 0..5 {
        let result = receiver.unprotect_rtp(&mut protect(&sender, 1, ssrc, b"x"));
        assert_eq!(result.err(), (ssrc >= 3).then_some(SrtpError::TooManySsrcs));
        let mut out = [0; 64];
        let len = sender.protect_rtcp(&rtcp(ssrc), &mut out).unwrap();
        let result = receiver.unprotect_rtcp(&mut out[..len]);
        assert_eq!(result.err(), (ssrc >= 3).then_some(SrtpError::TooManySsrcs));
    }
    receiver.remove_ssrc(0);
    assert!(receiver.unprotect_rtp(&mut protect(&sender, 1, 4, b"x")).is_ok());
    assert!(receiver.unprotect_rtp(&mut protect(&sender, 2, 1, b"x")).is_ok());
}

#[test]
fn wrong_use_is_an_error() {
    for profile in Profile::PREFERENCE {
        assert_eq!(SrtpSender::new(profile, &[0; 3], &[0; 12]).err(), Some(SrtpError::KeyLength));
        assert_eq!(SrtpReceiver::new(profile, &[0; 16], &[0; 3]).err(), Some(SrtpError::KeyLength));
        let (mut sender, _) = pair(profile);
        let room = 28 + 5 + profile.rtp_overhead();
        let header = header(7, SSRC);
        let mut out = [0; 100];
        assert_eq!(sender.protect_rtp(&header, b"12345", 7, &mut out[..room]), Ok(room));
        assert_eq!(sender.protect_rtp(&header, b"12345", 7, &mut out[..room - 1]), Err(SrtpError::NoSpace));
        assert_eq!(sender.protect_rtp(&header, b"", 8, &mut out), Err(SrtpError::IndexMismatch));
        assert_eq!(sender.protect_rtp(&header, b"", 7 + (1 << 48), &mut out), Err(SrtpError::IndexExhausted));
        assert_eq!(sender.protect_rtp(&header[..27], b"", 7, &mut out), Err(SrtpError::Malformed));
        assert_eq!(sender.protect_rtcp(&[0x80; 7], &mut out), Err(SrtpError::Malformed));
        assert_eq!(sender.protect_rtcp(&[0x80; 8], &mut out[..10]), Err(SrtpError::NoSpace));
    }
}

#[test]
fn profiles_have_names() {
    for profile in Profile::PREFERENCE {
        assert_eq!(Profile::from_name(profile.name()), Some(profile));
        assert!(profile.rtp_overhead() <= MAX_OVERHEAD && profile.rtcp_overhead() <= MAX_OVERHEAD);
    }
    assert_eq!(Profile::from_name("NULL"), None);
}

proptest! {
    #[test]
    fn garbage_is_never_accepted(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        version in any::<bool>(),
        profile in 0_usize..4,
    ) {
        if let Some(first) = bytes.first_mut().filter(|_| version) {
            *first = *first & 0x3f | 0x80;
        }
        let (_, mut receiver) = pair(Profile::PREFERENCE[profile]);
        prop_assert!(receiver.unprotect_rtp(&mut bytes.clone()).is_err());
        prop_assert!(receiver.unprotect_rtcp(&mut bytes).is_err());
        prop_assert_eq!(receiver.ssrcs(), 0);
    }
}
