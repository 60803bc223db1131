//! The worker's transports as a state machine: a publisher's and a subscriber's WebRtcTransport and a DirectTransport
//! with consumers, driven by STUN, DTLS, SRTP and SRTCP right and wrong, by the driver's requests and by time.
//!
//! Whatever happens: consumers' packets are RTP under their own identity, one sequence number has one content, strangers
//! get no more than they sent, and a closed Router leaves nothing behind.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rtc::certificate::Certificate;
use rtc::dtls::{DtlsContext, DtlsEvent, DtlsRole, DtlsTransport, MTU};
use rtc::rtcp::{self, NtpTime, ReportBlock, SenderInfo};
use rtc::rtp::{Bitrate, RtpHeader, SeqNo, Ssrc};
use rtc::srtp::{MAX_OVERHEAD, Profile, SrtpReceiver, SrtpSender};
use rtc::stun::{Class, IntegrityKey, Method as StunMethod, StunBuilder};
use worker::table::{SocketIdx, TransportIdx};
use worker::transport::Path;
use worker::transport::srtp::Srtp;
use worker_protocol::wire::request::{Body, Method};
use worker_protocol::wire::rtp_parameters::MediaKind;
use worker_protocol::wire::{
    consumer, notification, response, transport as wire, web_rtc_transport as web_rtc,
};

use crate::input::Input;
use crate::session::{self, ROUTER, Session};

const AUDIO: u32 = 1000;
const VIDEO: [u32; 3] = [2000, 2100, 2200];
const AUDIO_OUT: u32 = 7000;
const VIDEO_OUT: u32 = 8000;
/// Under which SRTP goes where DTLS is left out.
const PROFILE: Profile = Profile::AeadAes128Gcm;

struct World {
    session: Session,
    socket: SocketIdx,
    /// Where peers are: two that know passwords, and a stranger.
    peers: [UdpSocket; 3],
    client: DtlsContext,
    fingerprint: String,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    fn new() -> Self {
        let mut session = Session::new();
        let (method, handler, body) = session::create_server();
        session.request(method, handler, body, Instant::now()).expect("a server on loopback");
        let (_, server) = session.worker.web_rtc_servers.iter().next().expect("it was made");
        let socket = server.entries[0].socket;
        let peer = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.set_nonblocking(true).expect("a socket");
            socket
        };
        let certificate = Certificate::generate().expect("a certificate");
        let client = DtlsContext::new(&certificate, crate::dtls::TIMERS).expect("a context");
        let sha256 = rtc::certificate::FingerprintAlgorithm::Sha256;
        let fingerprint = certificate
            .fingerprints()
            .into_iter()
            .find(|fingerprint| fingerprint.algorithm == sha256)
            .expect("SHA-256 is one of them");
        Self {
            session,
            socket,
            peers: [peer(), peer(), peer()],
            client,
            fingerprint: fingerprint.value.to_string(),
        }
    }
}

/// A story of datagrams, requests and time.
pub fn run(data: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        let mut story = Story::new(world);
        let mut input = Input::new(data);
        for _ in 0..300 {
            if input.is_empty() {
                break;
            }
            story.step(&mut input);
        }
        story.end();
    });
}

/// One of the two peers that know a password.
struct Peer {
    index: TransportIdx,
    id: &'static str,
    fragment: String,
    password: String,
    dtls: Option<DtlsTransport>,
    send: Option<SrtpSender>,
    recv: Option<SrtpReceiver>,
}

struct Story<'w> {
    world: &'w mut World,
    now: Instant,
    peers: [Peer; 2],
    /// Index of the next packet of each stream, of the audio first.
    sequence: [u64; 4],
    timestamp: u32,
    /// The datagrams of the peers, to be sent again.
    sent: Vec<(usize, Vec<u8>)>,
    /// What came from the DirectTransport's consumers, by SSRC and sequence number.
    direct: HashMap<(u32, u16), Vec<u8>>,
    /// Sequence numbers that the subscriber got.
    received: Vec<u16>,
    /// Bytes to and from the stranger.
    stranger: [usize; 2],
    /// Whether the stranger has sent what was a peer's.
    eavesdropped: bool,
    /// What the worker had sent when we listened last: system calls are dear.
    heard: u64,
}

