//! No heap allocation for a forwarded packet: the worker's own event loop, on a thread whose allocations are counted,
//! with SRTP, losses on both sides, repeats, reports and feedback going on.
//!
//! What C libraries allocate is not seen; on this path they allocate nothing (see `rtc::srtp`).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use net::counting_allocator::{CountingAllocator, allocations, count_this_thread};
use rtc::rtcp::{self, NtpTime, Packet, ReportBlock, SenderInfo};
use rtc::rtp::{RtpHeader, SeqNo, Ssrc, is_rtcp};
use rtc::srtp::{Profile, SrtpReceiver, SrtpSender};
use worker::settings::Settings;
use worker_protocol::framing::{self, Decoder, Encoder};
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::srtp_parameters::{SrtpCryptoSuite, SrtpParameters};
use worker_protocol::wire::{
    message, notification, plain_transport, response, router, rtp_parameters as rtp, transport,
    worker as worker_wire,
};

use crate::harness::{MAPPED_SSRC, encoding, feedback, listen_info, parameters, rtx, vp8};

const SOURCE: u32 = 1000;
const RECEIVERS: usize = 4;
const PACKETS_PER_FRAME: u16 = 6;
/// Rings and tables reach their size: those for repeats hold two seconds.
const WARM_UP: Duration = Duration::from_secs(5);
/// Frames that come at once in the warm-up, so that buffers are as large as a late turn of a busy machine wants them, and
/// not so many that the socket loses some: a changed score is told to the driver, which allocates.
const BURST: u32 = 10;
const MEASURED: Duration = Duration::from_secs(10);

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A worker's driver, over the channel's bytes.
struct Driver {
    to_worker: UnixStream,
    from_worker: UnixStream,
    encoder: Encoder,
    decoder: Decoder,
    next_id: u32,
}

impl Driver {
    fn send(&mut self, data: message::Body) {
        let mut bytes = Vec::new();
        self.encoder.append(message::Message { data }, &mut bytes);
        self.to_worker.write_all(&bytes).unwrap();
    }

    fn request(
        &mut self,
        method: Method,
        handler: &str,
        body: Option<request::Body>,
    ) -> Option<response::Body> {
        self.next_id += 1;
        let id = self.next_id;
        let handler_id = handler.to_owned();
        self.send(message::Body::Request(Box::new(request::Request { id, method, handler_id, body })));
        let mut buffer = [0; 4096];
        loop {
            while let Some(bytes) = self.decoder.poll().unwrap() {
                let read = message::Message::try_from(framing::read(bytes).unwrap()).unwrap();
                if let message::Body::Response(response) = read.data
                    && response.id == id
                {
                    assert!(response.accepted, "{method:?}: {response:?}");
                    return response.body;
                }
            }
            let read = self.from_worker.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the worker ended");
            self.decoder.push(&buffer[..read]);
        }
    }

    /// A PlainTransport with SRTP, and its peer.
    fn peer(&mut self, id: &str, seed: u8) -> Peer {
        let options = plain_transport::PlainTransportOptions {
            base: Box::default(),
            listen_info: Box::new(listen_info(transport::Protocol::Udp)),
            rtcp_listen_info: None,
            rtcp_mux: true,
            comedia: false,
            enable_srtp: true,
            srtp_crypto_suite: Some(SrtpCryptoSuite::AeadAes256Gcm),
        };
        let body =
            router::CreatePlainTransportRequest { transport_id: id.to_owned(), options: Box::new(options) };
        let body = request::Body::RouterCreatePlainTransportRequest(Box::new(body));
        let Some(response::Body::PlainTransportDumpResponse(dump)) =
            self.request(Method::RouterCreatePlainTransport, "router", Some(body))
        else {
            panic!("another response")
        };
        let remote = SocketAddr::new(dump.tuple.local_address.parse().unwrap(), dump.tuple.local_port);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(remote).unwrap();
        socket.set_nonblocking(true).unwrap();
        let key = [seed; 44];
        let local = socket.local_addr().unwrap();
        let body = plain_transport::ConnectRequest {
            ip: Some(local.ip().to_string()),
            port: Some(local.port()),
            rtcp_port: None,
            srtp_parameters: Some(Box::new(SrtpParameters {
                crypto_suite: SrtpCryptoSuite::AeadAes256Gcm,
                key_base64: STANDARD.encode(key),
            })),
        };
        let body = request::Body::PlainTransportConnectRequest(Box::new(body));
        let Some(response::Body::PlainTransportConnectResponse(connected)) =
            self.request(Method::PlainTransportConnect, id, Some(body))
        else {
            panic!("another response")
        };
        let theirs = STANDARD.decode(connected.srtp_parameters.unwrap().key_base64).unwrap();
        let profile = Profile::AeadAes256Gcm;
        Peer {
            socket,
            send: SrtpSender::new(profile, &key[..32], &key[32..]).unwrap(),
            recv: SrtpReceiver::new(profile, &theirs[..32], &theirs[32..]).unwrap(),
        }
    }
}

