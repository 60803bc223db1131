//! Both ways of sending and receiving pass the same tests.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::*;

type Flush = fn(&mut SendQueue, &UdpSocket) -> FlushReport;

const FLUSHES: [Flush; 2] = [|queue, socket| queue.flush(socket), portable::flush];

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Everything that waits in `socket`. Loopback delivers before the send call returns, so nothing has to be waited for.
fn drain(socket: &UdpSocket) -> Vec<(Vec<u8>, SocketAddr)> {
    let mut batch = RecvBatch::new();
    let mut all = Vec::new();
    loop {
        match batch.receive(socket) {
            Ok(count) => {
                for i in 0..count {
                    all.extend(batch.datagram(i).map(|(bytes, source)| (bytes.to_vec(), source)));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn more_than_a_batch_arrives_in_order_with_its_source() {
    for flush in FLUSHES {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (sender, receiver) = (socket(address), socket(address));
            let mut queue = SendQueue::default();
            let sent: Vec<Vec<u8>> = (0..150_u8).map(|i| vec![i; 1 + usize::from(i)]).collect();
            for bytes in &sent {
                queue.push(bytes, receiver.local_addr().unwrap());
            }
            let report = flush(&mut queue, &sender);
            assert_eq!(report, FlushReport { sent: 150, ..FlushReport::default() });
            assert!(queue.is_empty());
            let received = drain(&receiver);
            assert_eq!(
                received.iter().map(|(bytes, _)| bytes).collect::<Vec<_>>(),
                sent.iter().collect::<Vec<_>>()
            );
            assert!(received.iter().all(|(_, source)| *source == sender.local_addr().unwrap()));
        }
    }
}

#[test]
fn both_ways_of_receiving_drop_a_datagram_that_is_too_long() {
    let (sender, receiver) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let to = receiver.local_addr().unwrap();
    let long = vec![7; MAX_DATAGRAM + 1];
    sender.send_to(&long, to).unwrap();
    sender.send_to(b"short", to).unwrap();
    let mut batch = RecvBatch::new();
    assert_eq!(batch.receive(&receiver).unwrap(), 2);
    assert!(batch.datagram(0).is_none());
    assert_eq!(batch.datagram(1).unwrap().0, b"short");
    assert!(batch.datagram(2).is_none());
    assert_eq!(batch.dropped, 1);

    sender.send_to(&long, to).unwrap();
    let mut buffer = vec![0; MAX_DATAGRAM + 1];
    assert!(portable::receive(&receiver, &mut buffer).unwrap().is_none());
}

#[test]
fn one_refused_datagram_does_not_lose_its_neighbours() {
    for flush in FLUSHES {
        let (sender, receiver) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let to = receiver.local_addr().unwrap();
        let mut queue = SendQueue::default();
        queue.push(b"before", to);
        // An IPv4 socket cannot send to an IPv6 address.
        queue.push(b"refused", "[::1]:9".parse().unwrap());
        queue.push(b"after", to);
        let report = flush(&mut queue, &sender);
        assert_eq!((report.sent, report.refused), (2, 1));
        let received: Vec<_> = drain(&receiver).into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(received, [b"before".to_vec(), b"after".to_vec()]);
    }
}

#[test]
fn what_is_reserved_but_not_committed_is_not_sent() {
    let (sender, receiver) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut queue = SendQueue::default();
    queue.reserve(100).fill(1);
    queue.reserve(10).fill(2);
    queue.commit(4, receiver.local_addr().unwrap());
    queue.flush(&sender);
    let received: Vec<_> = drain(&receiver).into_iter().map(|(bytes, _)| bytes).collect();
    assert_eq!(received, [vec![2; 4]]);
}

#[test]
fn a_full_socket_keeps_the_rest_in_order_and_the_oldest_go_first() {
    let mut queue = SendQueue::default();
    let to = "127.0.0.1:9".parse().unwrap();
    for i in 0..10_u8 {
        queue.push(&[i], to);
    }
    let mut room = 3;
    let mut seen = Vec::new();
    let mut kernel = |datagrams: &mut dyn Iterator<Item = sys::Outgoing<'_>>| {
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken: Vec<u8> = datagrams.take(room).map(|outgoing| outgoing.bytes[0]).collect();
        room -= taken.len();
        seen.extend(&taken);
        Ok(taken.len())
    };
    let report = queue.flush_with(&mut kernel);
    assert_eq!((report.sent, report.waiting), (3, 7));
    queue.push(&[10], to);
    let mut rest = Vec::new();
    queue.flush_with(|datagrams| {
        rest.extend(datagrams.map(|outgoing| outgoing.bytes[0]));
        Ok(rest.len())
    });
    assert_eq!((seen, rest), (vec![0, 1, 2], (3..=10).collect()));

    let big = vec![0; 1024 * 1024];
    for _ in 0..10 {
        queue.push(&big, to);
    }
    let report = queue.flush_with(|_| Err(io::ErrorKind::WouldBlock.into()));
    assert_eq!((report.dropped, report.waiting), (2, 8));
    assert!(queue.bytes() <= MAX_QUEUED_BYTES);
}

#[test]
fn an_icmp_error_of_a_send_does_not_stop_the_receiving() {
    let receiver = socket("127.0.0.1:0");
    let sender = socket("127.0.0.1:0");
    let gone = { UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    receiver.send_to(b"anybody?", gone).unwrap();
    sender.send_to(b"hello", receiver.local_addr().unwrap()).unwrap();
    receiver.set_nonblocking(false).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut batch = RecvBatch::new();
    // Unconnected sockets do not even see the error on Linux; whichever it is, the datagram must come.
    let count = batch.receive(&receiver).or_else(|_| batch.receive(&receiver)).unwrap();
    assert_eq!(count, 1);
    assert_eq!(batch.datagram(0).unwrap().0, b"hello");
}

#[test]
fn a_busy_turn_does_not_keep_its_memory() {
    let mut queue = SendQueue::default();
    let destination = "127.0.0.1:9".parse().unwrap();
    for _ in 0..40 {
        queue.push(&[0; 1024 * 1024], destination);
    }
    let report = queue.flush_with(|datagrams| Ok(datagrams.count()));
    assert_eq!(report.sent, 40);
    assert!(queue.allocated_bytes() <= queue::MAX_IDLE_BYTES, "{}", queue.allocated_bytes());
}
