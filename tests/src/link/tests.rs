//! The link is what it claims to be, measured from outside: datagrams that a socket in one namespace sends, and when
//! they come to one in the other.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::*;
use crate::Network;

/// Bytes of a datagram of these tests on the wire: 1,250, which is 10,000 bits.
const WIRE_BYTES: usize = 1250;
const HEADER_BYTES: usize = 28;
/// The first client's address.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 231, 1, 2);
const SEED: u64 = 11;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A datagram that arrived: its number, and how long it took.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u64,
    took: Duration,
    at: Instant,
}

struct Bench {
    network: Network,
    client: UdpSocket,
    server: UdpSocket,
}

impl Bench {
    fn new() -> Self {
        let network = Network::with_links(1, SEED).expect("a network with a link");
        let port_of = |socket: &UdpSocket| socket.local_addr().expect("it is bound").port();
        let any_port = |address| SocketAddrV4::new(address, 0);
        let client = network.clients()[0].udp_socket(any_port(CLIENT)).expect("a socket");
        let server = network.server().udp_socket(any_port(Network::SERVER)).expect("a socket");
        client.connect((Network::SERVER, port_of(&server))).expect("a route to the server");
        server.connect((CLIENT, port_of(&client))).expect("a route to the client");
        Self { network, client, server }
    }

    fn set(&self, profiles: LinkProfiles) {
        self.network.links()[0].set(profiles);
    }

    /// Sends `count` datagrams up, one every `interval`, and returns what arrives.
    fn up(&self, count: u64, interval: Duration) -> Vec<Arrival> {
        carry(&self.client, &self.server, count, interval)
    }

    fn down(&self, count: u64, interval: Duration) -> Vec<Arrival> {
        carry(&self.server, &self.client, count, interval)
    }
}

fn carry(from: &UdpSocket, to: &UdpSocket, count: u64, interval: Duration) -> Vec<Arrival> {
    const QUIET: Duration = Duration::from_millis(700);
    let start = Instant::now();
    let receiver = to.try_clone().expect("a second handle");
    receiver.set_read_timeout(Some(QUIET)).expect("a timeout");
    let arrivals = std::thread::spawn(move || {
        let mut arrived = Vec::new();
        let mut buffer = [0; LARGEST];
        while let Ok(len) = receiver.recv(&mut buffer) {
            let at = Instant::now();
            assert_eq!(len, WIRE_BYTES - HEADER_BYTES);
            let word = |from: usize| u64::from_be_bytes(buffer[from..from + 8].try_into().expect("8 bytes"));
            let sent = start + Duration::from_nanos(word(8));
            arrived.push(Arrival { number: word(0), took: at - sent, at });
        }
        arrived
    });
    for number in 0..count {
        let due = start + interval * u32::try_from(number).expect("few");
        // The pace of a sender is what this measures with; nothing is waited for.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut datagram = [0; WIRE_BYTES - HEADER_BYTES];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        let nanos = u64::try_from(start.elapsed().as_nanos()).expect("a short test");
        datagram[8..16].copy_from_slice(&nanos.to_be_bytes());
        from.send(&datagram).expect("the way is open");
    }
    arrivals.join().expect("the receiver lives")
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

#[test]
fn each_direction_loses_and_delays_by_itself() {
    let bench = Bench::new();
    bench.set(LinkProfiles {
        up: LinkProfile { loss: 0.1, ..LinkProfile::perfect(ms(50)) },
        down: LinkProfile { jitter: ms(20), ..LinkProfile::perfect(ms(100)) },
    });
    let up = bench.up(2000, ms(1));
    // 2,000 at 10%: 200 +- 13 (one standard deviation).
    assert!((1740..=1860).contains(&up.len()), "{}", up.len());
    let [counted, _] = bench.network.links()[0].counters().expect("counters");
    assert_eq!(counted.offered - counted.lost, up.len() as u64, "{counted:?}");
    let took = median(up.iter().map(|arrival| arrival.took).collect());
    assert!((ms(50)..ms(55)).contains(&took), "{took:?}");
    assert!(up.iter().all(|arrival| arrival.took >= ms(50)));
    assert!(up.windows(2).all(|pair| pair[0].number < pair[1].number), "nothing is reordered");

    let down = bench.down(500, ms(2));
    assert_eq!(down.len(), 500);
    assert!(down.iter().all(|arrival| arrival.took >= ms(100)));
    assert!(down.windows(2).all(|pair| pair[0].number < pair[1].number), "jitter keeps the order");
    let took = median(down.iter().map(|arrival| arrival.took).collect());
    assert!((ms(108)..ms(125)).contains(&took), "{took:?}");
}

#[test]
fn losses_come_in_bursts_and_packets_twice_and_out_of_order() {
    let bench = Bench::new();
    bench.set(LinkProfiles {
        up: LinkProfile { loss: 0.05, loss_run: 5.0, ..LinkProfile::default() },
        down: LinkProfile {
            duplication: 0.1,
            reorder: 0.1,
            reorder_delay: ms(30),
            ..LinkProfile::perfect(ms(10))
        },
    });
    let up = bench.up(3000, ms(1));
    let [counted, _] = bench.network.links()[0].counters().expect("counters");
    let gaps = up.windows(2).filter(|pair| pair[1].number != pair[0].number + 1).count();
    let mean = counted.lost as f64 / gaps as f64;
    // Some 30 runs.
    assert!((75..=240).contains(&counted.lost), "{counted:?}");
    assert!((3.0..8.0).contains(&mean), "{mean}");

    let down = bench.down(1000, ms(2));
    let [_, counted] = bench.network.links()[0].counters().expect("counters");
    assert_eq!(down.len() as u64, 1000 + counted.duplicated);
    assert!((70..=130).contains(&counted.duplicated), "{counted:?}");
    let overtaken = down.windows(2).filter(|pair| pair[1].number < pair[0].number).count();
    assert!((50..=250).contains(&overtaken), "{overtaken}");
}

#[test]
fn rate_is_kept_and_follows_its_changes() {
    let bench = Bench::new();
    let limited = |rate| LinkProfiles {
        up: LinkProfile { rate, queue_bytes: 4 * WIRE_BYTES, ..LinkProfile::default() },
        down: LinkProfile::default(),
    };
    for rate in [3_000_000, 500_000, 3_000_000] {
        bench.set(limited(rate));
        // 10 Mbit/s are offered for a second and a half.
        let up = bench.up(1500, ms(1));
        let (first, last) = (up[0].at, up[up.len() - 1].at);
        let measured = (up.len() - 1) as f64 * WIRE_BYTES as f64 * 8.0 / (last - first).as_secs_f64();
        let expected = rate as f64;
        assert!((0.97..1.03).contains(&(measured / expected)), "{measured} of {rate}");
        // Four wait and one leaves: no datagram took longer than those need.
        let longest = up.iter().map(|arrival| arrival.took).max().expect("some arrive");
        let bound = Duration::from_secs_f64(5.0 * WIRE_BYTES as f64 * 8.0 / expected);
        assert!(longest < bound + ms(20), "{longest:?} of {bound:?}");
    }
}
