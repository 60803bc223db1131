#![expect(clippy::arithmetic_side_effects, reason = "test arithmetic on small numbers")]

use std::time::{Duration, Instant};

use boring::asn1::Asn1Time;
use boring::hash::MessageDigest;
use boring::pkey::PKey;
use boring::rsa::Rsa;
use boring::x509::{X509, X509Name};
use proptest::prelude::*;

use super::*;
use crate::certificate::{Certificate, Fingerprint, FingerprintAlgorithm};
use crate::srtp::{SrtpReceiver, SrtpSender};

const TIMERS: DtlsTimers = DtlsTimers {
    prepare_context: net::dtls_timers::prepare_context,
    prepare_connection: net::dtls_timers::prepare_connection,
    set_now: net::dtls_timers::set_now,
    timeout: net::dtls_timers::timeout,
    handle_timeout: net::dtls_timers::handle_timeout,
    repeat_now: net::dtls_timers::repeat_now,
};

/// One end, its certificate's fingerprint, and what it has told.
struct End {
    transport: DtlsTransport,
    fingerprint: Fingerprint,
    connection: Option<DtlsConnection>,
    failure: Option<DtlsFailure>,
    closed: bool,
    data: Vec<Vec<u8>>,
}

impl End {
    fn new(certificate: &Certificate, versions: DtlsVersions) -> Self {
        let context = DtlsContext::with_versions(certificate, TIMERS, versions).unwrap();
        Self {
            transport: DtlsTransport::new(&context),
            fingerprint: certificate.fingerprints().remove(2),
            connection: None,
            failure: None,
            closed: false,
            data: Vec::new(),
        }
    }

    fn poll(&mut self) {
        while let Some(event) = self.transport.poll_event() {
            match event {
                DtlsEvent::Connected(connection) => self.connection = Some(*connection),
                DtlsEvent::Failed(failure) => self.failure = Some(failure),
                DtlsEvent::Closed => self.closed = true,
                DtlsEvent::ApplicationData(data) => self.data.push(data),
            }
        }
    }

    fn transmits(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let mut out = [0; MTU];
        while let Some(len) = self.transport.poll_transmit(&mut out) {
            datagrams.push(out[..len].to_vec());
        }
        datagrams
    }
}

/// Client and server on a link whose loss a test decides, with a clock of their own.
struct Pair {
    client: End,
    server: End,
    now: Instant,
    /// Datagrams put on the link so far, those of both directions.
    sent: usize,
    longest: usize,
    /// Those of the client's first flight.
    first_flight: usize,
}

impl Pair {
    fn new(versions: DtlsVersions) -> Self {
        let certificates = [Certificate::generate().unwrap(), Certificate::generate().unwrap()];
        Self::with_certificates(versions, &certificates)
    }

    fn with_certificates(versions: DtlsVersions, [client, server]: &[Certificate; 2]) -> Self {
        Self {
            client: End::new(client, versions),
            server: End::new(server, DtlsVersions::All),
            now: Instant::now(),
            sent: 0,
            longest: 0,
            first_flight: 0,
        }
    }

    fn start(&mut self) {
        let (client, server) = (self.client.fingerprint.clone(), self.server.fingerprint.clone());
        self.client.transport.set_remote_fingerprint(server, self.now);
        self.server.transport.set_remote_fingerprint(client, self.now);
        self.server.transport.start(DtlsRole::Server, self.now).unwrap();
        self.client.transport.start(DtlsRole::Client, self.now).unwrap();
    }

    /// Carries datagrams until none is under way. `lost` says which of all are lost.
    fn carry(&mut self, lost: &mut impl FnMut(usize) -> bool) {
        loop {
            let mut any = false;
            for to_server in [true, false] {
                let (from, to) = if to_server {
                    (&mut self.client, &mut self.server)
                } else {
                    (&mut self.server, &mut self.client)
                };
                for datagram in from.transmits() {
                    any = true;
                    self.longest = self.longest.max(datagram.len());
                    if !lost(self.sent) {
                        to.transport.handle_datagram(&datagram, self.now);
                    }
                    self.sent += 1;
                }
                if self.first_flight == 0 {
                    self.first_flight = self.sent;
                }
            }
            self.client.poll();
            self.server.poll();
            if !any {
                return;
            }
        }
    }

