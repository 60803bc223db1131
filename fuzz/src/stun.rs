//! STUN messages: what parses is what was written, and what is written parses (RFC 8489).

use rtc::stun::{Class, IntegrityKey, Method, StunBuilder, StunMessage, is_stun};

use crate::input::Input;

/// The first byte chooses between arbitrary bytes and a message built from the rest.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        built(&mut input);
    } else {
        arbitrary(input.rest());
    }
}

/// What the parser understands of a message survives being written anew.
fn arbitrary(bytes: &[u8]) {
    let key = IntegrityKey::new("password");
    let Ok(message) = StunMessage::parse(bytes) else { return };
    assert!(is_stun(bytes));
    assert_eq!(message.len(), bytes.len());
    let trusted = message.check_integrity(&key);
    assert!(!trusted || message.has_integrity());
    if let (Some(username), Some(fragment)) = (message.username(), message.local_username_fragment()) {
        assert!(username.starts_with(fragment));
    }

    let mut out = vec![0; 4096];
    let mut builder = StunBuilder::new(&mut out, message.class(), message.method(), message.transaction_id());
    let names = message.username().and_then(|name| name.split_once(':'));
    if let Some((receiver, sender)) = names {
        builder = builder.username(receiver, sender);
    }
    if let Some(priority) = message.priority() {
        builder = builder.priority(priority);
    }
    if let Some(tie_breaker) = message.ice_controlling() {
        builder = builder.ice_controlling(tie_breaker);
    }
    if let Some(tie_breaker) = message.ice_controlled() {
        builder = builder.ice_controlled(tie_breaker);
    }
    if message.use_candidate() {
        builder = builder.use_candidate();
    }
    if let Some(counter) = message.nomination() {
        builder = builder.nomination(counter);
    }
    if let Some(software) = message.software() {
        builder = builder.software(software);
    }
    if let Some(address) = message.xor_mapped_address() {
        builder = builder.xor_mapped_address(address);
    }
    let error = message.error_code().filter(|(code, _)| (300..700).contains(code) && code % 100 < 100);
    if let Some((code, reason)) = error {
        builder = builder.error_code(code, reason);
    }
    let len = builder.finish(Some(&key)).expect("4 kB hold every attribute at its longest");
    let again = StunMessage::parse(&out[..len]).expect("what is written parses");
    assert!(again.has_fingerprint() && again.check_integrity(&key));
    assert!(!again.check_integrity(&IntegrityKey::new("another")));
    assert_eq!(
        (again.class(), again.method(), again.transaction_id()),
        (message.class(), message.method(), message.transaction_id())
    );
    if names.is_some() {
        assert_eq!(again.username(), message.username());
    }
    assert_eq!(again.priority(), message.priority());
    assert_eq!(again.ice_controlling(), message.ice_controlling());
    assert_eq!(again.ice_controlled(), message.ice_controlled());
    assert_eq!(again.use_candidate(), message.use_candidate());
    assert_eq!(again.nomination(), message.nomination());
    assert_eq!(again.software(), message.software());
    assert_eq!(again.xor_mapped_address(), message.xor_mapped_address());
    assert_eq!(again.error_code(), error);
}

/// A message with a right checksum and tag, then one byte of it changed: the change is noticed.
fn built(input: &mut Input<'_>) {
    let key = IntegrityKey::new("password");
    let class =
        [Class::Request, Class::Indication, Class::SuccessResponse, Class::ErrorResponse][input.below(4)];
    // Those whose first byte tells STUN from the other protocols on the port (RFC 7983).
    let method = Method(input.u16() & 0x00ff);
    let mut transaction_id = [0; 12];
    transaction_id[..8].copy_from_slice(&input.u64().to_be_bytes());
    let (receiver, sender) = (input.text().replace(':', ""), input.text());
    let mut out = vec![0; 2048];
    let len = StunBuilder::new(&mut out, class, method, &transaction_id)
        .username(&receiver, &sender)
        .priority(input.u32())
        .finish(Some(&key))
        .expect("names of 510 bytes fit");
    let message = StunMessage::parse(&out[..len]).expect("what is written parses");
    assert_eq!((message.class(), message.method()), (class, method));
    assert_eq!(message.local_username_fragment(), Some(receiver.as_str()));
    assert!(message.check_integrity(&key));

    let flip = input.u8();
    let at = usize::from(input.u16()) % len;
    if flip != 0 {
        out[at] ^= flip;
        let accepted = StunMessage::parse(&out[..len]).is_ok_and(|message| message.check_integrity(&key));
        assert!(!accepted || at >= len - 8, "a change of byte {at} of {len} went unnoticed");
    }
}
