//! Two SCTP associations and whoever is between them: packets lost, repeated, held back, changed with their checksum
//! mended, made up; messages, resets, ends and restarts at any moment, and time that passes.
//!
//! Whatever happens: packets are no longer than promised and carry the checksum that a plain reading of RFC 9260's
//! appendix gives; no timer is due for ever; nothing that was not sent arrives while nothing was changed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rtc::sctp::{Delivery, MAX_PACKET, OutgoingMessage, SctpAssociation, SctpEvent, SctpOptions, SctpState};

use crate::input::Input;

/// Packets on their way, one direction.
const MAX_QUEUED: usize = 64;
/// Decisions of one run.
const MAX_STEPS: usize = 400;
/// Timers that may be due at one instant: each of an association's, twice.
const MAX_DUE: usize = 16;

struct Between {
    ends: [SctpAssociation; 2],
    /// `wires[0]` carries what `ends[0]` sends.
    wires: [VecDeque<Vec<u8>>; 2],
    sent: Vec<Vec<u8>>,
    tampered: bool,
    now: Instant,
}

/// The bytes choose what happens next.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let options = SctpOptions {
        max_send_message_size: 5_000,
        max_receive_message_size: 5_000,
        send_buffer_size: 40_000,
        per_stream_send_queue_limit: 20_000,
        max_receiver_window: 20_000,
        default_low_threshold: 100,
    };
    let mut between = Between {
        ends: [SctpAssociation::new(options), SctpAssociation::new(options)],
        wires: Default::default(),
        sent: Vec::new(),
        tampered: false,
        now: Instant::now(),
    };
    between.ends[0].connect(between.now);
    if input.flag() {
        between.ends[1].connect(between.now);
    }
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        between.step(&mut input, options);
        between.drain();
    }
}

impl Between {
    fn step(&mut self, input: &mut Input<'_>, options: SctpOptions) {
        let choice = input.u8();
        let side = usize::from(choice & 1);
        match choice >> 1 & 15 {
            0..=4 => self.deliver(side, self.wires[side].len().min(4)),
            5 => drop(self.wires[side].pop_front()),
            6 => self.wires[side].rotate_left(usize::from(self.wires[side].len() > 1)),
            7 => {
                let repeated = self.wires[side].front().cloned();
                self.wires[side].extend(repeated);
            }
            8 => self.tamper(side, input),
            9 => self.make_up(side, input),
            10..=11 => self.send(side, input),
            12 => self.ends[side].reset_stream(u16::from(input.u8() & 3)),
            13 => {
                self.now += Duration::from_millis(u64::from(input.u16()));
                for end in &mut self.ends {
                    end.handle_timeout(self.now);
                }
            }
            14 if choice & 0x80 == 0 => {
                let bytes = usize::from(input.u16());
                self.ends[side].set_buffered_amount_low_threshold(u16::from(choice >> 5), bytes);
            }
            14 => self.ends[side].close(),
            _ => {
                self.ends[side] = SctpAssociation::new(options);
                self.ends[side].connect(self.now);
            }
        }
    }

    fn deliver(&mut self, from: usize, count: usize) {
        for packet in self.wires[from].drain(..count) {
            self.ends[1 - from].handle_packet(&packet, self.now);
        }
    }

    /// Changes what lies behind the header, and mends the checksum.
    fn tamper(&mut self, side: usize, input: &mut Input<'_>) {
        let Some(packet) = self.wires[side].front_mut() else { return };
        self.tampered = true;
        for _ in 0..=input.below(4) {
            let at = usize::from(input.u16()) % packet.len();
            packet[at] ^= input.u8();
        }
        if input.flag() {
            let len = 12 + usize::from(input.u16()) % packet.len();
            packet.truncate(len.max(16));
        }
        mend(packet);
    }

    /// A packet with the right ports and tag, and chunks as the input has them.
    fn make_up(&mut self, side: usize, input: &mut Input<'_>) {
        let Some(header) = self.wires[side].front().map(|packet| packet[..12].to_vec()) else { return };
        self.tampered = true;
        let mut packet = header;
        packet.extend_from_slice(input.short());
        mend(&mut packet);
        self.wires[side].push_back(packet);
    }

    fn send(&mut self, side: usize, input: &mut Input<'_>) {
        let choice = input.u8();
        let len = usize::from(input.u16()) % 6_000;
        let data = vec![choice; len];
        let delivery = Delivery {
            ordered: choice & 4 == 0,
            max_life_time_ms: (choice & 24 == 8).then_some(u16::from(input.u8())),
            max_retransmits: (choice & 24 == 16).then_some(u16::from(input.u8() & 3)),
        };
        let message = OutgoingMessage {
            stream: u16::from(choice & 3),
            ppid: 53,
            data: data.as_slice().into(),
            delivery,
        };
        let before = self.ends[side].buffered_amount(message.stream);
        let stream = message.stream;
        match self.ends[side].send(message, self.now) {
            Ok(()) => self.sent.push(data),
            Err(_) => assert_eq!(self.ends[side].buffered_amount(stream), before, "refused is not kept"),
        }
    }

    /// What both have to say, and what both heard.
    fn drain(&mut self) {
        for (side, end) in self.ends.iter_mut().enumerate() {
            while let Some(packet) = end.poll_transmit(self.now) {
                assert!(packet.len() <= MAX_PACKET);
                let mut plain = packet.clone();
                mend(&mut plain);
                assert_eq!(plain, packet, "the checksum");
                if self.wires[side].len() < MAX_QUEUED {
                    self.wires[side].push_back(packet);
                }
            }
            while let Some(event) = end.poll_event() {
                if let SctpEvent::Message { data, .. } = event {
                    assert!(data.len() <= 5_000);
                    assert!(self.tampered || self.sent.contains(&data), "nobody sent this");
                }
            }
            let mut due = 0;
            while end.next_timeout().is_some_and(|at| at <= self.now) {
                end.handle_timeout(self.now);
                while end.poll_transmit(self.now).is_some() {}
                due += 1;
                assert!(due < MAX_DUE, "a timer that is due for ever");
            }
            let ended = matches!(end.state(), SctpState::Closed | SctpState::Failed);
            assert!(!ended || end.next_timeout().is_none(), "what ended waits for nothing");
        }
    }
}

/// Puts the right checksum into a packet (RFC 9260 appendix A), bit by bit.
fn mend(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let mut remainder = u32::MAX;
    for byte in packet.iter() {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            remainder = (remainder >> 1) ^ if remainder & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    packet[8..12].copy_from_slice(&(!remainder).to_le_bytes());
}
