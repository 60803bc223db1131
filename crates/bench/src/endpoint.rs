//! One synthetic WebRTC transport: a controlling ICE agent against one ICE-lite candidate, DTLS client, SRTP.
//!
//! Sans-IO at heart (`handle_datagram`, `poll_transmit`, `handle_timeout`), with a blocking driver for measurements
//! beside it. It does what a browser does and no more: checks with USE-CANDIDATE, consent every few seconds (RFC 7675),
//! DTLS as soon as a check has succeeded, media as soon as there are keys.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use net::dtls_timers;
use rtc::certificate::{Certificate, Fingerprint, FingerprintAlgorithm};
use rtc::dtls::{DtlsContext, DtlsEvent, DtlsRole, DtlsTimers, DtlsTransport, DtlsVersions};
use rtc::rtcp::{self, Packet};
use rtc::rtp::{DatagramKind, ExtensionIds, RtpHeader};
use rtc::srtp::{MAX_OVERHEAD, Profile, SrtpReceiver, SrtpSender};
use rtc::stun::{Class, IntegrityKey, Method, StunBuilder, StunMessage};

use crate::router::{RemoteTransport, extension_id};

/// The longest datagram that anybody sends here.
const MAX_DATAGRAM: usize = 2_048;
/// Repeats an unanswered check.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Refreshes consent; RFC 7675 wants it every 5 s.
const CONSENT_INTERVAL: Duration = Duration::from_secs(4);

/// A certificate and what is offered with it; many endpoints share one.
#[derive(Debug)]
pub struct Identity {
    context: DtlsContext,
    fingerprint: String,
}

impl Identity {
    /// A fresh certificate; the endpoints offer these SRTP profiles.
    ///
    /// # Errors
    /// Where BoringSSL refuses.
    pub fn new(profiles: &[Profile]) -> Result<Self> {
        let certificate = Certificate::generate()?;
        let timers = DtlsTimers {
            prepare_context: dtls_timers::prepare_context,
            prepare_connection: dtls_timers::prepare_connection,
            set_now: dtls_timers::set_now,
            timeout: dtls_timers::timeout,
            handle_timeout: dtls_timers::handle_timeout,
            repeat_now: dtls_timers::repeat_now,
        };
        let context = DtlsContext::with_profiles(&certificate, timers, DtlsVersions::All, profiles)?;
        let fingerprints = certificate.fingerprints();
        let sha256 = fingerprints.into_iter().find(|f| f.algorithm == FingerprintAlgorithm::Sha256);
        let fingerprint = sha256.context("a certificate has a SHA-256 fingerprint")?.value;
        Ok(Self { context, fingerprint })
    }

    /// A fresh certificate; the endpoints offer every SRTP profile, in our order of preference.
    ///
    /// # Errors
    /// Where BoringSSL refuses.
    pub fn of_all_profiles() -> Result<Self> {
        Self::new(&Profile::PREFERENCE)
    }

    /// A fresh DTLS connection with this certificate, not started.
    pub fn dtls(&self) -> DtlsTransport {
        DtlsTransport::new(&self.context)
    }

    /// The certificate's SHA-256 fingerprint, as parameters carry it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// A received RTP packet in the clear.
#[derive(Debug)]
pub struct ReceivedRtp<'a> {
    /// Its stream.
    pub ssrc: u32,
    /// Its payload type.
    pub payload_type: u8,
    /// Its sequence number.
    pub sequence: u16,
    /// Its timestamp.
    pub timestamp: u32,
    /// Whether it is marked: the last of its frame, where it is video.
    pub marker: bool,
    /// Its transport-wide sequence number, where it has one under [`extension_id::TRANSPORT_CC`].
    pub transport_seq: Option<u16>,
    /// Its payload, without padding.
    pub payload: &'a [u8],
    /// The whole datagram as it came, header and tag included.
    pub datagram_bytes: usize,
}