/// The other end of a PlainTransport.
struct Peer {
    socket: UdpSocket,
    send: SrtpSender,
    recv: SrtpReceiver,
}

impl Peer {
    fn send_rtcp(&mut self, packet: &[u8]) {
        let mut out = [0; 1500];
        let len = self.send.protect_rtcp(packet, &mut out).unwrap();
        self.socket.send(&out[..len]).unwrap();
    }

    /// Everything that waits, in the clear.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let datagram = &mut buffer[..len];
            let rtcp = is_rtcp(datagram);
            let len = if rtcp {
                self.recv.unprotect_rtcp(datagram).unwrap()
            } else {
                // A repeat without RTX is the very datagram again, which is a replay.
                let Ok(len) = self.recv.unprotect_rtp(datagram) else { continue };
                len
            };
            all.push(buffer[..len].to_vec());
        }
        all
    }
}

/// The publisher's side: what it sent, for those that the worker asks for again.
struct Publisher {
    peer: Peer,
    sent: HashMap<u16, Vec<u8>>,
    next: u64,
    frame: u32,
    key_frame_due: bool,
    asked_for: u64,
}

impl Publisher {
    fn send_frame(&mut self) {
        let key = std::mem::take(&mut self.key_frame_due);
        for part in 0..PACKETS_PER_FRAME {
            let index = self.next;
            self.next += 1;
            let marker = if part + 1 == PACKETS_PER_FRAME { 0x80 } else { 0 };
            // An extension with the transport-wide sequence number.
            let mut header = vec![0x90, marker | 96];
            header.extend_from_slice(&(index as u16).to_be_bytes());
            header.extend_from_slice(&(self.frame * 3000).to_be_bytes());
            header.extend_from_slice(&SOURCE.to_be_bytes());
            header.extend_from_slice(&[0xbe, 0xde, 0, 1, 5 << 4 | 1]);
            header.extend_from_slice(&(index as u16).to_be_bytes());
            header.push(0);
            let [high, low] = (self.frame as u16 & 0x7fff).to_be_bytes();
            let start = if part == 0 { 0x90 } else { 0x80 };
            let mut payload = vec![start, 0x80, 0x80 | high, low, u8::from(!(key && part == 0))];
            payload.resize(1000 + usize::from(part % 2), 0xab);
            let mut out = [0; 1500];
            let len = self.peer.send.protect_rtp(&header, &payload, index, &mut out).unwrap();
            // One of a hundred gets lost.
            if index % 100 != 50 {
                self.peer.socket.send(&out[..len]).unwrap();
            }
            self.sent.insert(index as u16, out[..len].to_vec());
        }
        self.frame += 1;
    }

    fn answer(&mut self) {
        for datagram in self.peer.receive() {
            for packet in rtcp::parse(&datagram) {
                match packet.unwrap() {
                    Packet::Nack(nack) => {
                        for seq in nack.sequences() {
                            self.asked_for += 1;
                            self.peer.socket.send(&self.sent[&seq.0]).unwrap();
                        }
                    }
                    Packet::Pli(_) => self.key_frame_due = true,
                    _ => {}
                }
            }
        }
    }