impl<'w> Story<'w> {
    fn new(world: &'w mut World) -> Self {
        let now = Instant::now();
        let session = &mut world.session;
        let mut ask = |(method, handler, body): (Method, &str, Option<Body>)| {
            session.request(method, handler, body, now).expect("a right request")
        };
        ask(session::create_router());
        let mut peer = |id: &'static str| {
            let Some(response::Body::WebRtcTransportDumpResponse(dump)) =
                ask(session::create_web_rtc_transport(id))
            else {
                panic!("a transport")
            };
            let ice = dump.ice_parameters;
            (id, ice.username_fragment, ice.password)
        };
        let peers = [peer("publisher"), peer("subscriber")];
        ask(session::create_direct_transport("direct"));
        let with = |handler, (method, body)| (method, handler, body);
        let audio = vec![session::encoding(Some(AUDIO), None, None)];
        ask(with("publisher", session::produce("audio", MediaKind::Audio, "a", audio)));
        let video = vec![
            session::encoding(Some(VIDEO[0]), Some(VIDEO[0] + 1), Some("r0")),
            session::encoding(Some(VIDEO[1]), Some(VIDEO[1] + 1), Some("r1")),
            // By its RID alone.
            session::encoding(None, None, Some("r2")),
        ];
        ask(with("publisher", session::produce("camera", MediaKind::Video, "v", video)));
        for (handler, audio, video) in
            [("subscriber", "audio-out", "video-out"), ("direct", "audio-direct", "video-direct")]
        {
            ask(with(handler, session::consume(audio, "audio", MediaKind::Audio, 1, AUDIO_OUT)));
            ask(with(handler, session::consume(video, "camera", MediaKind::Video, 3, VIDEO_OUT)));
        }
        let indices: HashMap<String, TransportIdx> = session
            .worker
            .transports
            .iter()
            .map(|(index, transport)| (transport.id.clone(), index))
            .collect();
        let peers = peers.map(|(id, fragment, password)| Peer {
            index: indices[id],
            id,
            fragment,
            password,
            dtls: None,
            send: None,
            recv: None,
        });
        Self {
            world,
            now,
            peers,
            sequence: [65_500, 65_000, 10, 1],
            timestamp: u32::MAX - 5_000,
            sent: Vec::new(),
            direct: HashMap::new(),
            received: Vec::new(),
            stranger: [0; 2],
            eavesdropped: false,
            heard: 0,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let who = usize::from(what >> 4) & 1;
        match what & 15 {
            0 => self.binding(who, input),
            1 => self.secure(who),
            2 => self.handshake(who, input.u8()),
            3..=5 => self.media(input),
            6 => self.reports(who, input),
            7 => {
                let bytes = input.short().to_vec();
                self.protected_rtcp(who, bytes);
            }
            8 => {
                let bytes = input.short().to_vec();
                self.datagram(usize::from(what >> 4) % 3, bytes);
            }
            9 => self.again(input),
            10 => self.now += Duration::from_millis(u64::from(input.u8())),
            11 => self.now += Duration::from_millis(u64::from(input.u8()) * 100),
            12 | 13 => self.driver(input),
            14 => self.arbitrary_rtp(who, input),
            _ => self.connect(who),
        }
        self.world.session.turn(self.now);
        self.hear();
    }

    fn address(&self, peer: usize) -> SocketAddr {
        self.world.peers[peer].local_addr().expect("it is bound")
    }

    fn datagram(&mut self, from: usize, mut bytes: Vec<u8>) {
        let path = Path { socket: self.world.socket, remote: self.address(from) };
        if from == 2 {
            self.stranger[0] += bytes.len();
        } else if self.sent.len() < 64 {
            self.sent.push((from, bytes.clone()));
        }
        let (server, _) = self.world.session.worker.web_rtc_servers.iter().next().expect("it lives");
        self.world.session.worker.server_datagram(server, path, &mut bytes, self.now);
    }

