//! A synthetic peer that blocks: an endpoint, its socket, and what it received. For tests, where each step waits for
//! what the step before it caused.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rtc::rtp::DatagramKind;

use crate::endpoint::{Endpoint, Identity};
use crate::router::{RemoteTransport, Router};
use crate::source::Packet;

/// The longest datagram that anybody sends here.
const MAX_DATAGRAM: usize = 2_048;
/// How long ICE and DTLS may take on loopback.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// One RTP packet as it came and as it was meant.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its stream.
    pub ssrc: u32,
    /// Its payload type.
    pub payload_type: u8,
    /// Its sequence number.
    pub sequence: u16,
    /// Its payload in the clear.
    pub payload: Vec<u8>,
    /// The datagram that brought it, protected.
    pub datagram: Vec<u8>,
}

/// The peer.
#[derive(Debug)]
pub struct Party {
    /// The server's id of its transport.
    pub transport_id: String,
    /// Its end of the transport.
    pub endpoint: Endpoint,
    /// Its socket.
    pub socket: UdpSocket,
    /// RTP that was decrypted, oldest first. Take out what is done with.
    pub received: Vec<Received>,
    /// RTP that was not accepted, as it came: repeats of what was received before are among it.
    pub refused: Vec<Vec<u8>>,
}

impl Party {
    /// A peer of this transport, not connected yet.
    ///
    /// # Errors
    /// Where no socket can be bound, or the transport's fingerprint is none.
    pub fn new(identity: &Identity, remote: &RemoteTransport) -> Result<Self> {
        let local = if remote.address.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
        Ok(Self {
            transport_id: remote.id.clone(),
            endpoint: Endpoint::new(identity, remote, Instant::now())?,
            socket: UdpSocket::bind(local).context("cannot bind a loopback socket")?,
            received: Vec::new(),
            refused: Vec::new(),
        })
    }

    /// A peer of a new transport of `router`, connected.
    ///
    /// # Errors
    /// The worker's refusal, or a handshake that does not come about within 5 s.
    pub fn connect(router: &mut Router, identity: &Identity) -> Result<Self> {
        let remote = router.web_rtc_transport()?;
        router.connect_web_rtc(&remote.id, identity.fingerprint())?;
        let mut party = Self::new(identity, &remote)?;
        party.handshake()?;
        Ok(party)
    }

    /// Waits for ICE and DTLS.
    ///
    /// # Errors
    /// Where they take longer than 5 s.
    pub fn handshake(&mut self) -> Result<()> {
        self.wait_until("ICE and DTLS", CONNECT_DEADLINE, |party| party.endpoint.profile().is_some())?;
        self.transmit()
    }

    /// Serves the transport until `done`; `what` names it in the error.
    ///
    /// # Errors
    /// Where that is not so within `patience`, or the transport failed.
    pub fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !done(self) {
            if Instant::now() >= deadline {
                bail!("no {what} within {patience:?}");
            }
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Serves the transport until `deadline`.
    ///
    /// # Errors
    /// Where the transport failed.
    pub fn serve_until(&mut self, deadline: Instant) -> Result<()> {
        while Instant::now() < deadline {
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Protects and sends one packet of a source.
    ///
    /// # Errors
    /// Before the peer is connected, or where the socket fails.
    pub fn send_rtp(&mut self, packet: &Packet) -> Result<()> {
        self.endpoint.send_rtp(&self.socket, &packet.header, &packet.payload, packet.index)
    }

    /// Protects and sends one compound RTCP packet.
    ///
    /// # Errors
    /// As [`Party::send_rtp`].
    pub fn send_rtcp(&mut self, plain: &[u8]) -> Result<()> {
        let remote = self.endpoint.remote();
        self.socket.send_to(self.endpoint.protect_rtcp(plain)?, remote)?;
        Ok(())
    }

    /// Sends what is due, then waits for one datagram, the next timeout or `deadline`.
    fn turn(&mut self, deadline: Instant) -> Result<()> {
        self.transmit()?;
        let wait = self.endpoint.next_timeout().min(deadline).saturating_duration_since(Instant::now());
        // A read timeout of zero would mean none at all.
        self.socket.set_read_timeout(Some(wait.max(Duration::from_micros(50))))?;
        let mut datagram = [0; MAX_DATAGRAM];
        match self.socket.recv_from(&mut datagram) {
            Ok((len, source)) if source == self.endpoint.remote() => self.take(&mut datagram[..len]),
            Ok(_) => {}
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
        let now = Instant::now();
        if now >= self.endpoint.next_timeout() {
            self.endpoint.handle_timeout(now)?;
        }
        Ok(())
    }

    fn take(&mut self, datagram: &mut [u8]) {
        let is_rtp = DatagramKind::of(datagram) == DatagramKind::Rtp;
        let original = if is_rtp { datagram.to_vec() } else { Vec::new() };
        let mut accepted = None;
        self.endpoint.handle_datagram(Instant::now(), datagram, |rtp| {
            accepted = Some((rtp.ssrc, rtp.payload_type, rtp.sequence, rtp.payload.to_vec()));
        });
        match accepted {
            Some((ssrc, payload_type, sequence, payload)) => {
                self.received.push(Received { ssrc, payload_type, sequence, payload, datagram: original });
            }
            None if is_rtp => self.refused.push(original),
            None => {}
        }
    }

    fn transmit(&mut self) -> Result<()> {
        let mut out = Vec::with_capacity(MAX_DATAGRAM);
        while self.endpoint.poll_transmit(Instant::now(), &mut out) {
            self.socket.send_to(&out, self.endpoint.remote()).context("cannot send")?;
        }
        Ok(())
    }
}

fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionRefused | Interrupted | TimedOut | WouldBlock)
}