/// One end of a transport.
#[derive(Debug)]
pub struct Endpoint {
    remote: SocketAddr,
    remote_fragment: String,
    local_fragment: String,
    key: IntegrityKey,
    tie_breaker: u64,
    transaction: [u8; 12],
    next_check: Instant,
    validated: bool,
    dtls: DtlsTransport,
    srtp: Option<(SrtpSender, SrtpReceiver)>,
    failure: Option<String>,
    key_frame_requests: HashSet<u32>,
    key_frame_request_count: u64,
    recorded: Option<Vec<Vec<u8>>>,
    nacked: Vec<(u32, u16)>,
    buffer: Vec<u8>,
}

impl Endpoint {
    /// An endpoint that will connect to `remote` once it is driven.
    ///
    /// # Errors
    /// Where the remote fingerprint is none.
    pub fn new(identity: &Identity, remote: &RemoteTransport, now: Instant) -> Result<Self> {
        let mut dtls = identity.dtls();
        let fingerprint =
            Fingerprint { algorithm: FingerprintAlgorithm::Sha256, value: remote.fingerprint.clone() };
        dtls.set_remote_fingerprint(fingerprint, now);
        Ok(Self {
            remote: remote.address,
            remote_fragment: remote.username_fragment.clone(),
            local_fragment: format!("{:08x}", rand::random::<u32>()),
            key: IntegrityKey::new(&remote.password),
            tie_breaker: rand::random(),
            transaction: rand::random(),
            next_check: now,
            validated: false,
            dtls,
            srtp: None,
            failure: None,
            key_frame_requests: HashSet::new(),
            key_frame_request_count: 0,
            recorded: None,
            nacked: Vec::new(),
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    /// Where to send what [`Endpoint::poll_transmit`] yields.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The negotiated SRTP profile; `None` until connected.
    pub fn profile(&self) -> Option<Profile> {
        self.srtp.as_ref().map(|(sender, _)| sender.profile())
    }

    /// Takes a datagram from [`Endpoint::remote`]; RTP in it goes to `on_rtp`. What does not make sense is ignored.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &mut [u8],
        mut on_rtp: impl FnMut(ReceivedRtp<'_>),
    ) {
        match DatagramKind::of(datagram) {
            DatagramKind::Stun => self.handle_stun(now, datagram),
            DatagramKind::Dtls => {
                self.dtls.handle_datagram(datagram, now);
                self.take_dtls_events();
            }
            DatagramKind::Rtp => {
                let datagram_bytes = datagram.len();
                let Some((_, receiver)) = &mut self.srtp else { return };
                let Ok(len) = receiver.unprotect_rtp(datagram) else { return };
                let Some(packet) = datagram.get(..len) else { return };
                let Ok(header) = RtpHeader::parse(packet) else { return };
                let extensions =
                    ExtensionIds { transport_wide_cc: extension_id::TRANSPORT_CC, ..ExtensionIds::default() };
                let start = usize::from(header.header_len);
                let Some(payload) = packet.get(start..start + usize::from(header.payload_len)) else {
                    return;
                };
                on_rtp(ReceivedRtp {
                    ssrc: header.ssrc.0,
                    payload_type: header.payload_type,
                    sequence: header.sequence.0,
                    timestamp: header.timestamp,
                    marker: header.marker,
                    transport_seq: extensions.read_transport_wide_cc(&header, packet),
                    payload,
                    datagram_bytes,
                });
            }
            DatagramKind::Rtcp => self.handle_rtcp(datagram),
            _ => {}
        }
    }

    /// When [`Endpoint::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Instant {
        self.dtls.next_timeout().map_or(self.next_check, |dtls| dtls.min(self.next_check))
    }

    /// Does what is due: checks, consent, lost DTLS flights.
    ///
    /// # Errors
    /// Where DTLS has failed.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<()> {
        self.dtls.handle_timeout(now);
        self.take_dtls_events();
        match &self.failure {
            Some(reason) => bail!("{reason}"),
            None => Ok(()),
        }
    }

    /// Keeps a copy of what [`Endpoint::poll_transmit`] yields from now on: templates for hostile tests.
    pub fn record(&mut self) {
        self.recorded = Some(Vec::new());
    }

    /// What was recorded since the last call: STUN and DTLS, in the order of sending.
    pub fn take_recorded(&mut self) -> Vec<Vec<u8>> {
        self.recorded.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Writes the next datagram that is due into `out`; `false` where there is none.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let is_there = self.next_datagram(now, out);
        if is_there && let Some(recorded) = &mut self.recorded {
            recorded.push(out.clone());
        }
        is_there
    }

    fn next_datagram(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        out.resize(MAX_DATAGRAM, 0);
        if now >= self.next_check {
            self.next_check = now + if self.validated { CONSENT_INTERVAL } else { CHECK_INTERVAL };
            self.transaction = rand::random();
            let request = StunBuilder::new(out, Class::Request, Method::BINDING, &self.transaction)
                .username(&self.remote_fragment, &self.local_fragment)
                .priority(1_853_817_087)
                .ice_controlling(self.tie_breaker)
                .use_candidate();
            let len = request.finish(Some(&self.key)).unwrap_or(0);
            out.truncate(len);
            return len > 0;
        }
        let len = self.dtls.poll_transmit(out);
        out.truncate(len.unwrap_or(0));
        len.is_some()
    }

    /// Encrypts one RTP packet.
    ///
    /// # Errors
    /// Before the endpoint is connected.
    pub fn protect_rtp(&mut self, header: &[u8], payload: &[u8], index: u64) -> Result<&[u8]> {
        let (sender, _) = self.srtp.as_ref().context("not connected yet")?;
        self.buffer.resize(header.len() + payload.len() + MAX_OVERHEAD, 0);
        let len = sender.protect_rtp(header, payload, index, &mut self.buffer)?;
        Ok(&self.buffer[..len])
    }

    /// Encrypts one compound RTCP packet.
    ///
    /// # Errors
    /// Before the endpoint is connected.
    pub fn protect_rtcp(&mut self, plain: &[u8]) -> Result<&[u8]> {
        let (sender, _) = self.srtp.as_mut().context("not connected yet")?;
        self.buffer.resize(plain.len() + MAX_OVERHEAD, 0);
        let len = sender.protect_rtcp(plain, &mut self.buffer)?;
        Ok(&self.buffer[..len])
    }

    /// Whether a key frame of this stream was asked for since the last call.
    pub fn take_key_frame_request(&mut self, ssrc: u32) -> bool {
        self.key_frame_requests.remove(&ssrc)
    }

    /// How often a key frame was asked for, of whatever stream, since the endpoint was made.
    pub fn key_frame_request_count(&self) -> u64 {
        self.key_frame_request_count
    }

    /// The packets (SSRC, sequence number) asked for again since the last call.
    pub fn take_nacked(&mut self) -> Vec<(u32, u16)> {
        std::mem::take(&mut self.nacked)
    }

    /// Drives the endpoint over `socket` until it is connected.
    ///
    /// # Errors
    /// Where that takes longer than `patience`, or DTLS failed.
    pub fn connect_blocking(&mut self, socket: &UdpSocket, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.srtp.is_none() {
            ensure!(Instant::now() < deadline, "not connected within {patience:?}");
            self.step(socket, deadline, &mut |_| {})?;
        }
        self.transmit(socket)
    }

    /// Drives the endpoint over `socket` until `deadline`.
    ///
    /// # Errors
    /// Where DTLS fails, or the socket does.
    pub fn serve_until(
        &mut self,
        socket: &UdpSocket,
        deadline: Instant,
        mut on_rtp: impl FnMut(ReceivedRtp<'_>),
    ) -> Result<()> {
        while Instant::now() < deadline {
            self.step(socket, deadline, &mut on_rtp)?;
        }
        Ok(())
    }

    /// Encrypts one RTP packet and sends it.
    ///
    /// # Errors
    /// Before the endpoint is connected, or where the socket fails.
    pub fn send_rtp(&mut self, socket: &UdpSocket, header: &[u8], payload: &[u8], index: u64) -> Result<()> {
        let remote = self.remote;
        socket.send_to(self.protect_rtp(header, payload, index)?, remote)?;
        Ok(())
    }

    fn step(
        &mut self,
        socket: &UdpSocket,
        deadline: Instant,
        on_rtp: &mut dyn FnMut(ReceivedRtp<'_>),
    ) -> Result<()> {
        self.transmit(socket)?;
        let now = Instant::now();
        let wait = self.next_timeout().min(deadline).saturating_duration_since(now);
        // A read timeout of zero would mean none at all.
        socket.set_read_timeout(Some(wait.max(Duration::from_micros(50))))?;
        let mut datagram = [0; MAX_DATAGRAM];
        match socket.recv_from(&mut datagram) {
            Ok((len, source)) if source == self.remote => {
                self.handle_datagram(Instant::now(), &mut datagram[..len], on_rtp);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
        let now = Instant::now();
        if now >= self.next_timeout() {
            self.handle_timeout(now)?;
        }
        Ok(())
    }

    fn transmit(&mut self, socket: &UdpSocket) -> Result<()> {
        let mut out = Vec::with_capacity(MAX_DATAGRAM);
        while self.poll_transmit(Instant::now(), &mut out) {
            socket.send_to(&out, self.remote).context("cannot send")?;
        }
        Ok(())
    }

    fn handle_stun(&mut self, now: Instant, datagram: &[u8]) {
        let Ok(message) = StunMessage::parse(datagram) else { return };
        let answers_us = *message.transaction_id() == self.transaction && message.check_integrity(&self.key);
        if message.class() != Class::SuccessResponse || !answers_us {
            return;
        }
        self.next_check = now + CONSENT_INTERVAL;
        if !std::mem::replace(&mut self.validated, true)
            && let Err(error) = self.dtls.start(DtlsRole::Client, now)
        {
            self.failure = Some(error.to_string());
        }
    }

    fn handle_rtcp(&mut self, datagram: &mut [u8]) {
        let Some((_, receiver)) = &mut self.srtp else { return };
        let Ok(len) = receiver.unprotect_rtcp(datagram) else { return };
        for packet in rtcp::parse(datagram.get(..len).unwrap_or_default()).flatten() {
            match packet {
                Packet::Pli(pli) => {
                    self.key_frame_request_count += 1;
                    self.key_frame_requests.insert(pli.media_ssrc.0);
                }
                Packet::Fir(fir) => {
                    self.key_frame_request_count += 1;
                    self.key_frame_requests.extend(fir.entries().map(|entry| entry.ssrc.0));
                }
                Packet::Nack(nack) => {
                    self.nacked.extend(nack.sequences().map(|sequence| (nack.media_ssrc.0, sequence.0)));
                }
                _ => {}
            }
        }
    }

    fn take_dtls_events(&mut self) {
        while let Some(event) = self.dtls.poll_event() {
            match event {
                DtlsEvent::Connected(connection) => match connection.srtp.as_ref().map(|keys| {
                    let sender = SrtpSender::new(keys.profile, &keys.local_key, &keys.local_salt)?;
                    Ok((sender, SrtpReceiver::new(keys.profile, &keys.remote_key, &keys.remote_salt)?))
                }) {
                    Some(Ok(pair)) => self.srtp = Some(pair),
                    Some(Err::<_, rtc::srtp::SrtpError>(error)) => self.failure = Some(error.to_string()),
                    None => self.failure = Some("the server negotiated no SRTP".into()),
                },
                DtlsEvent::Failed(failure) => self.failure = Some(failure.to_string()),
                DtlsEvent::Closed => self.failure = Some("the server closed DTLS".into()),
                DtlsEvent::ApplicationData(_) => {}
            }
        }
    }
}
