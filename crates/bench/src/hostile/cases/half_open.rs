//! Handshakes that are begun and left: for each, ICE is right, a ClientHello comes, and then nothing more.
//!
//! Nothing is forged: a socket does its part for a thousand transports' worth of ports, one after the other, so that no
//! process needs as many descriptors as there are handshakes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rtc::dtls::HANDSHAKE_DEADLINE;
use rtc::srtp::Profile;

use super::stage::Stage;
use crate::channel::Ask;
use crate::endpoint::{Endpoint, Identity};
use crate::router::{RemoteTransport, Router};

/// Sockets open at a time, and requests under way at a time.
const AT_A_TIME: usize = 500;
/// How long one peer may wait for the answers on loopback.
const PATIENCE: Duration = Duration::from_secs(10);
/// Resident memory that a half-open handshake may cost, in bytes: a WebRtcTransport and BoringSSL's state with the
/// flight that it would repeat.
const MOST_BYTES_EACH: u64 = 64 * 1024;

/// Of the memory that they cost, this part may stay when all are gone: tables keep their length.
const KEPT_PART: u64 = 4;

/// Begins `size` handshakes and finishes none; each is given up by the worker when its time is over.
pub(super) fn run(stage: &mut Stage, size: usize) -> Result<()> {
    let identity = Identity::new(&Profile::PREFERENCE)?;
    let before_kb = stage.memory_kb()?;
    let started = Instant::now();
    let mut ids = Vec::with_capacity(size);
    let mut flights = 0;
    while ids.len() < size {
        let count = AT_A_TIME.min(size - ids.len());
        let remotes = create(&mut stage.router, count, &identity)?;
        // Addresses of loopback in turn, as a botnet would have many.
        let address = Ipv4Addr::new(127, 0, 1 + (ids.len() / AT_A_TIME % 200) as u8, 1);
        for remote in &remotes {
            flights += begin(&identity, remote, address)?;
        }
        ids.extend(remotes.into_iter().map(|remote| remote.id));
    }
    let begun = started.elapsed();
    let half_open_kb = stage.memory_kb()?;
    let each = (half_open_kb.saturating_sub(before_kb) * 1024) / size.max(1) as u64;
    stage.expect_counter("now_transports", size as u64)?;
    stage.figures.insert("handshakes", size as u64);
    stage.figures.insert("answered_flights", flights);
    stage.figures.insert("begun_in_ms", u64::try_from(begun.as_millis())?);
    stage.figures.insert("memory_before_kb", before_kb);
    stage.figures.insert("memory_half_open_kb", half_open_kb);
    stage.figures.insert("memory_each_bytes", each);
    ensure!(flights >= size as u64, "only {flights} of {size} handshakes got as far as an answer");
    ensure!(each <= MOST_BYTES_EACH, "a half-open handshake costs {each} bytes");

    // The first began long ago, where there are many.
    stage.expect_within("dtls_timeouts", size as u64, HANDSHAKE_DEADLINE + PATIENCE)?;
    stage.figures.insert("ended_in_ms", u64::try_from(started.elapsed().as_millis())?);
    stage.figures.insert("memory_given_up_kb", stage.memory_kb()?);

    let closed = Instant::now();
    let asks = ids.iter().map(|id| Router::close_transport_ask(id)).collect();
    stage.router.worker.pipeline(asks, AT_A_TIME)?;
    stage.figures.insert("closed_in_ms", u64::try_from(closed.elapsed().as_millis())?);
    stage.expect_at_most("now_transports", 2, PATIENCE)?;
    stage.expect_at_most("now_tuples", 2, PATIENCE)?;
    stage.figures.insert("memory_closed_kb", stage.memory_kb()?);
    stage.expect_counter("memory_given_back", 1)?;
    let most = before_kb + (half_open_kb - before_kb) / KEPT_PART;
    let deadline = Instant::now() + PATIENCE;
    let after_kb = loop {
        let now_kb = stage.memory_kb()?;
        if now_kb <= most {
            break now_kb;
        }
        ensure!(
            Instant::now() < deadline,
            "{now_kb} kB stay, {before_kb} were before and {half_open_kb} at most"
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    stage.figures.insert("memory_after_kb", after_kb);
    Ok(())
}

fn create(router: &mut Router, count: usize, identity: &Identity) -> Result<Vec<RemoteTransport>> {
    let (ids, asks): (Vec<String>, Vec<Ask>) = (0..count).map(|_| router.web_rtc_transport_ask()).unzip();
    let answers = router.worker.pipeline(asks, AT_A_TIME)?;
    let connects = ids.iter().map(|id| Router::connect_web_rtc_ask(id, identity.fingerprint())).collect();
    router.worker.pipeline(connects, AT_A_TIME)?;
    ids.into_iter().zip(answers).map(|(id, answer)| RemoteTransport::of(id, answer)).collect()
}

/// ICE, the ClientHello, and the first datagram of the server's answer; then the socket closes. Returns how many
/// datagrams of DTLS came.
fn begin(identity: &Identity, remote: &RemoteTransport, address: Ipv4Addr) -> Result<u64> {
    let socket = UdpSocket::bind(SocketAddr::from((address, 0))).context("cannot bind a loopback socket")?;
    let mut endpoint = Endpoint::new(identity, remote, Instant::now())?;
    let deadline = Instant::now() + PATIENCE;
    let mut out = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let now = Instant::now();
        ensure!(now < deadline, "transport {} does not answer", remote.id);
        endpoint.handle_timeout(now)?;
        while endpoint.poll_transmit(now, &mut out) {
            socket.send_to(&out, endpoint.remote())?;
        }
        let wait = endpoint.next_timeout().min(deadline).saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(wait.max(Duration::from_micros(50))))?;
        // Refused sends of nobody's and timeouts are for the next round.
        let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
        if rtc::dtls::is_dtls(&buffer[..len]) {
            return Ok(1);
        }
        endpoint.handle_datagram(Instant::now(), &mut buffer[..len], |_| {});
    }
}
