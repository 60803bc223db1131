//! Datagrams from sockets that nobody authenticated: damaged and random STUN, DTLS, RTP and RTCP at a worker's port.
//!
//! The attack knows what somebody on the path could have seen, including user name fragments, and no password. It
//! keeps account of what comes back to each socket: never more than went out of it.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rtc::rtp::DatagramKind;
use rtc::stun::{Class, IntegrityKey, Method, StunBuilder, StunMessage};

use super::mutate::Mutator;
use crate::router::RemoteTransport;

/// Sockets that the attack comes from.
const SOCKETS: usize = 16;
/// Datagrams between two looks at whether the worker is through with them: fewer than fit its receive buffer, so that
/// it drops none of a bystander's.
const ROUND: usize = 64;
/// How long a worker may be busy with a round.
const FENCE_DEADLINE: Duration = Duration::from_secs(5);

/// Valid datagrams of all kinds: what damage is done to.
#[derive(Debug, Default, Clone)]
pub struct Templates {
    /// STUN.
    pub stun: Vec<Vec<u8>>,
    /// DTLS.
    pub dtls: Vec<Vec<u8>>,
    /// RTP and SRTP.
    pub rtp: Vec<Vec<u8>>,
    /// RTCP and SRTCP.
    pub rtcp: Vec<Vec<u8>>,
}

impl Templates {
    /// Keeps a datagram under its kind; others are dropped.
    pub fn learn(&mut self, datagram: Vec<u8>) {
        match DatagramKind::of(&datagram) {
            DatagramKind::Stun => self.stun.push(datagram),
            DatagramKind::Dtls => self.dtls.push(datagram),
            DatagramKind::Rtp => self.rtp.push(datagram),
            DatagramKind::Rtcp => self.rtcp.push(datagram),
            _ => {}
        }
    }
}

/// Waits until a worker is through with all that its port received before: asks a valid STUN question, whose answer
/// comes after everything that was asked before it.
#[derive(Debug)]
pub struct Fence {
    socket: UdpSocket,
    remote: RemoteTransport,
    key: IntegrityKey,
}

impl Fence {
    /// A fence that is a path of this transport.
    ///
    /// # Errors
    /// Where no socket can be bound.
    pub fn new(remote: &RemoteTransport) -> Result<Self> {
        let socket = bind(remote.address)?;
        socket.set_read_timeout(Some(FENCE_DEADLINE / 10))?;
        Ok(Self { socket, key: IntegrityKey::new(&remote.password), remote: remote.clone() })
    }

    /// Waits for the answer; a question that got lost is asked again.
    ///
    /// # Errors
    /// Where none came within 5 s.
    pub fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + FENCE_DEADLINE;
        while Instant::now() < deadline {
            let transaction = rand::random();
            let mut request = [0; 256];
            let len = StunBuilder::new(&mut request, Class::Request, Method::BINDING, &transaction)
                .username(&self.remote.username_fragment, "fence")
                .priority(1)
                .ice_controlling(1)
                .finish(Some(&self.key))?;
            self.socket.send_to(&request[..len], self.remote.address)?;
            let mut answer = [0; 2_048];
            while let Ok(len) = self.socket.recv(&mut answer) {
                let answers = StunMessage::parse(&answer[..len])
                    .is_ok_and(|m| m.class() == Class::SuccessResponse && *m.transaction_id() == transaction);
                if answers {
                    return Ok(());
                }
            }
        }
        bail!("the worker at {} does not answer STUN any more", self.remote.address)
    }
}

/// What went out of a socket, and what came back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Account {
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Datagrams that came back.
    pub datagrams_in: u64,
    /// Bytes that came back.
    pub bytes_in: u64,
}

impl Account {
    /// Adds another socket's account.
    pub fn add(&mut self, other: &Self) {
        self.datagrams_out += other.datagrams_out;
        self.bytes_out += other.bytes_out;
        self.datagrams_in += other.datagrams_in;
        self.bytes_in += other.bytes_in;
    }
}

/// The attack on one port.
#[derive(Debug)]
pub struct Outsiders {
    sockets: Vec<(UdpSocket, Account)>,
    target: RemoteTransport,
    templates: Templates,
    fence: Fence,
    key: IntegrityKey,
    mutator: Mutator,
}

