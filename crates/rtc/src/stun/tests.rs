#![expect(clippy::arithmetic_side_effects, reason = "test arithmetic on small numbers")]

use proptest::prelude::*;

use super::*;

const ID: TransactionId = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn hex(text: &str) -> Vec<u8> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn request(out: &mut [u8]) -> usize {
    StunBuilder::new(out, Class::Request, Method::BINDING, &ID)
        .username("server", "client")
        .priority(0x6e7f_1eff)
        .ice_controlling(0x1234_5678_9abc_def0)
        .use_candidate()
        .nomination(3)
        .software("test")
        .finish(Some(&IntegrityKey::new("password")))
        .unwrap()
}

#[test]
fn rfc_5769_2_1_sample_request() {
    let bytes = hex("000100582112a442b7e7a701bc34d686fa87dfae
         802200105354554e207465737420636c69656e74
         002400046e0001ff
         80290008932ff9b151263b36
         000600096576746a3a68367659202020
         000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
         80280004e57a3bcf");
    let message = StunMessage::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Request);
    assert_eq!(message.method(), Method::BINDING);
    assert_eq!(message.username(), Some("evtj:h6vY"));
    assert_eq!(message.local_username_fragment(), Some("evtj"));
    assert_eq!(message.software(), Some("STUN test client"));
    assert_eq!(message.priority(), Some(0x6e00_01ff));
    assert_eq!(message.ice_controlled(), Some(0x932f_f9b1_5126_3b36));
    assert!(message.has_fingerprint());
    assert!(message.check_integrity(&IntegrityKey::new("VOkJxbRl1RmTxUk/WvJxBt")));
    assert!(!message.check_integrity(&IntegrityKey::new("VOkJxbRl1RmTxUk/WvJxBT")));
}

#[test]
fn rfc_5769_2_2_sample_ipv4_response() {
    let bytes = hex("0101003c2112a442b7e7a701bc34d686fa87dfae
         8022000b7465737420766563746f7220
         002000080001a147e112a643
         000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7
         80280004c07d4c96");
    let message = StunMessage::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::SuccessResponse);
    assert_eq!(message.xor_mapped_address(), Some("192.0.2.1:32853".parse().unwrap()));
    assert!(message.check_integrity(&IntegrityKey::new("VOkJxbRl1RmTxUk/WvJxBt")));
}

