//! Datagrams on a TCP connection (RFC 4571): a stream cut anywhere gives the same datagrams, and what was framed comes out.

use worker::frames::{BadFrame, FrameReader};

/// The longest datagram that a reader's buffer holds here.
const BUFFER: usize = 1500;

/// The first byte says how the stream is cut, the rest is the stream.
pub fn run(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = read(stream, stream.len().max(1));
    assert_eq!(whole, plain_reading(stream));
    assert_eq!(read(stream, usize::from(cut) + 1), whole, "cuts change nothing");
    let framed: Vec<u8> =
        whole.0.iter().flat_map(|frame| [&(frame.len() as u16).to_be_bytes()[..], frame].concat()).collect();
    assert!(stream.starts_with(&framed), "what comes out is what went in");
}

/// Datagrams, and whether the stream broke.
fn read(stream: &[u8], chunk: usize) -> (Vec<Vec<u8>>, bool) {
    let mut reader = FrameReader::default();
    let mut frames = Vec::new();
    let mut buffer = [0; BUFFER];
    let mut taken = 0;
    for bytes in stream.chunks(chunk) {
        reader.push(bytes);
        loop {
            match reader.next_frame(&mut buffer) {
                Ok(Some(len)) => {
                    taken += len + 2;
                    frames.push(buffer[..len].to_vec());
                }
                Ok(None) => break,
                Err(BadFrame) => return (frames, true),
            }
        }
    }
    assert_eq!(reader.waiting(), stream.len() - taken, "nothing is lost, nothing is kept twice");
    (frames, false)
}

fn plain_reading(mut stream: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Vec::new();
    while stream.len() >= 2 {
        let len = usize::from(stream[0]) * 256 + usize::from(stream[1]);
        if len == 0 || len > BUFFER {
            return (frames, true);
        }
        if stream.len() < 2 + len {
            break;
        }
        frames.push(stream[2..2 + len].to_vec());
        stream = &stream[2 + len..];
    }
    (frames, false)
}