    fn report(&mut self, wall: NtpTime) {
        let info = SenderInfo {
            ssrc: Ssrc(SOURCE),
            ntp: wall,
            rtp_timestamp: self.frame * 3000,
            packet_count: self.next as u32,
            octet_count: self.next as u32 * 1000,
        };
        let mut packet = Vec::new();
        rtcp::write_sender_report(&mut packet, &info, &[]);
        self.peer.send_rtcp(&packet);
    }
}

struct Receiver {
    peer: Peer,
    ssrc: u32,
    received: u64,
    repeated: u64,
    highest: u32,
}

impl Receiver {
    /// Reads what came, and asks again for one of fifty.
    fn read(&mut self) {
        let mut lost = Vec::new();
        for datagram in self.peer.receive() {
            if is_rtcp(&datagram) {
                continue;
            }
            let header = RtpHeader::parse(&datagram).unwrap();
            if header.ssrc.0 != self.ssrc {
                self.repeated += 1;
                continue;
            }
            self.received += 1;
            self.highest = u32::from(header.sequence.0);
            if header.sequence.0.is_multiple_of(50) {
                lost.push(header.sequence);
            }
        }
        if !lost.is_empty() {
            let mut packet = Vec::new();
            rtcp::write_nack(&mut packet, Ssrc(1), Ssrc(self.ssrc), lost.iter().map(|seq| SeqNo(seq.0)));
            self.peer.send_rtcp(&packet);
        }
    }

    fn report(&mut self) {
        let block = ReportBlock {
            ssrc: Ssrc(self.ssrc),
            fraction_lost: 0,
            cumulative_lost: 0,
            highest_sequence: self.highest,
            jitter: 0,
            last_sr: 0,
            delay_since_last_sr: 0,
        };
        let mut packet = Vec::new();
        rtcp::write_receiver_report(&mut packet, Ssrc(1), &[block]);
        self.peer.send_rtcp(&packet);
    }
}

fn start() -> (Driver, thread::JoinHandle<()>) {
    let (to_worker, read) = UnixStream::pair().unwrap();
    let (from_worker, write) = UnixStream::pair().unwrap();
    let worker = thread::spawn(move || {
        count_this_thread();
        let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
        worker::event_loop::serve(Settings::default(), read, write, "test").unwrap();
    });
    let driver = Driver {
        to_worker,
        from_worker,
        encoder: Encoder::default(),
        decoder: Decoder::default(),
        next_id: 0,
    };
    (driver, worker)
}

fn stage(driver: &mut Driver) -> (Publisher, Vec<Receiver>) {
    let body = worker_wire::CreateRouterRequest { router_id: "router".to_owned() };
    driver.request(
        Method::WorkerCreateRouter,
        "",
        Some(request::Body::WorkerCreateRouterRequest(Box::new(body))),
    );
    let peer = driver.peer("in", 1);
    let mut codec = vp8(96);
    codec.rtcp_feedback.as_mut().unwrap().push(feedback("transport-cc", ""));
    let mut source = parameters(vec![codec], vec![encoding(SOURCE, None)]);
    source.header_extensions = vec![extension(rtp::RtpHeaderExtensionUri::TransportWideCcDraft01, 5)];
    let body = transport::ProduceRequest {
        producer_id: "producer".to_owned(),
        kind: rtp::MediaKind::Video,
        rtp_parameters: Box::new(source),
        rtp_mapping: Box::new(rtp::RtpMapping {
            codecs: vec![rtp::CodecMapping { payload_type: 96, mapped_payload_type: 101 }],
            encodings: vec![rtp::EncodingMapping { rid: None, ssrc: Some(SOURCE), mapped_ssrc: MAPPED_SSRC }],
        }),
        paused: false,
        key_frame_request_delay: 0,
        enable_mediasoup_packet_id_header_extension: false,
    };
    let body = request::Body::TransportProduceRequest(Box::new(body));
    driver.request(Method::TransportProduce, "in", Some(body));
    let receivers = (0..RECEIVERS).map(|place| receiver(driver, place)).collect();
    let publisher =
        Publisher { peer, sent: HashMap::new(), next: 1, frame: 0, key_frame_due: true, asked_for: 0 };
    (publisher, receivers)
}

