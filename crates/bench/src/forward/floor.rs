//! What the kernel alone costs: the datagrams that were just forwarded, sent again bare, at the same times, in the same
//! order and in the same runs.
//!
//! A bare `sendto` in a loop finds everything where the one before left it: code, sockets, routes. A worker that sends
//! to two hundred every 20 ms finds the caches full of others' things, like anybody who sends at such times. This
//! sender does what the worker's last step does, with the worker's own send queue, and nothing else: it neither
//! receives nor encrypts nor writes headers. Below its figure no worker gets that sends these datagrams at these times.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use net::udp::SendQueue;

use super::publishers::Departure;
use crate::cpu;
use crate::sendto::SendtoCost;

/// What one publisher sends within so long goes to a receiver in one run, as from a worker that waits for a frame.
const NEXT_PACKET: Duration = Duration::from_micros(300);
/// A worker waits no longer than this for one.
const LONGEST_WAIT: Duration = Duration::from_millis(1);
/// A worker hands on what it has queued when it is more than this.
const FLUSH_BYTES: usize = 256 * 1024;

/// Sends `departures` to each of `addresses` at their times from now on, on the calling thread, and says what that cost.
///
/// # Errors
/// Where no loopback socket can be bound, or the kernel refuses a datagram.
pub fn window(addresses: &[SocketAddr], departures: &[Departure]) -> Result<SendtoCost> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("cannot bind a loopback socket")?;
    let mut queue = SendQueue::for_socket(&socket);
    let longest = departures.iter().map(|departure| departure.size).max().unwrap_or(0);
    // Neither STUN, DTLS nor RTP by its first byte: whoever reads it takes it for nothing.
    let payload = vec![0xff; longest];
    let mut sent = 0;
    let begin = Instant::now();
    let before = cpu::thread_time()?;
    for group in departures.chunk_by(together(departures)) {
        let due = begin + group.last().map_or(Duration::ZERO, |departure| departure.at);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        for &address in addresses {
            for departure in group {
                queue.push(payload.get(..departure.size).unwrap_or_default(), address);
            }
            if queue.bytes() > FLUSH_BYTES {
                sent += queue.flush(&socket).sent;
            }
        }
        sent += queue.flush(&socket).sent;
    }
    let cpu = cpu::thread_time()?.saturating_sub(before);
    let datagrams = (departures.len() * addresses.len()) as u64;
    ensure!(sent == datagrams, "the kernel took {sent} of {datagrams} datagrams");
    Ok(SendtoCost { datagrams, cpu })
}

/// Whether a departure belongs to the group of the one before.
fn together(departures: &[Departure]) -> impl FnMut(&Departure, &Departure) -> bool {
    let mut first = departures.first().map_or(Duration::ZERO, |departure| departure.at);
    move |before, next| {
        let is_same = before.stream == next.stream
            && next.at.saturating_sub(before.at) <= NEXT_PACKET
            && next.at.saturating_sub(first) <= LONGEST_WAIT;
        if !is_same {
            first = next.at;
        }
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_together_and_others_wait_for_nobody() {
        let at = |stream, micros| Departure { at: Duration::from_micros(micros), stream, size: 1 };
        let paced: Vec<_> = (0..6).map(|i| at(0, 5_000 + 250 * i)).collect();
        let departures =
            [vec![at(0, 0), at(0, 20), at(1, 40), at(1, 50), at(0, 60), at(0, 1_000)], paced].concat();
        let groups: Vec<_> = departures.chunk_by(together(&departures)).map(<[_]>::len).collect();
        assert_eq!(groups, [2, 2, 1, 1, 5, 1]);
    }

    #[test]
    fn everything_is_sent_to_everybody() {
        let receivers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let addresses = receivers.each_ref().map(|receiver| receiver.local_addr().unwrap());
        let departures = [(0, 100), (0, 100), (5, 30)].map(|(ms, size)| Departure {
            at: Duration::from_millis(ms),
            stream: 0,
            size,
        });
        assert_eq!(window(&addresses, &departures).unwrap().datagrams, 6);
        for receiver in receivers {
            let lens: Vec<_> = (0..3).map(|_| receiver.recv(&mut [0; 200]).unwrap()).collect();
            assert_eq!(lens, [100, 100, 30]);
        }
    }
}
