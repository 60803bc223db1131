//! Both ways of sending and receiving pass the same tests.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::queue::Outgoing;
use super::*;

type New = fn(&UdpSocket) -> SendQueue;
type Flush = fn(&mut SendQueue, &UdpSocket) -> FlushReport;

/// With runs and without, and one datagram a call.
const WAYS: [(New, Flush); 3] = [
    (SendQueue::for_socket, |queue, socket| queue.flush(socket)),
    (|_| SendQueue::default(), |queue, socket| queue.flush(socket)),
    (SendQueue::for_socket, portable::flush),
];

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// The bytes of a message.
fn bytes(outgoing: Outgoing<'_>) -> Vec<u8> {
    outgoing.pieces.collect::<Vec<_>>().concat()
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
    for (new, flush) in WAYS {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (sender, receiver) = (socket(address), socket(address));
            let mut queue = new(&sender);
            let sent: Vec<Vec<u8>> = (0..150_u8).map(|i| vec![i; 1 + usize::from(i)]).collect();
            for bytes in &sent {
                queue.push(bytes, receiver.local_addr().unwrap());
            }
            let report = flush(&mut queue, &sender);
            let octets = (1..=150).sum();
            assert_eq!(report, FlushReport { sent: 150, octets, messages: 150, ..FlushReport::default() });
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
    for (new, flush) in WAYS {
        let (sender, receiver) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let to = receiver.local_addr().unwrap();
        let mut queue = new(&sender);
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
    let mut kernel = |messages: &mut dyn Iterator<Item = Outgoing<'_>>| {
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken: Vec<u8> = messages.take(room).map(|outgoing| bytes(outgoing)[0]).collect();
        room -= taken.len();
        seen.extend(&taken);
        Ok(taken.len())
    };
    let report = queue.flush_with(&mut kernel);
    assert_eq!((report.sent, report.waiting), (3, 7));
    queue.push(&[10], to);
    let mut rest = Vec::new();
    queue.flush_with(|messages| {
        rest.extend(messages.map(|outgoing| bytes(outgoing)[0]));
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
    let report = queue.flush_with(|messages| Ok(messages.count()));
    assert_eq!(report.sent, 40);
    assert!(queue.allocated_bytes() <= queue::MAX_IDLE_BYTES, "{}", queue.allocated_bytes());
}

/// Twelve datagrams to each of two receivers in turns: 40, 30 and 35 bytes, four of each after one another.
fn interleave(queue: &mut SendQueue, receivers: &[UdpSocket; 2]) -> Vec<Vec<u8>> {
    let mut hints = [RunHint::default(); 2];
    let sent: Vec<Vec<u8>> = (0..12_u8).map(|i| vec![i; [40, 30, 35][usize::from(i) / 4]]).collect();
    for bytes in &sent {
        for (receiver, hint) in receivers.iter().zip(&mut hints) {
            queue.reserve(bytes.len()).copy_from_slice(bytes);
            queue.commit_to(bytes.len(), receiver.local_addr().unwrap(), hint);
        }
    }
    sent
}

#[test]
fn datagrams_of_one_length_gather_to_runs_and_arrive_as_they_were_sent() {
    let receivers = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let sender = socket("127.0.0.1:0");
    let mut queue = SendQueue::for_socket(&sender);
    for round in 0..2 {
        let sent = interleave(&mut queue, &receivers);
        let report = queue.flush(&sender);
        assert_eq!(report.sent, 24);
        // Four of 40 and one of 30 that ends the run; three of 30; four of 35.
        assert_eq!(report.messages, 6, "in round {round}");
        for receiver in &receivers {
            let received: Vec<_> = drain(receiver).into_iter().map(|(bytes, _)| bytes).collect();
            assert_eq!(received, sent);
        }
    }
}

#[test]
fn a_run_ends_before_it_is_too_long() {
    let (sender, receiver) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut queue = SendQueue::for_socket(&sender);
    for (len, count) in [(100, 100_u64), (2_000, 64)] {
        for _ in 0..count {
            queue.push(&vec![1; len], receiver.local_addr().unwrap());
        }
        let report = queue.flush(&sender);
        assert_eq!((report.sent, report.messages, report.runs_refused), (count, count.div_ceil(32), 0));
    }
    assert!(!drain(&receiver).is_empty());
}

#[test]
fn a_refused_run_goes_one_by_one_and_its_path_gets_no_more() {
    let sender = socket("127.0.0.1:0");
    let receivers = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let stubborn = receivers[0].local_addr().unwrap();
    let mut queue = SendQueue::for_socket(&sender);
    let mut refusals = 0;
    for messages in [15, 15] {
        interleave(&mut queue, &receivers);
        let mut seen: Vec<u8> = Vec::new();
        let report = queue.flush_with(|outgoing| {
            let first = outgoing.next().unwrap();
            if first.destination == stubborn {
                if first.segment.is_some() {
                    refusals += 1;
                    return Err(io::Error::from_raw_os_error(5)); // EIO
                }
                seen.push(bytes(first)[0]);
            }
            Ok(1)
        });
        assert_eq!(seen, (0..12).collect::<Vec<u8>>(), "in order, nothing lost");
        assert_eq!((report.sent, report.messages), (24, messages));
    }
    // The runs of the first flush had been made before the first refusal.
    assert_eq!(refusals, 3);
}

#[test]
fn what_waits_behind_a_full_buffer_keeps_its_bytes_and_the_order_of_each_receiver() {
    let sender = socket("127.0.0.1:0");
    let receivers = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let mut queue = SendQueue::for_socket(&sender);
    let sent = interleave(&mut queue, &receivers);
    let mut calls = 0;
    let report = queue.flush_with(|messages| {
        calls += 1;
        if calls > 1 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        sys::send_batch(&sender, &mut messages.take(3))
    });
    assert_eq!((report.messages, report.waiting), (3, 24 - report.sent as usize));
    queue.push(&[99; 35], receivers[0].local_addr().unwrap());
    assert_eq!(queue.flush(&sender).waiting, 0);
    for (position, receiver) in receivers.iter().enumerate() {
        let mut received: Vec<_> = drain(receiver).into_iter().map(|(bytes, _)| bytes).collect();
        if position == 0 {
            assert_eq!(received.pop(), Some(vec![99; 35]));
        }
        assert_eq!(received, sent);
    }
}