    /// A Binding request, with flags that say what is odd about it.
    fn binding(&mut self, who: usize, input: &mut Input<'_>) {
        let flags = input.u8();
        let from = if flags & 0x40 != 0 { 1 - who } else { who };
        let peer = &self.peers[who];
        let mut out = [0; 256];
        let mut builder = StunBuilder::new(&mut out, Class::Request, StunMethod::BINDING, &[flags; 12])
            .username(&peer.fragment, "peer")
            .priority(7);
        builder = if flags & 1 != 0 { builder.ice_controlled(2) } else { builder.ice_controlling(2) };
        if flags & 2 == 0 {
            builder = builder.use_candidate();
        }
        if flags & 4 != 0 {
            builder = builder.nomination(u32::from(flags >> 5));
        }
        let password = if flags & 8 != 0 { "wrong" } else { &peer.password };
        let len = builder.finish((flags & 16 == 0).then(|| IntegrityKey::new(password)).as_ref());
        let bytes = out[..len.expect("room")].to_vec();
        self.datagram(from, bytes);
    }

    /// The end of a handshake without the handshake: keys that both ends know, on the path that ICE selected.
    fn secure(&mut self, who: usize) {
        let peer = &mut self.peers[who];
        let Some(transport) = self.world.session.worker.transports.get_mut(peer.index) else { return };
        if transport.srtp.is_some() || transport.path.is_none() || peer.dtls.is_some() {
            return;
        }
        let (key, salt) = (vec![1; PROFILE.key_len()], vec![2; PROFILE.salt_len()]);
        let sender = || SrtpSender::new(PROFILE, &key, &salt).expect("lengths of the profile");
        let receiver = || SrtpReceiver::new(PROFILE, &key, &salt).expect("lengths of the profile");
        transport.srtp = Some(Srtp { send: sender(), recv: Box::new(receiver()) });
        (peer.send, peer.recv) = (Some(sender()), Some(receiver()));
        let index = peer.index;
        self.world.session.worker.transport_connected(index, self.now);
    }

    fn connect(&mut self, who: usize) {
        let fingerprint = web_rtc::Fingerprint {
            algorithm: web_rtc::FingerprintAlgorithm::Sha256,
            value: self.world.fingerprint.clone(),
        };
        let dtls =
            web_rtc::DtlsParameters { fingerprints: vec![fingerprint], role: web_rtc::DtlsRole::Client };
        let body = web_rtc::ConnectRequest { dtls_parameters: Box::new(dtls) };
        let body = Body::WebRtcTransportConnectRequest(Box::new(body));
        let _ = self.world.session.request(
            Method::WebRtcTransportConnect,
            self.peers[who].id,
            Some(body),
            self.now,
        );
    }

    /// The peer's side of a real handshake, one flight of it.
    fn handshake(&mut self, who: usize, flip: u8) {
        let peer = &mut self.peers[who];
        if peer.send.is_some() {
            return;
        }
        let now = self.now;
        let context = &self.world.client;
        let dtls = peer.dtls.get_or_insert_with(|| {
            let mut dtls = DtlsTransport::new(context);
            dtls.start(DtlsRole::Client, now).expect("the first start");
            dtls
        });
        dtls.handle_timeout(now);
        let mut out = [0; MTU];
        let mut flight = Vec::new();
        while let Some(len) = dtls.poll_transmit(&mut out) {
            flight.push(out[..len].to_vec());
        }
        for mut datagram in flight {
            if flip & 0xc0 == 0xc0 {
                let at = usize::from(flip & 0x3f) * 7 % datagram.len();
                datagram[at] ^= 0x11;
            }
            self.datagram(who, datagram);
        }
    }

