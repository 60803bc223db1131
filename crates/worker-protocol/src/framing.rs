//! Framing of the channel: a 4-byte little-endian length, then that many bytes of one FlatBuffers `Message`.
//!
//! The length does not count itself. Both directions of the channel use the same framing.

use planus::{ReadAsRoot, WriteAsOffset};

use crate::wire::message::{Message, MessageRef};

/// The longest message either side accepts, in bytes: mediasoup 3.27.1 takes 8 MiB with the prefix.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024 - PREFIX_BYTES;

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// What can be wrong with bytes taken off the channel.
#[derive(Debug, thiserror::Error)]
pub enum FramingError {
    /// The length prefix announces more than [`MAX_MESSAGE_BYTES`]; the stream cannot be trusted any further.
    #[error("channel message of {0} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// The bytes are no `Message`.
    #[error("channel message is not valid: {0}")]
    Invalid(#[from] planus::Error),
}

/// Reads the root of one message, prefix already removed. Fields are verified as they are read.
///
/// # Errors
/// [`FramingError::Invalid`] where the root table does not lie within `bytes`.
pub fn read(bytes: &[u8]) -> Result<MessageRef<'_>, FramingError> {
    Ok(MessageRef::read_as_root(bytes)?)
}

/// Serializes messages, reusing one builder's memory.
#[derive(Debug, Default)]
pub struct Encoder {
    builder: planus::Builder,
}

impl Encoder {
    /// Appends `message` to `out`, prefix first.
    pub fn append(&mut self, message: impl WriteAsOffset<Message>, out: &mut Vec<u8>) {
        self.builder.clear();
        let bytes = self.builder.finish(message, None);
        let length = u32::try_from(bytes.len()).expect("a message fits in memory far below 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(bytes);
    }
}

/// Cuts a byte stream into messages. Feed it what was read; take complete messages out.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes as they came from the pipe.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > 64 * 1024 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message without its prefix, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FramingError::TooLong`]; every later call answers the same.
    pub fn poll(&mut self) -> Result<Option<&[u8]>, FramingError> {
        let pending = self.buffer.get(self.start..).unwrap_or_default();
        let Some((prefix, rest)) = pending.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(FramingError::TooLong(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.start + PREFIX_BYTES;
        self.start = start + length;
        Ok(self.buffer.get(start..start + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{log, message};

    fn log_message(text: &str) -> Message {
        Message { data: message::Body::Log(Box::new(log::Log { data: text.to_owned() })) }
    }

    #[test]
    fn messages_survive_any_fragmentation() {
        let mut stream = Vec::new();
        let mut encoder = Encoder::default();
        for text in ["one", "", "three, and rather longer than the others"] {
            encoder.append(log_message(text), &mut stream);
        }
        for size in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(size) {
                decoder.push(chunk);
                while let Some(bytes) = decoder.poll().unwrap() {
                    let message = Message::try_from(read(bytes).unwrap()).unwrap();
                    let message::Body::Log(log) = message.data else { panic!("not a log") };
                    seen.push(log.data);
                }
            }
            assert_eq!(seen, ["one", "", "three, and rather longer than the others"], "chunks of {size}");
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_memory_is_spent() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.poll(), Err(FramingError::TooLong(_))));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            if let Ok(message) = read(&bytes) {
                let _ = Message::try_from(message);
            }
        }
    }
}
