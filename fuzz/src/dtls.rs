//! DTLS handshakes over a link that loses, repeats, reorders, cuts, changes and invents datagrams. What only loses,
//! repeats and reorders ends in a connection with one set of keys; nothing ends in a panic, nor in keys that differ.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rtc::certificate::{Certificate, Fingerprint};
use rtc::dtls::{
    DtlsConnection, DtlsContext, DtlsEvent, DtlsRole, DtlsState, DtlsTimers, DtlsTransport, DtlsVersions,
    MTU, is_dtls,
};

use crate::input::Input;

/// How the handshake reaches BoringSSL's timers.
pub(crate) const TIMERS: DtlsTimers = DtlsTimers {
    prepare_context: net::dtls_timers::prepare_context,
    prepare_connection: net::dtls_timers::prepare_connection,
    set_now: net::dtls_timers::set_now,
    timeout: net::dtls_timers::timeout,
    handle_timeout: net::dtls_timers::handle_timeout,
    repeat_now: net::dtls_timers::repeat_now,
};

/// Losses after which the link behaves, so that every honest handshake can end before its repeats run out.
const MAX_LOSSES: usize = 6;

struct Contexts {
    client: [(DtlsContext, Fingerprint); 3],
    server: (DtlsContext, Fingerprint),
}

thread_local! {
    static CONTEXTS: RefCell<Option<Contexts>> = const { RefCell::new(None) };
}

fn contexts() -> Contexts {
    let with = |versions| {
        let certificate = Certificate::generate().expect("a certificate");
        let context = DtlsContext::with_versions(&certificate, TIMERS, versions).expect("a context");
        (context, certificate.fingerprints().remove(0))
    };
    Contexts {
        client: [DtlsVersions::All, DtlsVersions::Only12, DtlsVersions::Only13].map(with),
        server: with(DtlsVersions::All),
    }
}

/// The first byte chooses the client's versions; each further one says what happens to a datagram.
pub fn run(data: &[u8]) {
    CONTEXTS.with_borrow_mut(|contexts_of_thread| {
        let contexts = contexts_of_thread.get_or_insert_with(contexts);
        let mut input = Input::new(data);
        let (client, client_fingerprint) = &contexts.client[input.below(3)];
        let (server, server_fingerprint) = &contexts.server;
        let mut pair = Pair {
            ends: [End::new(client), End::new(server)],
            now: Instant::now(),
            under_way: VecDeque::new(),
            losses: 0,
            honest: true,
        };
        pair.ends[0].transport.set_remote_fingerprint(server_fingerprint.clone(), pair.now);
        pair.ends[1].transport.set_remote_fingerprint(client_fingerprint.clone(), pair.now);
        pair.ends[1].transport.start(DtlsRole::Server, pair.now).expect("the first start");
        pair.ends[0].transport.start(DtlsRole::Client, pair.now).expect("the first start");
        pair.run(&mut input);
    });
}

struct End {
    transport: DtlsTransport,
    connection: Option<Box<DtlsConnection>>,
    failed: bool,
    closed: bool,
    data: Vec<Vec<u8>>,
}