impl Outsiders {
    /// An attack on the port of `target`, a transport of our own, with these templates.
    ///
    /// # Errors
    /// Where sockets cannot be bound.
    pub fn new(target: &RemoteTransport, templates: Templates, seed: u64) -> Result<Self> {
        let sockets = (0..SOCKETS).map(|_| {
            let socket = bind(target.address)?;
            socket.set_nonblocking(true)?;
            Ok((socket, Account::default()))
        });
        Ok(Self {
            sockets: sockets.collect::<Result<_>>()?,
            fence: Fence::new(target)?,
            key: IntegrityKey::new(&target.password),
            target: target.clone(),
            templates,
            mutator: Mutator::new(seed),
        })
    }

    /// Sends one round and waits until the worker is through with it.
    ///
    /// # Errors
    /// Where it is not within 5 s, or more came back than went out.
    pub fn round(&mut self) -> Result<()> {
        for i in 0..ROUND {
            let datagram = self.datagram();
            let (socket, account) = &mut self.sockets[i % SOCKETS];
            match socket.send_to(&datagram, self.target.address) {
                Ok(len) => {
                    account.datagrams_out += 1;
                    account.bytes_out += len as u64;
                }
                // An ICMP error of before, or a full buffer: that datagram did not leave.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        self.fence.wait()?;
        let mut answer = [0; 2_048];
        for (socket, account) in &mut self.sockets {
            while let Ok(len) = socket.recv(&mut answer) {
                account.datagrams_in += 1;
                account.bytes_in += len as u64;
            }
            ensure!(
                account.bytes_in <= account.bytes_out,
                "an unauthenticated socket sent {} bytes and got {} back",
                account.bytes_out,
                account.bytes_in
            );
        }
        Ok(())
    }

    /// All sockets' accounts together.
    pub fn account(&self) -> Account {
        let mut sum = Account::default();
        self.sockets.iter().for_each(|(_, account)| sum.add(account));
        sum
    }

    fn datagram(&mut self) -> Vec<u8> {
        loop {
            let datagram = match self.mutator.below(12) {
                0..=2 => self.damaged_stun(),
                3 => self.forged_stun(),
                4..=5 => self.damaged(|templates| &templates.dtls),
                6..=7 => self.damaged(|templates| &templates.rtp),
                8..=9 => self.damaged(|templates| &templates.rtcp),
                10 => {
                    // Any first byte, so that each protocol gets its share.
                    self.mutator.random(0, 1_400)
                }
                _ => self.mutator.random(0, 24),
            };
            // A message with a right password would authenticate its socket.
            let is_genuine = StunMessage::parse(&datagram).is_ok_and(|m| m.check_integrity(&self.key));
            if !is_genuine {
                return datagram;
            }
        }
    }

    fn damaged(&mut self, of: fn(&Templates) -> &Vec<Vec<u8>>) -> Vec<u8> {
        let Self { mutator, templates, .. } = self;
        match mutator.pick(of(templates)) {
            Some(template) => mutator.mutate(template),
            None => mutator.random(1, 200),
        }
    }

    fn damaged_stun(&mut self) -> Vec<u8> {
        self.damaged(|templates| &templates.stun)
    }

    /// A well-formed request with the right or a wrong user name and a guessed password, or none; or of a class and
    /// method that no one asks.
    fn forged_stun(&mut self) -> Vec<u8> {
        let mut out = vec![0; 512];
        let class =
            [Class::Request, Class::Request, Class::Indication, Class::SuccessResponse, Class::ErrorResponse];
        let class = class[self.mutator.below(class.len())];
        let method = if self.mutator.below(4) == 0 {
            Method(self.mutator.below(0x1000) as u16)
        } else {
            Method::BINDING
        };
        let transaction = self.mutator.random(12, 12).try_into().expect("twelve bytes were asked for");
        let mut builder = StunBuilder::new(&mut out, class, method, &transaction);
        let fragment = match self.mutator.below(4) {
            0 => "nobody".to_owned(),
            1 => "x".repeat(200),
            _ => self.target.username_fragment.clone(),
        };
        if self.mutator.below(8) != 0 {
            builder = builder.username(&fragment, "guess");
        }
        if self.mutator.below(8) != 0 {
            builder =
                builder.priority(self.mutator.number()).ice_controlling(u64::from(self.mutator.number()));
        }
        if self.mutator.below(2) == 0 {
            builder = builder.use_candidate();
        }
        let guess = IntegrityKey::new("guess");
        let len = builder.finish((self.mutator.below(4) != 0).then_some(&guess)).unwrap_or(0);
        out.truncate(len);
        out
    }
}

fn bind(remote: SocketAddr) -> Result<UdpSocket> {
    let local = if remote.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    UdpSocket::bind(local).context("cannot bind a loopback socket")
}
