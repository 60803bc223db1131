//! A door for the fuzzer into what is private: one frame through codec and dialects, with what must hold of it.

use crate::codec::{self, Frame};
use crate::dialect::{Dialect, parse_request};

/// Reads a frame, and a request's data in both dialects. What was read is written and read again.
///
/// # Panics
/// Where the second reading differs from the first.
#[doc(hidden)]
pub fn frame(text: &str) {
    let frame = match codec::parse(text) {
        Ok(frame) => frame,
        Err(error) => {
            assert!(error.to_string().len() < 1000, "a refusal is short, whatever was sent");
            return;
        }
    };
    let written = match &frame {
        Frame::Request { id, method, data } => {
            for mut dialect in [Dialect::Classic, Dialect::TypeScript] {
                if let Err(error) = parse_request(method, data.clone(), &mut dialect) {
                    assert!((400..600).contains(&error.code), "{error:?}");
                }
            }
            codec::request(*id, method, data)
        }
        Frame::Notification { method, data } => codec::notification(method, data),
        Frame::Response { id, result: Ok(data) } => codec::response(*id, data),
        Frame::Response { id, result: Err(error) } => codec::error_response(*id, error.code, &error.reason),
    };
    assert_eq!(codec::parse(&written).as_ref(), Ok(&frame), "what is written reads the same");
}
