//! A way to a server on which answers take long.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Passes connections on to `target`; what comes back arrives this much later. Ends with the test's runtime.
pub(crate) async fn start(target: String, late: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.expect("the server runs");
            tokio::spawn(pass(client, server, late));
        }
    });
    address
}

async fn pass(client: TcpStream, server: TcpStream, late: Duration) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1_024);
    let there = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
    let read = async move {
        let mut buffer = vec![0; 64 * 1_024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if sender.send((Instant::now() + late, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        while let Some((at, bytes)) = receiver.recv().await {
            sleep_until(at).await;
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(there, read, back);
}