    /// The next packet of one of the publisher's streams, with header extensions as chosen.
    fn media(&mut self, input: &mut Input<'_>) {
        let (what, how) = (input.u8(), input.u8());
        let stream = usize::from(what & 3);
        let skip = match what >> 6 {
            0 | 1 => 1,
            2 => u64::from(how >> 4) + 1,
            _ => u64::from(how) * 300,
        };
        // A few packets back where asked for: late, or a repeat.
        let back = if what & 0x20 != 0 { u64::from(how & 15) } else { 0 };
        if back == 0 {
            self.sequence[stream] += skip;
            self.timestamp = self.timestamp.wrapping_add(u32::from(how) * 40);
        }
        let index = self.sequence[stream].saturating_sub(back);
        let ssrc = if stream == 0 { AUDIO } else { VIDEO[stream - 1] };
        let repair = what & 0x10 != 0 && stream > 0;
        let marker = u8::from(how & 1 != 0) << 7;
        let payload_type = if stream == 0 { 100 } else { 96 + u8::from(repair) };
        let mut packet = vec![0x90, marker | payload_type];
        packet.extend_from_slice(&(index as u16).to_be_bytes());
        packet.extend_from_slice(&self.timestamp.to_be_bytes());
        packet.extend_from_slice(&(ssrc + u32::from(repair)).to_be_bytes());
        let mid = if stream == 0 { b'a' } else { b'v' };
        let level = 0x80 | (how >> 1);
        packet.extend_from_slice(&[
            0xbe,
            0xde,
            0,
            3,
            0x10,
            mid,
            0x21 - u8::from(repair) + 0x10 * u8::from(repair),
        ]);
        packet.extend_from_slice(&[b'r', b'0' + (stream as u8).saturating_sub(1)]);
        packet.extend_from_slice(&[0x51, (index >> 8) as u8, index as u8]);
        packet.extend_from_slice(&[0x60, level]);
        packet.resize(28, 0);
        if repair {
            packet.extend_from_slice(&(index.saturating_sub(u64::from(how)) as u16).to_be_bytes());
        }
        if stream > 0 {
            let picture = (index as u16) | 0x8000;
            packet.extend_from_slice(&[0x90, 0xe0]);
            packet.extend_from_slice(&picture.to_be_bytes());
            packet.extend_from_slice(&[index as u8, (how & 0x30) << 2 | 0x20, u8::from(what & 8 != 0)]);
        }
        packet.extend_from_slice(input.take(usize::from(how & 7)));
        self.protected_rtp(0, &packet, index);
    }

    fn arbitrary_rtp(&mut self, who: usize, input: &mut Input<'_>) {
        let mut packet = vec![0x80 | (input.u8() & 0x3f), input.u8()];
        packet.extend_from_slice(input.short());
        packet.resize(packet.len().max(12), 0);
        let index = u64::from(u16::from_be_bytes([packet[2], packet[3]]));
        self.protected_rtp(who, &packet, index);
    }

    fn protected_rtp(&mut self, who: usize, packet: &[u8], index: u64) {
        let Ok(header) = RtpHeader::parse_ignoring_padding(packet) else { return };
        let Some(srtp) = &self.peers[who].send else { return };
        let (head, payload) = packet.split_at(usize::from(header.header_len));
        let mut datagram = vec![0; packet.len() + MAX_OVERHEAD];
        let Ok(len) = srtp.protect_rtp(head, payload, index, &mut datagram) else { return };
        datagram.truncate(len);
        self.datagram(who, datagram);
    }

    fn protected_rtcp(&mut self, who: usize, plain: Vec<u8>) {
        let Some(srtp) = &mut self.peers[who].send else { return };
        let mut datagram = vec![0; plain.len() + MAX_OVERHEAD];
        let Ok(len) = srtp.protect_rtcp(&plain, &mut datagram) else { return };
        datagram.truncate(len);
        self.datagram(who, datagram);
    }