fn receiver(driver: &mut Driver, place: usize) -> Receiver {
    let id = format!("out-{place}");
    let peer = driver.peer(&id, 10 + place as u8);
    let ssrc = 2000 + 2 * place as u32;
    let repair = place.is_multiple_of(2).then_some(ssrc + 1);
    let mut codecs = vec![vp8(101)];
    codecs.extend(repair.map(|_| rtx(102, 101)));
    let mut sink = parameters(codecs, vec![encoding(ssrc, repair)]);
    sink.header_extensions = vec![
        extension(rtp::RtpHeaderExtensionUri::Mid, 1),
        extension(rtp::RtpHeaderExtensionUri::AbsSendTime, 4),
    ];
    let body = transport::ConsumeRequest {
        consumer_id: format!("consumer-{place}"),
        producer_id: "producer".to_owned(),
        kind: rtp::MediaKind::Video,
        rtp_parameters: Box::new(sink),
        type_: rtp::Type::Simple,
        consumable_rtp_encodings: vec![rtp::RtpEncodingParameters {
            ssrc: Some(MAPPED_SSRC),
            ..rtp::RtpEncodingParameters::default()
        }],
        paused: false,
        preferred_layers: None,
        ignore_dtx: false,
    };
    let body = request::Body::TransportConsumeRequest(Box::new(body));
    driver.request(Method::TransportConsume, &id, Some(body));
    Receiver { peer, ssrc, received: 0, repeated: 0, highest: 0 }
}

fn extension(uri: rtp::RtpHeaderExtensionUri, id: u8) -> rtp::RtpHeaderExtensionParameters {
    rtp::RtpHeaderExtensionParameters { uri, id, encrypt: false, parameters: None }
}

#[test]
fn a_forwarded_packet_allocates_nothing() {
    let (mut driver, worker) = start();
    let (mut publisher, mut receivers) = stage(&mut driver);
    let begin = Instant::now();
    let mut before = None;
    for frame in 1_u32.. {
        let due = begin + Duration::from_micros(33_333) * frame;
        let frames = if frame == 60 { BURST } else { 1 };
        (0..frames).for_each(|_| publisher.send_frame());
        if frame % 30 == 0 {
            publisher.report(NtpTime::from_unix(begin.elapsed()));
            receivers.iter_mut().for_each(Receiver::report);
        }
        // The pace of the frames is the test's clock: what comes in between is answered as it comes.
        while Instant::now() < due {
            publisher.answer();
            receivers.iter_mut().for_each(Receiver::read);
            thread::sleep(Duration::from_millis(2));
        }
        let received: u64 = receivers.iter().map(|receiver| receiver.received).sum();
        let repeated: u64 = receivers.iter().map(|receiver| receiver.repeated).sum();
        let now = (allocations(), received, repeated, publisher.asked_for);
        match before {
            None if begin.elapsed() > WARM_UP => before = Some(now),
            Some(before) if begin.elapsed() > WARM_UP + MEASURED => {
                let (allocated, received, repeated, asked_for) =
                    (now.0 - before.0, now.1 - before.1, now.2 - before.2, now.3 - before.3);
                assert!(received > 5_000, "{received} packets in ten seconds");
                assert!(repeated > 30 && asked_for > 10, "{repeated} repeats, {asked_for} asked for");
                assert_eq!(allocated, 0, "for {received} packets");
                break;
            }
            _ => {}
        }
    }
    driver.send(message::Body::Notification(Box::new(notification::Notification {
        handler_id: String::new(),
        event: notification::Event::WorkerClose,
        body: None,
    })));
    worker.join().unwrap();
    assert!(allocations() > 100, "the worker's start is counted");
}