    /// Carries datagrams and lets time pass from deadline to deadline until both are connected.
    fn run(&mut self, mut lost: impl FnMut(usize) -> bool) {
        let end = self.now + Duration::from_secs(120);
        loop {
            self.carry(&mut lost);
            let done = |end: &End| end.connection.is_some() || end.failure.is_some();
            if done(&self.client) && done(&self.server) {
                return;
            }
            let deadlines = [&self.client, &self.server].map(|end| end.transport.next_timeout());
            let next = deadlines.into_iter().flatten().min().expect("somebody waits for something");
            self.now = self.now.max(next);
            assert!(self.now < end, "not connected after two minutes");
            self.client.transport.handle_timeout(self.now);
            self.server.transport.handle_timeout(self.now);
        }
    }

    fn assert_connected(&self) {
        let client = self.client.connection.as_ref().expect("client connected");
        let server = self.server.connection.as_ref().expect("server connected");
        let (ours, theirs) = (client.srtp.as_ref().unwrap(), server.srtp.as_ref().unwrap());
        assert_eq!(ours.profile, theirs.profile);
        assert_eq!((&ours.local_key, &ours.local_salt), (&theirs.remote_key, &theirs.remote_salt));
        assert_eq!((&ours.remote_key, &ours.remote_salt), (&theirs.local_key, &theirs.local_salt));
        assert_ne!(ours.local_key, ours.remote_key);
        assert_eq!(ours.local_key.len(), ours.profile.key_len());
        assert_eq!(ours.local_salt.len(), ours.profile.salt_len());
        assert!(client.remote_certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(self.longest <= MTU);
    }
}

fn rsa_certificate() -> Certificate {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "rsa").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let pem = builder.build().to_pem().unwrap();
    Certificate::from_pem(&pem, &key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

#[test]
fn connects_in_both_versions() {
    for (versions, name) in [
        (DtlsVersions::Only12, "DTLSv1.2"),
        (DtlsVersions::Only13, "DTLSv1.3"),
        (DtlsVersions::All, "DTLSv1.3"),
    ] {
        let mut pair = Pair::new(versions);
        pair.start();
        pair.run(|_| false);
        pair.assert_connected();
        assert_eq!(pair.client.connection.as_ref().unwrap().version, name);
        assert_eq!(
            pair.server.connection.as_ref().unwrap().srtp.as_ref().unwrap().profile,
            Profile::AeadAes256Gcm
        );
    }
}

#[test]
fn client_hello_split_over_datagrams_is_put_together() {
    // The key share of X25519MLKEM768 does not fit beside the rest into one datagram.
    for versions in [DtlsVersions::Only13, DtlsVersions::All] {
        let mut pair = Pair::new(versions);
        pair.start();
        pair.run(|_| false);
        assert!(pair.first_flight >= 2, "{} datagrams", pair.first_flight);
        pair.assert_connected();
    }
}

#[test]
fn client_hello_pieces_may_come_in_any_order() {
    let mut pair = Pair::new(DtlsVersions::All);
    pair.start();
    let mut pieces = pair.client.transmits();
    pieces.reverse();
    for piece in &pieces {
        pair.server.transport.handle_datagram(piece, pair.now);
    }
    pair.run(|_| false);
    pair.assert_connected();
}

#[test]
fn every_single_loss_is_made_good() {
    for versions in [DtlsVersions::Only12, DtlsVersions::Only13] {
        let mut whole = Pair::new(versions);
        whole.start();
        whole.run(|_| false);
        for victim in 0..whole.sent {
            let mut pair = Pair::new(versions);
            pair.start();
            pair.run(|datagram| datagram == victim);
            pair.assert_connected();
        }
    }
}

#[test]
fn lost_flights_are_sent_again_by_both_sides() {
    for versions in [DtlsVersions::Only12, DtlsVersions::Only13] {
        // The first so many datagrams are all lost: whole flights, of the client and of the server.
        for until in [2, 4, 6, 9] {
            let mut pair = Pair::new(versions);
            pair.start();
            let started = pair.now;
            pair.run(|datagram| datagram < until);
            pair.assert_connected();
            assert!(pair.now > started);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_loss_is_made_good(losses in proptest::collection::vec(0_u8..10, 200), old in any::<bool>()) {
        let mut pair = Pair::new(if old { DtlsVersions::Only12 } else { DtlsVersions::Only13 });
        pair.start();
        // Three in ten, and at most three in a row.
        let (mut in_a_row, mut lost_in_all) = (0, 0);
        pair.run(|datagram| {
            let lost = losses.get(datagram).is_some_and(|&loss| loss < 3) && in_a_row < 3;
            in_a_row = if lost { in_a_row + 1 } else { 0 };
            lost_in_all += usize::from(lost);
            lost
        });
        if pair.client.connection.is_none() || pair.server.connection.is_none() {
            // Repeats come at growing intervals: whom chance takes half of all is given up after a minute, and rightly.
            prop_assert!(lost_in_all * 2 >= pair.sent, "given up, with {lost_in_all} of {} lost", pair.sent);
            return Ok(());
        }
        pair.assert_connected();
    }
}

/// Whose timers double up to a minute, as BoringSSL's do by themselves.
fn doubling(certificate: &Certificate, versions: DtlsVersions) -> DtlsTransport {
    let timers = DtlsTimers { repeat_now: |ssl, _| net::dtls_timers::handle_timeout(ssl), ..TIMERS };
    DtlsTransport::new(&DtlsContext::with_versions(certificate, timers, versions).unwrap())
}

/// How long handshakes take with three in ten datagrams lost, in order; those that failed are not among them.
fn times_at_heavy_loss(versions: DtlsVersions, doubling_ends: usize) -> Vec<Duration> {
    let certificates = [Certificate::generate().unwrap(), Certificate::generate().unwrap()];
    let mut times = Vec::new();
    for seed in 0..HANDSHAKES {
        let mut random = testkit::random::Random::new(seed);
        let mut pair = Pair::with_certificates(versions, &certificates);
        for (end, certificate) in
            [&mut pair.client, &mut pair.server].into_iter().zip(&certificates).take(doubling_ends)
        {
            end.transport = doubling(certificate, versions);
        }
        pair.start();
        let started = pair.now;
        pair.run(|_| random.chance(0.3));
        if pair.client.connection.is_some() && pair.server.connection.is_some() {
            times.push(pair.now - started);
        }
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 1000].as_secs_f64();
    println!(
        "{versions:?}, {doubling_ends} of the two ends doubling: {} of {HANDSHAKES}, {:.1} s in the middle, {:.1} at p99, {:.1} at most",
        times.len(),
        at(500),
        at(990),
        at(999),
    );
    times
}

const HANDSHAKES: u64 = 1000;

/// BoringSSL's own repeats left one in a hundred waiting for 6 s and more, some for most of a minute: a flight that has been
/// lost seven times was not sent again for 13 s.
#[test]
fn heavy_loss_costs_a_handshake_seconds() {
    for versions in [DtlsVersions::Only12, DtlsVersions::Only13] {
        let [ours, with_a_doubling_client, doubling] =
            [0, 1, 2].map(|ends| times_at_heavy_loss(versions, ends));
        assert_eq!(ours.len() as u64, HANDSHAKES);
        assert!(ours[989] <= Duration::from_secs(5) && ours[999] <= Duration::from_secs(8));
        assert!(ours[999] * 2 < doubling[doubling.len() - 1]);
        assert!(with_a_doubling_client.len() >= doubling.len());
    }
}

/// A path that works late only still brings a connection about.
#[test]
fn repeats_begin_often_and_last_for_more_than_half_a_minute() {
    let mut pair = Pair::new(DtlsVersions::All);
    pair.start();
    let started = pair.now;
    let mut sent = Vec::new();
    while pair.client.failure.is_none() {
        if !pair.client.transmits().is_empty() {
            sent.push((pair.now - started).as_millis());
        }
        pair.now = pair.client.transport.next_timeout().expect("a repeat is due");
        pair.client.transport.handle_timeout(pair.now);
        pair.client.poll();
    }
    let expected = [0, 100, 300, 700, 1500, 2500, 3500, 4500, 5500, 7500, 11_500, 19_500, 35_500];
    assert_eq!(sent, expected);
    assert_eq!(pair.now, started + HANDSHAKE_DEADLINE);
    assert_eq!(pair.client.failure, Some(DtlsFailure::Timeout));
    assert_eq!(pair.client.transport.state(), DtlsState::Failed);
    assert_eq!(pair.client.transport.next_timeout(), None);
}

#[test]
fn rsa_peers_are_let_in_and_rsa_servers_serve() {
    let certificates = [rsa_certificate(), rsa_certificate()];
    for versions in [DtlsVersions::Only12, DtlsVersions::Only13] {
        let mut pair = Pair::with_certificates(versions, &certificates);
        pair.start();
        pair.run(|_| false);
        pair.assert_connected();
    }
}

/// Neither one from whom nothing comes nor one who begins again and again, and never goes on.
#[test]
fn a_handshake_that_is_never_finished_is_given_up() {
    for begins in [false, true] {
        let mut pair = Pair::new(DtlsVersions::All);
        pair.start();
        let started = pair.now;
        let hello = pair.client.transmits();
        while pair.server.failure.is_none() {
            if begins {
                hello.iter().for_each(|part| pair.server.transport.handle_datagram(part, pair.now));
            }
            pair.server.transmits();
            let next = pair.server.transport.next_timeout().expect("the end is due");
            pair.now = next.min(pair.now + Duration::from_secs(1));
            pair.server.transport.handle_timeout(pair.now);
            pair.server.poll();
            assert!(pair.now <= started + HANDSHAKE_DEADLINE, "it goes on");
        }
        assert_eq!(pair.now, started + HANDSHAKE_DEADLINE);
        assert_eq!(pair.server.failure, Some(DtlsFailure::Timeout));
        assert_eq!(pair.server.transport.next_timeout(), None);
    }
}

#[test]
fn what_is_connected_outlives_the_deadline_of_its_handshake() {
    let mut pair = Pair::new(DtlsVersions::All);
    pair.start();
    pair.run(|_| false);
    pair.now += HANDSHAKE_DEADLINE * 2;
    for end in [&mut pair.client, &mut pair.server] {
        end.transport.handle_timeout(pair.now);
        end.poll();
        assert_eq!(end.transport.state(), DtlsState::Connected);
    }
}

#[test]
fn wrong_fingerprint_fails() {
    for algorithm in FingerprintAlgorithm::ALL {
        let mut pair = Pair::new(DtlsVersions::All);
        let stranger = Certificate::generate().unwrap().fingerprints();
        let stranger = stranger.into_iter().find(|fingerprint| fingerprint.algorithm == algorithm).unwrap();
        pair.start();
        pair.server.transport.set_remote_fingerprint(stranger, pair.now);
        pair.run(|_| false);
        assert_eq!(pair.server.failure, Some(DtlsFailure::Fingerprint));
        assert!(pair.server.connection.is_none());
        assert_eq!(pair.server.transport.state(), DtlsState::Failed);
    }
}

#[test]
fn fingerprint_may_come_after_the_handshake() {
    for right in [true, false] {
        let mut pair = Pair::new(DtlsVersions::All);
        let now = pair.now;
        pair.client.transport.set_remote_fingerprint(pair.server.fingerprint.clone(), now);
        pair.server.transport.start(DtlsRole::Server, now).unwrap();
        pair.client.transport.start(DtlsRole::Client, now).unwrap();
        pair.carry(&mut |_| false);
        assert!(pair.client.connection.is_some());
        assert!(pair.server.connection.is_none());
        assert_eq!(pair.server.transport.state(), DtlsState::Connecting);
        let mut fingerprint = pair.client.fingerprint.clone();
        if right {
            fingerprint.value = fingerprint.value.to_lowercase();
        } else {
            fingerprint = pair.server.fingerprint.clone();
        }
        pair.server.transport.set_remote_fingerprint(fingerprint, now);
        pair.server.poll();
        assert_eq!(pair.server.connection.is_some(), right);
        assert_eq!(pair.server.failure.is_some(), !right);
    }
}

#[test]
fn early_client_hello_is_answered_at_the_start() {
    let mut pair = Pair::new(DtlsVersions::All);
    let now = pair.now;
    pair.client.transport.start(DtlsRole::Client, now).unwrap();
    for piece in pair.client.transmits() {
        pair.server.transport.handle_datagram(&piece, now);
    }
    assert!(pair.server.transmits().is_empty());
    pair.server.transport.start(DtlsRole::Server, now).unwrap();
    let flight = pair.server.transmits();
    assert!(!flight.is_empty());
    for datagram in flight {
        pair.client.transport.handle_datagram(&datagram, now);
    }
    let (client, server) = (pair.client.fingerprint.clone(), pair.server.fingerprint.clone());
    pair.client.transport.set_remote_fingerprint(server, now);
    pair.server.transport.set_remote_fingerprint(client, now);
    pair.run(|_| false);
    pair.assert_connected();
    assert_eq!(pair.now, now, "no repeat was needed");
}

#[test]
fn early_datagrams_are_bounded() {
    let mut pair = Pair::new(DtlsVersions::All);
    for _ in 0..100 {
        pair.server.transport.handle_datagram(&[22; 100], pair.now);
    }
    assert_eq!(pair.server.transport.dropped(), 96);
    pair.start();
    pair.run(|_| false);
    pair.assert_connected();
}

#[test]
fn close_is_told_to_the_peer() {
    for versions in [DtlsVersions::Only12, DtlsVersions::Only13] {
        let mut pair = Pair::new(versions);
        pair.start();
        pair.run(|_| false);
        pair.carry(&mut |_| false);
        pair.client.transport.close(pair.now);
        assert_eq!(pair.client.transport.state(), DtlsState::Closed);
        pair.carry(&mut |_| false);
        assert!(pair.server.closed);
        assert_eq!(pair.server.transport.state(), DtlsState::Closed);
        assert_eq!(pair.server.transport.next_timeout(), None);
    }
}

#[test]
fn application_data_pass_both_ways() {
    let mut pair = Pair::new(DtlsVersions::All);
    assert!(matches!(pair.client.transport.send(b"early", pair.now), Err(DtlsError::NotConnected)));
    pair.start();
    pair.run(|_| false);
    pair.client.transport.send(b"from the client", pair.now).unwrap();
    pair.server.transport.send(&[7; 1100], pair.now).unwrap();
    pair.carry(&mut |_| false);
    assert_eq!(pair.server.data, [b"from the client".to_vec()]);
    assert_eq!(pair.client.data, [vec![7; 1100]]);
}

#[test]
fn srtp_profile_is_the_servers_choice_of_what_the_client_offers() {
    let certificate = Certificate::generate().unwrap();
    for (place, expected) in Profile::PREFERENCE.into_iter().enumerate() {
        for versions in [DtlsVersions::Only12, DtlsVersions::Only13] {
            // The client's own order is the reverse one.
            let offered: Vec<Profile> = Profile::PREFERENCE[place..].iter().rev().copied().collect();
            let context = DtlsContext::with_profiles(&certificate, TIMERS, versions, &offered).unwrap();
            let mut pair = Pair::new(versions);
            pair.client.transport = DtlsTransport::new(&context);
            pair.client.fingerprint = certificate.fingerprints().remove(4);
            pair.start();
            pair.run(|_| false);
            pair.assert_connected();
            let [client, server] = [&pair.client, &pair.server]
                .map(|end| end.connection.as_ref().and_then(|connection| connection.srtp.clone()).unwrap());
            assert_eq!(server.profile, expected);
            let mut sender = SrtpSender::new(client.profile, &client.local_key, &client.local_salt).unwrap();
            let mut receiver =
                SrtpReceiver::new(server.profile, &server.remote_key, &server.remote_salt).unwrap();
            let (packet, mut datagram) = ([0x80, 201, 0, 1, 0, 0, 0, 1], [0; 40]);
            let len = sender.protect_rtcp(&packet, &mut datagram).unwrap();
            let len = receiver.unprotect_rtcp(&mut datagram[..len]).unwrap();
            assert_eq!(datagram[..len], packet);
        }
    }
}

#[test]
fn start_is_for_once() {
    let mut pair = Pair::new(DtlsVersions::All);
    pair.start();
    let again = pair.client.transport.start(DtlsRole::Client, pair.now);
    assert!(matches!(again, Err(DtlsError::Started)));
}

#[test]
fn nothing_is_due_once_connected() {
    for versions in [DtlsVersions::Only12, DtlsVersions::Only13] {
        let mut pair = Pair::new(versions);
        pair.start();
        pair.run(|_| false);
        pair.carry(&mut |_| false);
        // What 1.3 still acknowledges is over soon.
        for _ in 0..4 {
            pair.now += Duration::from_secs(1);
            pair.client.transport.handle_timeout(pair.now);
            pair.server.transport.handle_timeout(pair.now);
            pair.carry(&mut |_| false);
        }
        assert_eq!(pair.client.transport.next_timeout(), None);
        assert_eq!(pair.server.transport.next_timeout(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random bytes at any moment neither panic nor connect; what is no record does not disturb either.
    #[test]
    fn garbage_is_survived(
        junk in proptest::collection::vec((0_usize..12, proptest::collection::vec(any::<u8>(), 0..200)), 1..30),
        old in any::<bool>(),
    ) {
        let mut pair = Pair::new(if old { DtlsVersions::Only12 } else { DtlsVersions::Only13 });
        pair.start();
        for (first, mut bytes) in junk {
            // From 20 on, first bytes are those of record types.
            if let Some(byte) = bytes.first_mut() {
                *byte = 18 + first as u8;
            }
            pair.server.transport.handle_datagram(&bytes, pair.now);
            pair.client.transport.handle_datagram(&bytes, pair.now);
        }
        pair.client.poll();
        pair.server.poll();
        prop_assert!(pair.client.connection.is_none());
        prop_assert!(pair.server.connection.is_none());
    }

    /// Whoever has not the keys can neither end a connection nor slip data into it.
    #[test]
    fn garbage_does_not_disturb_a_connection(
        junk in proptest::collection::vec((20_u8..64, proptest::collection::vec(any::<u8>(), 0..100)), 1..30),
        old in any::<bool>(),
    ) {
        let mut pair = Pair::new(if old { DtlsVersions::Only12 } else { DtlsVersions::Only13 });
        pair.start();
        pair.run(|_| false);
        pair.carry(&mut |_| false);
        let mut records: Vec<Vec<u8>> = junk
            .into_iter()
            .map(|(first, bytes)| {
                // A record whose length is right, of epoch 0 or 1.
                let mut record = vec![first, 0xfe, 0xfd, 0, first & 1, 0, 0, 0, 0, 1, 0, 0, bytes.len() as u8];
                record.extend(bytes);
                record
            })
            .collect();
        // A fatal alert and a close_notify in the clear.
        records.push(vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 9, 9, 0, 2, 2, 40]);
        records.push(vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 9, 10, 0, 2, 1, 0]);
        for record in &records {
            pair.server.transport.handle_datagram(record, pair.now);
            pair.client.transport.handle_datagram(record, pair.now);
        }
        pair.carry(&mut |_| false);
        pair.client.transport.send(b"still here", pair.now).unwrap();
        pair.server.transport.send(b"so am I", pair.now).unwrap();
        pair.carry(&mut |_| false);
        prop_assert_eq!(&pair.server.data, &[b"still here".to_vec()]);
        prop_assert_eq!(&pair.client.data, &[b"so am I".to_vec()]);
    }

    /// Honest datagrams with flipped bytes lead to a connection or to a failure, never to a panic, and a
    /// failed end is quiet afterwards.
    #[test]
    fn mutated_handshakes_are_survived(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1_u8..), 12),
        old in any::<bool>(),
    ) {
        let mut pair = Pair::new(if old { DtlsVersions::Only12 } else { DtlsVersions::Only13 });
        pair.start();
        let mut flips = flips.into_iter();
        for _ in 0..20 {
            for datagram in pair.client.transmits() {
                pair.server.transport.handle_datagram(&flip(datagram, flips.next()), pair.now);
            }
            for datagram in pair.server.transmits() {
                pair.client.transport.handle_datagram(&flip(datagram, flips.next()), pair.now);
            }
            pair.client.poll();
            pair.server.poll();
            let next = [&pair.client, &pair.server].into_iter().filter_map(|end| end.transport.next_timeout()).min();
            let Some(next) = next else { break };
            pair.now = pair.now.max(next);
            pair.client.transport.handle_timeout(pair.now);
            pair.server.transport.handle_timeout(pair.now);
        }
        for end in [&mut pair.client, &mut pair.server] {
            if end.failure.is_some() {
                end.transmits();
                end.transport.handle_datagram(&[22; 60], pair.now);
                prop_assert!(end.transmits().is_empty());
                prop_assert!(end.connection.is_none());
            }
        }
    }
}

fn flip(mut datagram: Vec<u8>, flip: Option<(proptest::sample::Index, u8)>) -> Vec<u8> {
    if let Some((place, mask)) = flip
        && !datagram.is_empty()
    {
        let place = place.index(datagram.len());
        datagram[place] ^= mask;
    }
    datagram
}