    /// Well-formed RTCP about streams that there are.
    fn reports(&mut self, who: usize, input: &mut Input<'_>) {
        let mut out = Vec::new();
        for _ in 0..1 + input.below(3) {
            let what = input.u8();
            let source = [AUDIO, VIDEO[0], VIDEO[1], VIDEO[0] + 1, AUDIO_OUT, VIDEO_OUT, VIDEO_OUT + 1, 5]
                [usize::from(what >> 3) & 7];
            match what & 7 {
                0 => {
                    let info = SenderInfo {
                        ssrc: Ssrc(source),
                        ntp: NtpTime(input.u64()),
                        rtp_timestamp: input.u32(),
                        packet_count: input.u32(),
                        octet_count: input.u32(),
                    };
                    rtcp::write_sender_report(&mut out, &info, &[]);
                }
                1 => {
                    let block = ReportBlock {
                        ssrc: Ssrc(source),
                        fraction_lost: input.u8(),
                        cumulative_lost: input.u32().cast_signed() >> 8,
                        highest_sequence: input.u32(),
                        jitter: input.u32(),
                        last_sr: input.u32(),
                        delay_since_last_sr: input.u32(),
                    };
                    rtcp::write_receiver_report(&mut out, Ssrc(9), &[block]);
                }
                2 | 3 => {
                    // What was received, and what never was.
                    let from = input.u8();
                    let mut wanted: Vec<SeqNo> = self
                        .received
                        .iter()
                        .rev()
                        .take(usize::from(from & 15))
                        .map(|number| SeqNo(*number))
                        .collect();
                    wanted.push(SeqNo(u16::from(from)));
                    rtcp::write_nack(&mut out, Ssrc(9), Ssrc(source), wanted);
                }
                4 => rtcp::write_pli(&mut out, Ssrc(9), Ssrc(source)),
                5 => rtcp::write_remb(&mut out, Ssrc(9), Bitrate(input.u64() >> 20), &[Ssrc(source)]),
                6 => rtcp::write_xr_rrtr(&mut out, Ssrc(9), NtpTime(input.u64())),
                _ => rtcp::write_bye(&mut out, &[Ssrc(source)]),
            }
        }
        self.protected_rtcp(who, out);
    }

    /// An earlier datagram once more, perhaps changed, perhaps from elsewhere.
    fn again(&mut self, input: &mut Input<'_>) {
        let (which, how) = (input.below(64), input.u8());
        let Some((from, original)) = self.sent.get(which).cloned() else { return };
        let mut bytes = original.clone();
        if how & 1 != 0 && !bytes.is_empty() {
            let at = usize::from(input.u8()) % bytes.len();
            bytes[at] ^= input.u8();
        }
        let from = if how & 2 != 0 { 2 } else { from };
        // Who can repeat a request with its password's tag has been on the path: ICE lets him pass. The tag is over
        // all but the FINGERPRINT behind it.
        let tagged = original.len().saturating_sub(8);
        self.eavesdropped |= from == 2 && bytes[..tagged] == original[..tagged];
        self.datagram(from, bytes);
    }

