//! Publisher, worker and receivers with a seeded link between each two, in virtual time.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use rtc::codec::vp8::Descriptor;
use rtc::rtp::RtpHeader;
use testkit::link::{LinkProfile, LossyLink};
use testkit::random::Random;
use worker::table::TransportIdx;
use worker::transport::{Path, TransportKind};
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::{consumer, rtp_parameters as rtp};

use crate::harness::{Harness, encoding, parameters, rtx, socket, vp8};
use crate::publisher::{Origin, PAYLOAD_TYPE, Publisher, STREAMS};
use crate::receiver::Receiver;

/// Virtual time of the lossy part, and of the one after it in which all is to be repaired.
const LOSSY: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(4);
const TICK: Duration = Duration::from_millis(1);

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// Streams of the publisher.
    pub(crate) streams: usize,
    /// From the publisher, to the publisher, to the receivers, from the receivers.
    pub(crate) links: [LinkProfile; 4],
    /// Whether receivers change their minds about layers.
    pub(crate) switching: bool,
}

impl Scenario {
    /// Everything by chance: half of the seeds have a publisher whose link loses, half switch layers.
    pub(crate) fn by_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut profile = |most: f64| LinkProfile {
            loss: random.below(1000) as f64 / 1000.0 * most,
            loss_run: 1.0 + random.below(4) as f64,
            duplication: random.below(100) as f64 / 1000.0,
            reorder: random.below(200) as f64 / 1000.0,
            reorder_delay: Duration::from_millis(random.below(40)),
            ..LinkProfile::perfect(Duration::from_millis(1 + random.below(40)))
        };
        let mut links = [profile(0.15), profile(0.1), profile(0.2), profile(0.15)];
        if seed & 1 == 0 {
            links[0] = LinkProfile::perfect(Duration::from_millis(5));
        }
        Self { seed, streams: if seed & 4 == 0 { 3 } else { 1 }, links, switching: seed & 2 == 0 }
    }
}

/// What a run came to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) sent: usize,
    pub(crate) repeats: u32,
    pub(crate) lost: u64,
    pub(crate) switches: usize,
}

struct Port {
    socket: UdpSocket,
    transport: TransportIdx,
    path: Path,
}

struct World {
    harness: Harness,
    now: Instant,
    publisher: Publisher,
    receivers: [Receiver; 2],
    ports: Vec<Port>,
    /// To the worker, from the publisher and from each receiver.
    up: [LossyLink<Vec<u8>>; 3],
    /// From the worker, to the same.
    down: [LossyLink<Vec<u8>>; 3],
    /// What the worker got of the publisher, and what there was.
    arrived: HashSet<Origin>,
    made: HashSet<Origin>,
    /// What came after newer packets of its stream.
    late: HashSet<Origin>,
    newest: [Option<Origin>; 3],
    datagrams_before: u64,
}

