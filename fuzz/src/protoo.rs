//! protoo frames and the dialects' requests: what is understood of a frame survives being written and read again.

/// The bytes are a WebSocket text frame.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        signaling::fuzzing::frame(text);
    }
}