#[test]
fn rfc_5769_2_3_sample_ipv6_response() {
    let bytes = hex("010100482112a442b7e7a701bc34d686fa87dfae
         8022000b7465737420766563746f7220
         002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
         00080014a382954e4be67bf11784c97c8292c275bfe3ed41
         80280004c8fb0b4c");
    let message = StunMessage::parse(&bytes).unwrap();
    let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
    assert_eq!(message.xor_mapped_address(), Some(address));
    assert!(message.check_integrity(&IntegrityKey::new("VOkJxbRl1RmTxUk/WvJxBt")));
}

#[test]
fn what_is_built_parses() {
    let mut out = [0; 200];
    let len = request(&mut out);
    let message = StunMessage::parse(&out[..len]).unwrap();
    assert_eq!(message.len(), len);
    assert_eq!(message.transaction_id(), &ID);
    assert_eq!(message.username(), Some("server:client"));
    assert_eq!(message.priority(), Some(0x6e7f_1eff));
    assert_eq!(message.ice_controlling(), Some(0x1234_5678_9abc_def0));
    assert_eq!(message.ice_controlled(), None);
    assert!(message.use_candidate());
    assert_eq!(message.nomination(), Some(3));
    assert_eq!(message.software(), Some("test"));
    assert!(message.check_integrity(&IntegrityKey::new("password")));
    assert!(!message.check_integrity(&IntegrityKey::new("passwore")));
}

#[test]
fn addresses_and_errors_come_back() {
    for address in ["127.0.0.1:1", "255.255.255.255:65535", "[::1]:8080", "[fe80::1234]:443"] {
        let address: SocketAddr = address.parse().unwrap();
        let mut out = [0; 128];
        let len = StunBuilder::new(&mut out, Class::SuccessResponse, Method::BINDING, &ID)
            .xor_mapped_address(address)
            .finish(None)
            .unwrap();
        assert_eq!(StunMessage::parse(&out[..len]).unwrap().xor_mapped_address(), Some(address));
    }
    for (code, reason) in [(400, "bad"), (401, ""), (487, "role conflict"), (699, "é")] {
        let mut out = [0; 128];
        let len = StunBuilder::new(&mut out, Class::ErrorResponse, Method::BINDING, &ID)
            .error_code(code, reason)
            .finish(None)
            .unwrap();
        assert_eq!(StunMessage::parse(&out[..len]).unwrap().error_code(), Some((code, reason)));
    }
}

#[test]
fn request_without_integrity_parses() {
    let mut out = [0; 64];
    let builder = StunBuilder::new(&mut out, Class::Request, Method(3), &ID);
    let len = builder.finish(None).unwrap();
    let message = StunMessage::parse(&out[..len]).unwrap();
    assert_eq!(message.method(), Method(3));
    assert!(!message.has_integrity());
    assert!(!message.check_integrity(&IntegrityKey::new("")));
}

#[test]
fn every_type_survives() {
    for class in [Class::Request, Class::Indication, Class::SuccessResponse, Class::ErrorResponse] {
        for method in 0..0x1000 {
            let joined = join_type(class, Method(method));
            assert!(joined < 0x4000);
            assert_eq!(split_type(joined), (class, Method(method)));
        }
    }
}

#[test]
fn attributes_behind_the_integrity_do_not_count() {
    let key = IntegrityKey::new("password");
    let mut out = [0; 128];
    let len = StunBuilder::new(&mut out, Class::Request, Method::BINDING, &ID)
        .username("a", "b")
        .finish(Some(&key))
        .unwrap();
    // In place of FINGERPRINT, which is eight bytes too.
    out[len - 8..len].copy_from_slice(&[0, 0x24, 0, 4, 1, 2, 3, 4]);
    let message = StunMessage::parse(&out[..len]).unwrap();
    assert!(message.check_integrity(&key));
    assert_eq!(message.priority(), None);
}

#[test]
fn message_that_does_not_fit_is_an_error() {
    let mut whole = [0; 200];
    let len = request(&mut whole);
    for room in 0..len {
        let mut out = vec![0; room];
        let result = StunBuilder::new(&mut out, Class::Request, Method::BINDING, &ID)
            .username("server", "client")
            .priority(0x6e7f_1eff)
            .ice_controlling(0x1234_5678_9abc_def0)
            .use_candidate()
            .nomination(3)
            .software("test")
            .finish(Some(&IntegrityKey::new("password")));
        assert_eq!(result, Err(StunError::NoSpace), "{room} bytes");
    }
}

#[test]
fn any_changed_byte_is_noticed() {
    let mut out = [0; 200];
    let len = request(&mut out);
    let key = IntegrityKey::new("password");
    for place in 0..len {
        let mut changed = out;
        changed[place] ^= 1;
        // A FINGERPRINT turned into something else is missing, which is noticed as well.
        let accepted = StunMessage::parse(&changed[..len])
            .is_ok_and(|message| message.check_integrity(&key) && message.has_fingerprint());
        assert!(!accepted, "byte {place}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = StunMessage::parse(&bytes);
    }

    #[test]
    fn garbage_attributes_never_panic_nor_authenticate(
        attributes in proptest::collection::vec(
            (prop_oneof![Just(6_u16), Just(8), Just(9), Just(0x20), Just(0x24), Just(0x25), Just(0x8028),
                Just(0x8029), Just(0x802a), Just(0xc001), any::<u16>()],
             proptest::collection::vec(any::<u8>(), 0..40)),
            0..8,
        ),
        lie in prop_oneof![9 => Just(0_u8), 1 => any::<u8>()],
    ) {
        let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        bytes.extend(ID);
        for (kind, value) in &attributes {
            bytes.extend(kind.to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[3] ^= lie;
        if let Ok(message) = StunMessage::parse(&bytes) {
            prop_assert!(!message.check_integrity(&IntegrityKey::new("password")));
            let _ = (message.username(), message.error_code(), message.software(), message.xor_mapped_address());
        }
    }
}