impl End {
    fn new(context: &DtlsContext) -> Self {
        Self {
            transport: DtlsTransport::new(context),
            connection: None,
            failed: false,
            closed: false,
            data: Vec::new(),
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.transport.poll_event() {
            match event {
                DtlsEvent::Connected(connection) => assert!(self.connection.replace(connection).is_none()),
                DtlsEvent::Failed(_) => self.failed = true,
                DtlsEvent::Closed => self.closed = true,
                DtlsEvent::ApplicationData(data) => self.data.push(data),
            }
        }
        let expected = match (&self.connection, self.closed, self.failed) {
            (_, true, _) => DtlsState::Closed,
            (_, _, true) => DtlsState::Failed,
            (Some(_), ..) => DtlsState::Connected,
            (None, ..) => DtlsState::Connecting,
        };
        assert_eq!(self.transport.state(), expected, "state and events tell the same");
    }
}

struct Pair {
    /// Client and server.
    ends: [End; 2],
    now: Instant,
    /// Whom a datagram is for, and the datagram.
    under_way: VecDeque<(usize, Vec<u8>)>,
    losses: usize,
    /// Whether no datagram was changed or invented.
    honest: bool,
}

impl Pair {
    fn run(&mut self, input: &mut Input<'_>) {
        let end = self.now + Duration::from_secs(100);
        // Flights are few; what goes on for longer than this is a loop.
        for _ in 0..2000 {
            self.collect();
            if let Some((to, datagram)) = self.under_way.pop_front() {
                self.carry(input, to, datagram);
                continue;
            }
            if self.ends.iter().all(|end| end.connection.is_some() || end.failed) {
                return self.check();
            }
            let next = self.ends.iter().filter_map(|end| end.transport.next_timeout()).min();
            match next.filter(|next| *next < end) {
                Some(next) => {
                    self.now = self.now.max(next);
                    for end in &mut self.ends {
                        end.transport.handle_timeout(self.now);
                        end.hear();
                    }
                }
                None => return self.check(),
            }
        }
        panic!("the handshake goes round in circles");
    }

    fn collect(&mut self) {
        let mut out = [0; MTU];
        for (from, end) in self.ends.iter_mut().enumerate() {
            while let Some(len) = end.transport.poll_transmit(&mut out) {
                assert!(is_dtls(&out[..len]));
                self.under_way.push_back((1 - from, out[..len].to_vec()));
            }
        }
    }

    fn carry(&mut self, input: &mut Input<'_>, to: usize, mut datagram: Vec<u8>) {
        let what = input.u8();
        match what & 15 {
            1 | 2 if self.losses < MAX_LOSSES => {
                self.losses += 1;
                return;
            }
            3 => self.under_way.push_back((to, datagram.clone())),
            4 if self.under_way.len() < 8 && self.losses < MAX_LOSSES => {
                self.losses += 1;
                self.under_way.push_back((to, datagram));
                return;
            }
            5 | 6 => {
                self.honest = false;
                let at = usize::from(input.u16()) % datagram.len();
                datagram[at] ^= input.u8();
            }
            7 => {
                self.honest = false;
                datagram.truncate(usize::from(input.u8()));
            }
            8 => {
                self.honest = false;
                let invented = input.short().to_vec();
                self.deliver(to, &invented);
            }
            9 => {
                // A mirror.
                self.honest = false;
                self.deliver(1 - to, &datagram.clone());
            }
            10 => {
                self.honest = false;
                datagram.extend_from_slice(input.short());
            }
            _ => {}
        }
        self.deliver(to, &datagram);
    }

    fn deliver(&mut self, to: usize, datagram: &[u8]) {
        self.ends[to].transport.handle_datagram(datagram, self.now);
        self.ends[to].hear();
    }

    fn check(&mut self) {
        let [client, server] = &mut self.ends;
        if self.honest {
            assert!(client.connection.is_some() && server.connection.is_some(), "an honest handshake failed");
        }
        let (Some(ours), Some(theirs)) = (&client.connection, &server.connection) else { return };
        let (ours, theirs) = (ours.srtp.as_ref().expect("SRTP"), theirs.srtp.as_ref().expect("SRTP"));
        assert_eq!(ours.profile, theirs.profile);
        assert!(ours.local_key == theirs.remote_key && ours.local_salt == theirs.remote_salt);
        assert!(ours.remote_key == theirs.local_key && ours.remote_salt == theirs.local_salt);
        if client.closed || server.closed || client.failed || server.failed {
            return;
        }
        // The connection works, and its end is told.
        client.transport.send(b"data", self.now).expect("connected");
        client.transport.close(self.now);
        self.collect();
        while let Some((to, datagram)) = self.under_way.pop_front() {
            if to == 1 {
                self.ends[1].transport.handle_datagram(&datagram, self.now);
                self.ends[1].hear();
            }
        }
        assert!(self.ends[1].data.iter().any(|data| data == b"data") && self.ends[1].closed);
    }
}