/// Runs a scenario to its end.
pub(crate) fn run(scenario: &Scenario) -> Result<Outcome, String> {
    let mut world = World::new(scenario);
    let mut random = Random::new(scenario.seed ^ 0x5eed);
    let start = world.now;
    let mut switches = 0;
    let mut next_switch = start + Duration::from_millis(1500);
    let mut preferred = [(2, 2); 2];
    while world.now < start + LOSSY + CALM {
        if world.now >= start + LOSSY {
            for link in world.up.iter_mut().chain(&mut world.down) {
                link.set_profile(LinkProfile::perfect(Duration::from_millis(5)));
            }
        } else if scenario.switching && world.now >= next_switch {
            next_switch = world.now + Duration::from_millis(300 + random.below(1500));
            let who = random.below(2) as usize;
            preferred[who] = (random.below(scenario.streams as u64) as u8, random.below(3) as u8);
            world.prefer(who, preferred[who]);
            switches += 1;
        }
        world.tick();
    }
    let never_came = world.made.len() - world.made.intersection(&world.arrived).count();
    for (receiver, preferred) in world.receivers.iter().zip(preferred) {
        let named = |error| format!("receiver {}: {error}", receiver.ssrc);
        // A frame that was not finished when its stream was left costs a number.
        // Late packets are forgiven only where what is wanted may have changed meanwhile.
        let late = if scenario.switching { world.late.clone() } else { HashSet::new() };
        receiver.verify(&world.arrived, &late, never_came + switches).map_err(named)?;
        if scenario.streams > 1 {
            let latest = receiver.latest(40);
            if latest != Some(preferred) {
                return Err(named(format!("ends with layers {latest:?} where {preferred:?} are preferred")));
            }
        }
    }
    Ok(Outcome {
        sent: world.receivers.iter().map(|receiver| receiver.sent.len()).sum(),
        repeats: world.receivers.iter().map(|receiver| receiver.repeats).sum(),
        lost: world.up.iter().chain(&world.down).map(LossyLink::lost).sum(),
        switches,
    })
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let now = Instant::now();
        let mut harness = Harness::new();
        harness.virtual_now = Some(now);
        harness.router("router");
        let mut ports = Vec::new();
        for id in ["in", "out-rtx", "out"] {
            let socket = socket();
            harness.plain_transport("router", id, false);
            harness.connect_plain(id, socket.local_addr().unwrap());
            let (index, transport) = harness
                .worker
                .transports
                .iter()
                .find(|(_, transport)| transport.id == id)
                .expect("it was made");
            let TransportKind::Plain(_) = &transport.kind else { panic!("a PlainTransport") };
            let path = transport.path.expect("it is connected");
            ports.push(Port { socket, transport: index, path });
        }
        let encodings: Vec<_> =
            STREAMS[..scenario.streams].iter().map(|&ssrc| encoding(ssrc, Some(ssrc + 1))).collect();
        let codecs = vec![vp8(PAYLOAD_TYPE), rtx(PAYLOAD_TYPE + 1, PAYLOAD_TYPE)];
        harness.produce("in", "camera", rtp::MediaKind::Video, parameters(codecs, encodings));
        let mut receivers = [Receiver::new(500, true), Receiver::new(600, false)];
        for (receiver, transport) in receivers.iter_mut().zip(["out-rtx", "out"]) {
            let with_rtx = transport == "out-rtx";
            let mut codecs = vec![vp8(PAYLOAD_TYPE + 1)];
            if with_rtx {
                codecs.push(rtx(PAYLOAD_TYPE + 2, PAYLOAD_TYPE + 1));
            }
            let mut sent = encoding(receiver.ssrc, with_rtx.then_some(receiver.ssrc + 1));
            if scenario.streams > 1 {
                sent.scalability_mode = Some(format!("S{}T3", scenario.streams));
            }
            let sink = parameters(codecs, vec![sent]);
            let streams = scenario.streams as u32;
            harness.consume(
                transport,
                &transport.replace("out", "view"),
                "camera",
                rtp::MediaKind::Video,
                sink,
                streams,
            );
        }
        let [up, back, down, ask] = scenario.links;
        let link = |profile, number: u64| {
            LossyLink::new(profile, scenario.seed.wrapping_mul(31).wrapping_add(number))
        };
        Self {
            harness,
            now,
            publisher: Publisher::new(scenario.seed, scenario.streams, now),
            receivers,
            ports,
            up: [link(up, 1), link(ask, 2), link(ask, 3)],
            down: [link(back, 4), link(down, 5), link(down, 6)],
            arrived: HashSet::new(),
            made: HashSet::new(),
            late: HashSet::new(),
            newest: [None; 3],
            datagrams_before: 0,
        }
    }

    /// One millisecond: everybody sends, the links carry, the worker works.
    fn tick(&mut self) {
        let now = self.now;
        self.harness.virtual_now = Some(now);
        for datagram in self.publisher.poll(now) {
            self.made.extend(origin(&datagram));
            self.up[0].send(datagram, now);
        }
        for (receiver, link) in self.receivers.iter_mut().zip(&mut self.up[1..]) {
            if let Some(nack) = receiver.poll(now) {
                link.send(nack, now);
            }
        }
        for (link, port) in self.up.iter_mut().zip(&self.ports) {
            while let Some((_, mut datagram)) = link.receive(now) {
                if let Some(origin) = origin(&datagram) {
                    let newest = &mut self.newest[usize::from(origin.stream)];
                    let place = |origin: Origin| (origin.frame, origin.index);
                    if newest.is_some_and(|newest| place(newest) > place(origin))
                        && !self.arrived.contains(&origin)
                    {
                        self.late.insert(origin);
                    } else {
                        *newest = Some(origin);
                    }
                    self.arrived.insert(origin);
                }
                self.harness.worker.plain_datagram(port.transport, port.path, &mut datagram, now);
            }
        }
        self.harness.worker.fire_timers(now);
        self.harness.worker.end_turn(now);
        self.harness.worker.outbox.pending.clear();
        self.take_sent();
        while let Some((_, datagram)) = self.down[0].receive(now) {
            for repeat in self.publisher.receive(&datagram) {
                self.up[0].send(repeat, now);
            }
        }
        for (receiver, link) in self.receivers.iter_mut().zip(&mut self.down[1..]) {
            while let Some((_, datagram)) = link.receive(now) {
                receiver.receive(&datagram, now);
            }
        }
        self.now += TICK;
    }

    /// What the worker handed to the kernel in this tick, all of it, onto the links.
    fn take_sent(&mut self) {
        let total = self.harness.worker.sockets.counters.datagrams_sent;
        let mut expected = total - std::mem::replace(&mut self.datagrams_before, total);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 2048];
        while expected > 0 {
            for (who, port) in self.ports.iter().enumerate() {
                while let Ok((len, _)) = port.socket.recv_from(&mut buffer) {
                    expected -= 1;
                    if let Some(receiver) = who.checked_sub(1).and_then(|at| self.receivers.get_mut(at)) {
                        receiver.tap(&buffer[..len]);
                    }
                    self.down[who].send(buffer[..len].to_vec(), self.now);
                }
            }
            assert!(Instant::now() < deadline, "the kernel lost {expected} datagrams on loopback");
        }
    }

    fn prefer(&mut self, who: usize, (spatial_layer, temporal): (u8, u8)) {
        let id = ["view-rtx", "view"][who];
        let layers = consumer::ConsumerLayers { spatial_layer, temporal_layer: Some(temporal) };
        let body = consumer::SetPreferredLayersRequest { preferred_layers: Box::new(layers) };
        let body = request::Body::ConsumerSetPreferredLayersRequest(Box::new(body));
        self.harness.request(Method::ConsumerSetPreferredLayers, id, Some(body));
    }
}

/// Where a datagram of the publisher comes from, where it is media or a repair.
fn origin(datagram: &[u8]) -> Option<Origin> {
    if rtc::rtp::is_rtcp(datagram) {
        return None;
    }
    let header = RtpHeader::parse(datagram).ok()?;
    let skip = usize::from(header.payload_type == PAYLOAD_TYPE + 1) * 2;
    let payload = header.payload(datagram).get(skip..)?;
    let descriptor = Descriptor::parse(payload)?;
    Some(Origin::from_bytes(payload.get(usize::from(descriptor.len) + 1..)?))
}
