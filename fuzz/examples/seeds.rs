//! Writes what the fuzzer begins with, where it would not find it by itself: `cargo run --package fuzz --example seeds`.
//!
//! Captured bytes of tests/corpus, brought into each target's form, and whole sessions of the channel.

use std::path::{Path, PathBuf};

use fuzz::session::{self, Session};
use worker_protocol::wire::rtp_parameters::MediaKind;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let captured = root.join("../tests/corpus");
    let corpus = root.join("corpus");
    for (kind, target, prefix) in [
        ("stun", "stun", vec![0]),
        ("rtp", "rtp", vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ("rtcp", "rtcp", vec![]),
        ("protoo", "protoo", vec![]),
        ("rtp", "srtp", vec![0, 2]),
    ] {
        for (name, bytes) in files(&captured.join(kind)) {
            write(&corpus, target, &name, &[prefix.clone(), bytes].concat());
        }
    }
    for (name, bytes) in files(&captured.join("channel")) {
        let len = u32::try_from(bytes.len()).expect("a small file").to_le_bytes();
        write(&corpus, "channel", &name, &[&[7][..], &len, &bytes].concat());
    }
    write(&corpus, "channel", "session", &channel_session());
    write(&corpus, "ortc", "camera", include_bytes!("camera.json"));
    // Both peers connected without a handshake, then one of each kind of packet.
    let connected = [0, 0, 1, 0x10, 0, 0x11];
    let media = [3, 0, 5, 3, 1, 5, 3, 9, 5, 3, 2, 9, 10, 50, 6, 0, 0x16, 2, 2, 4, 3, 0x21, 3, 0x16, 0, 0x2b];
    write(&corpus, "transport", "media", &[&connected[..], &media].concat());
    // A handshake for real.
    let handshake = [0x0f, 0x1f, 0, 0, 2, 0, 2, 0, 2, 0, 0x10, 0, 0x12, 0, 0x12, 0, 0x12, 0, 3, 0, 5];
    write(&corpus, "transport", "handshake", &handshake);
    for versions in 0..3 {
        write(&corpus, "dtls", &format!("lossy-{versions}"), &[versions, 0, 1, 3, 4, 0, 3, 0, 1]);
    }
    write(&corpus, "frames", "three", &[0, 0, 1, 65, 0, 2, 66, 67, 0, 3, 1, 2, 3]);
}

/// A Router with transports, producers, consumers, and questions about them.
fn channel_session() -> Vec<u8> {
    use worker_protocol::wire::request::Method;
    let mut session = Session::new();
    let mut bytes = vec![63];
    let mut say = |method, handler: &str, body| bytes.extend(session.encode(method, handler, body));
    let (method, handler, body) = session::create_router();
    say(method, handler, body);
    for id in ["in", "out"] {
        let (method, handler, body) = session::create_direct_transport(id);
        say(method, handler, body);
    }
    let encodings = vec![session::encoding(Some(1), Some(2), None)];
    let (method, body) = session::produce("camera", MediaKind::Video, "0", encodings);
    say(method, "in", body);
    let (method, body) = session::consume("video", "camera", MediaKind::Video, 1, 9);
    say(method, "out", body);
    for (method, handler) in [
        (Method::TransportDump, "in"),
        (Method::ConsumerGetStats, "video"),
        (Method::ProducerPause, "camera"),
        (Method::ProducerGetStats, "camera"),
        (Method::ConsumerRequestKeyFrame, "video"),
        (Method::RouterDump, session::ROUTER),
    ] {
        say(method, handler, None);
    }
    bytes
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read(path).expect("readable"))).collect()
}

fn write(corpus: &Path, target: &str, name: &str, bytes: &[u8]) {
    let folder = corpus.join(target);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), bytes).expect("writable");
}
