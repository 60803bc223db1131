//! A way to a TCP server on which answers take long.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Chunks of an answer that are under way: a server that says more waits.
const UNDER_WAY: usize = 1_024;

/// Passes connections on to `target`; what comes back arrives this much later. Lasts as long as the process.
///
/// # Panics
/// Where no port is free.
pub fn late(target: String, late: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // A server that is away refuses; so does the way to it.
            if let Ok(server) = TcpStream::connect(&target) {
                pass(&client, &server, late);
            }
        }
    });
    address
}

fn pass(client: &TcpStream, server: &TcpStream, late: Duration) {
    let clones = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
    let (Some((from_client, to_server)), Some((to_client, from_server))) = (clones(), clones()) else {
        return;
    };
    std::thread::spawn(move || copy(from_client, to_server));
    let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    std::thread::spawn(move || read(from_server, &sender, late));
    std::thread::spawn(move || write(to_client, &receiver));
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // Either end may go at any time.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

fn read(mut from: TcpStream, to: &mpsc::SyncSender<(Instant, Vec<u8>)>, late: Duration) {
    let mut buffer = vec![0; 64 * 1_024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.send((Instant::now() + late, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn write(mut to: TcpStream, from: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Ok((at, bytes)) = from.recv() {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
