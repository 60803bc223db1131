//! Small values that lie within a Consumer instead of somewhere in memory: what is touched for every packet should not cost a
//! cache line, and perhaps the address of a page, of its own.

use std::fmt;
use std::ops::{Deref, DerefMut};

use arrayvec::ArrayString;

use super::ConsumerStream;

/// Bytes of a MID that need no memory of their own: browsers number their media sections.
const SHORT: usize = 15;

/// The identifier of a media section.
#[derive(Debug, Clone)]
pub enum Mid {
    /// As nearly all are.
    Short(ArrayString<SHORT>),
    /// Longer.
    Long(Box<str>),
}

/// The streams that a Consumer sends: one but for pipes.
#[expect(
    clippy::large_enum_variant,
    reason = "that the one stream lies right here is the point; there are few pipes"
)]
pub enum Streams {
    /// Right here.
    One([ConsumerStream; 1]),
    /// A pipe's, as many as its Producer has.
    Many(Vec<ConsumerStream>),
}

impl Mid {
    /// Empty for none.
    pub fn new(mid: &str) -> Self {
        ArrayString::from(mid).map_or_else(|_| Self::Long(mid.into()), Self::Short)
    }
}

impl Deref for Mid {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Short(mid) => mid,
            Self::Long(mid) => mid,
        }
    }
}

impl FromIterator<ConsumerStream> for Streams {
    fn from_iter<I: IntoIterator<Item = ConsumerStream>>(streams: I) -> Self {
        let streams: Vec<_> = streams.into_iter().collect();
        match <[ConsumerStream; 1]>::try_from(streams) {
            Ok(one) => Self::One(one),
            Err(many) => Self::Many(many),
        }
    }
}

impl Deref for Streams {
    type Target = [ConsumerStream];

    fn deref(&self) -> &[ConsumerStream] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

impl DerefMut for Streams {
    fn deref_mut(&mut self) -> &mut [ConsumerStream] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

impl<'s> IntoIterator for &'s Streams {
    type Item = &'s ConsumerStream;
    type IntoIter = std::slice::Iter<'s, ConsumerStream>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'s> IntoIterator for &'s mut Streams {
    type Item = &'s mut ConsumerStream;
    type IntoIter = std::slice::IterMut<'s, ConsumerStream>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mid_of_any_length_is_kept() {
        for mid in ["", "0", "audio-of-section", "a media section with a long name"] {
            assert_eq!(&*Mid::new(mid), mid);
        }
    }
}
