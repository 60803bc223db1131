//! Subchannels: which messages of a DataProducer a DataConsumer gets, and how the choice crosses a pipe: in front of the
//! payload, behind a token, as mediasoup's workers write it from 3.27 on.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;

/// What begins the header. No UTF-8 begins so; the two lowest bits are flags.
const TOKEN: u64 = 0xa5f0_9cb3_d6e1_f28c;
const HAS_REQUIRED: u64 = 2;
const HAS_IGNORED: u64 = 1;

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audience {
    /// Who is subscribed to one of these; everybody if there are none.
    pub subchannels: Vec<u16>,
    /// Only who is subscribed to this.
    pub required: Option<u16>,
    /// Nobody who is subscribed to this.
    pub ignored: Option<u16>,
}

/// What a DataConsumer is subscribed to.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions(BTreeSet<u16>);

impl FromIterator<u16> for Subscriptions {
    fn from_iter<I: IntoIterator<Item = u16>>(subchannels: I) -> Self {
        Self(subchannels.into_iter().collect())
    }
}

impl Subscriptions {
    /// Adds one.
    pub fn add(&mut self, subchannel: u16) {
        self.0.insert(subchannel);
    }

    /// Takes one away.
    pub fn remove(&mut self, subchannel: u16) {
        self.0.remove(&subchannel);
    }

    /// All of them, ascending.
    pub fn list(&self) -> Vec<u16> {
        self.0.iter().copied().collect()
    }

    /// Whether a message for this audience is for who is subscribed so. A `pipe` without subscriptions takes everything
    /// over, and never knows whom the other side's ignored subchannel concerns.
    pub fn want(&self, audience: &Audience, pipe: bool) -> bool {
        if pipe && self.0.is_empty() {
            return true;
        }
        let required = audience.required.is_none_or(|required| self.0.contains(&required));
        let ignored = !pipe && audience.ignored.is_some_and(|ignored| self.0.contains(&ignored));
        let listed = &audience.subchannels;
        required && !ignored && (listed.is_empty() || listed.iter().any(|one| self.0.contains(one)))
    }

    /// The payload as a pipe carries it: of the subchannels only those that it is subscribed to, if it is to any. `None`
    /// where the payload goes as it is.
    pub fn encode(&self, audience: &Audience, payload: &[u8]) -> Option<Vec<u8>> {
        let carried = |one: &&u16| self.0.is_empty() || self.0.contains(one);
        let subchannels: Vec<u16> = audience.subchannels.iter().filter(carried).copied().collect();
        let count = u16::try_from(subchannels.len()).ok()?;
        if count == 0 && audience.required.is_none() && audience.ignored.is_none() {
            return None;
        }
        let mut token = TOKEN;
        if audience.required.is_some() {
            token |= HAS_REQUIRED;
        }
        if audience.ignored.is_some() {
            token |= HAS_IGNORED;
        }
        let mut encoded = token.to_be_bytes().to_vec();
        encoded.extend(count.to_be_bytes());
        for subchannel in subchannels.into_iter().chain(audience.required).chain(audience.ignored) {
            encoded.extend(subchannel.to_be_bytes());
        }
        encoded.extend_from_slice(payload);
        Some(encoded)
    }
}

impl Audience {
    /// Reads what [`Subscriptions::encode`] put in front of a payload, and returns the payload with it.
    pub fn decode(message: &[u8]) -> Option<(Self, &[u8])> {
        let (token, rest) = message.split_first_chunk::<8>()?;
        let token = u64::from_be_bytes(*token);
        if token & !(HAS_REQUIRED | HAS_IGNORED) != TOKEN {
            return None;
        }
        let (count, mut rest) = rest.split_first_chunk::<2>()?;
        let mut next = || {
            let (one, after) = rest.split_first_chunk::<2>()?;
            rest = after;
            Some(u16::from_be_bytes(*one))
        };
        let mut subchannels = Vec::new();
        for _ in 0..u16::from_be_bytes(*count) {
            subchannels.push(next()?);
        }
        let required = if token & HAS_REQUIRED == 0 { None } else { Some(next()?) };
        let ignored = if token & HAS_IGNORED == 0 { None } else { Some(next()?) };
        Some((Self { subchannels, required, ignored }, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audience(subchannels: &[u16], required: Option<u16>, ignored: Option<u16>) -> Audience {
        Audience { subchannels: subchannels.to_vec(), required, ignored }
    }

    #[test]
    fn audience_is_matched() {
        let subscribed: Subscriptions = [1, 2].into_iter().collect();
        for (for_whom, consumer, pipe) in [
            (audience(&[], None, None), true, true),
            (audience(&[3], None, None), false, false),
            (audience(&[3, 2], None, None), true, true),
            (audience(&[2], Some(1), None), true, true),
            (audience(&[2], Some(3), None), false, false),
            (audience(&[2], None, Some(1)), false, true),
        ] {
            assert_eq!(subscribed.want(&for_whom, false), consumer, "{for_whom:?}");
            assert_eq!(subscribed.want(&for_whom, true), pipe, "{for_whom:?} through a pipe");
        }
        assert!(Subscriptions::default().want(&audience(&[3], Some(4), Some(5)), true));
        assert!(!Subscriptions::default().want(&audience(&[3], None, None), false));
    }

    #[test]
    fn audience_crosses_a_pipe() {
        let everything = Subscriptions::default();
        for for_whom in [
            audience(&[1, 2, 65_535], None, None),
            audience(&[], Some(7), None),
            audience(&[], None, Some(8)),
            audience(&[3], Some(7), Some(8)),
        ] {
            let encoded = everything.encode(&for_whom, b"payload").unwrap();
            assert_eq!(Audience::decode(&encoded), Some((for_whom, &b"payload"[..])));
            assert_eq!(Audience::decode(&encoded[..encoded.len() - 8]), None, "cut short");
        }
        assert_eq!(everything.encode(&audience(&[], None, None), b"payload"), None);
        let one: Subscriptions = [1].into_iter().collect();
        let encoded = one.encode(&audience(&[1, 2], None, None), b"").unwrap();
        assert_eq!(Audience::decode(&encoded), Some((audience(&[1], None, None), &b""[..])));
        assert_eq!(Audience::decode(b"any other payload"), None);
    }
}