    /// What a driver may ask at any time.
    fn driver(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let producer = ["audio", "camera"][usize::from(what >> 7)];
        let consumer = ["audio-out", "video-out", "audio-direct", "video-direct"][usize::from(what >> 6)];
        let transport = ["publisher", "subscriber", "direct"][usize::from(what >> 5) % 3];
        let (method, handler, body) = match what & 15 {
            0 => (Method::ProducerPause, producer, None),
            1 => (Method::ProducerResume, producer, None),
            2 => (Method::ConsumerPause, consumer, None),
            3 => (Method::ConsumerResume, consumer, None),
            4 => (Method::ConsumerRequestKeyFrame, consumer, None),
            5 => {
                let layers = consumer::ConsumerLayers {
                    spatial_layer: input.u8() & 3,
                    temporal_layer: Some(input.u8() & 3),
                };
                let body = consumer::SetPreferredLayersRequest { preferred_layers: Box::new(layers) };
                let body = Body::ConsumerSetPreferredLayersRequest(Box::new(body));
                (Method::ConsumerSetPreferredLayers, consumer, Some(body))
            }
            6 => (Method::TransportDump, transport, None),
            7 => (Method::TransportGetStats, transport, None),
            8 => (Method::ConsumerGetStats, consumer, None),
            9 => (Method::ProducerGetStats, producer, None),
            10 => (Method::TransportRestartIce, transport, None),
            11 => {
                let body =
                    wire::SetMaxIncomingBitrateRequest { max_incoming_bitrate: u64::from(input.u32()) };
                let body = Body::TransportSetMaxIncomingBitrateRequest(Box::new(body));
                (Method::TransportSetMaxIncomingBitrate, transport, Some(body))
            }
            12 => {
                let body = wire::CloseConsumerRequest { consumer_id: consumer.into() };
                let body = Body::TransportCloseConsumerRequest(Box::new(body));
                (Method::TransportCloseConsumer, transport, Some(body))
            }
            13 => {
                let body = wire::CloseProducerRequest { producer_id: producer.into() };
                (
                    Method::TransportCloseProducer,
                    transport,
                    Some(Body::TransportCloseProducerRequest(Box::new(body))),
                )
            }
            14 => {
                let body =
                    worker_protocol::wire::router::CloseTransportRequest { transport_id: transport.into() };
                (
                    Method::RouterCloseTransport,
                    ROUTER,
                    Some(Body::RouterCloseTransportRequest(Box::new(body))),
                )
            }
            _ => (Method::RouterDump, ROUTER, None),
        };
        let answer = self.world.session.request(method, handler, body, self.now);
        if let Ok(Some(response::Body::TransportRestartIceResponse(ice))) = answer
            && let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == handler)
        {
            (peer.fragment, peer.password) = (ice.username_fragment, ice.password);
        }
    }

    /// What the worker sent to the peers and to its driver.
    fn hear(&mut self) {
        let mut buffer = [0; 2048];
        let total = self.world.session.worker.sockets.counters.datagrams_sent;
        let any = std::mem::replace(&mut self.heard, total) != total;
        for who in (0..3).filter(|_| any) {
            while let Ok((len, _)) = self.world.peers[who].recv_from(&mut buffer) {
                if who == 2 {
                    self.stranger[1] += len;
                } else {
                    self.peer_received(who, &mut buffer[..len]);
                }
            }
        }
        for notification in std::mem::take(&mut self.world.session.notifications) {
            if let Some(notification::Body::ConsumerRtpNotification(packet)) = notification.body {
                self.direct_packet(packet.data);
            }
        }
        self.invariants();
    }

    fn peer_received(&mut self, who: usize, datagram: &mut [u8]) {
        let peer = &mut self.peers[who];
        match datagram[0] {
            0..=3 => {}
            20..=63 => {
                let Some(dtls) = &mut peer.dtls else { return };
                dtls.handle_datagram(datagram, self.now);
                while let Some(event) = dtls.poll_event() {
                    let DtlsEvent::Connected(_) = event else { continue };
                }
            }
            _ => {
                let Some(srtp) = &mut peer.recv else { return };
                if rtc::rtp::is_rtcp(datagram) {
                    // A path that was another's may still bring the other's packets.
                    let Ok(len) = srtp.unprotect_rtcp(datagram) else { return };
                    assert!(rtcp::parse(&datagram[..len]).all(|packet| packet.is_ok()), "wrong RTCP");
                } else if let Ok(len) = srtp.unprotect_rtp(datagram) {
                    let header = RtpHeader::parse(&datagram[..len]).expect("the worker sends RTP");
                    let ours = [AUDIO_OUT, VIDEO_OUT, VIDEO_OUT + 1, 1234].contains(&header.ssrc.0);
                    assert!(ours, "{:?} is no consumer's SSRC", header.ssrc);
                    if header.ssrc.0 == VIDEO_OUT && self.received.len() < 1000 {
                        self.received.push(header.sequence.0);
                    }
                }
            }
        }
    }

    /// A DirectTransport's consumer: nobody asks it for repeats, so that each number comes once.
    fn direct_packet(&mut self, packet: Vec<u8>) {
        let header = RtpHeader::parse(&packet).expect("the worker sends RTP");
        assert!([AUDIO_OUT, VIDEO_OUT].contains(&header.ssrc.0));
        let key = (header.ssrc.0, header.sequence.0);
        if self.direct.len() > 30_000 {
            return;
        }
        assert!(self.direct.insert(key, packet).is_none(), "{key:?} went out twice");
    }

    fn invariants(&self) {
        let worker = &self.world.session.worker;
        assert!(worker.tuples.len() <= 16, "eight paths a transport");
        for (_, transport) in worker.transports.iter() {
            assert!(transport.path.is_none_or(|path| worker.sockets.get(path.socket).is_some()));
        }
        let [sent, got] = self.stranger;
        assert!(got <= sent || self.eavesdropped, "a stranger got {got} bytes for {sent}");
    }

    fn end(self) {
        let session = &mut self.world.session;
        session.clear(false, self.now);
        session.assert_empty(1);
        let mut buffer = [0; 2048];
        for peer in &self.world.peers {
            while peer.recv_from(&mut buffer).is_ok() {}
        }
    }
}
