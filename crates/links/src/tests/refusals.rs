//! Who is refused, and that both ends say why: in an error, a counter and a log line.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cluster::lease::{Epoch, Term};
use cluster::node::{Incarnation, Node};
use host::{Loss, ToClient};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::time::timeout;
use tracing::subscriber::DefaultGuard;

use super::fake::{Certificates, EPOCH, Listening, PATIENCE, id, links, me, node, patient, ping, room};
use super::sessions::{news, open};
use crate::link::{Common, Link};
use crate::{Believe, LinkError, Me, Policy, Security, Server};

/// What was logged and counted on this thread, where both ends run.
struct Witness {
    log: Log,
    counters: PrometheusHandle,
    _guards: (DefaultGuard, metrics::LocalRecorderGuard<'static>),
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Witness {
    fn new() -> Self {
        let log = Log::default();
        let into = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || into.clone()).with_ansi(false).finish();
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let counters = recorder.handle();
        let guards =
            (tracing::subscriber::set_default(subscriber), metrics::set_default_local_recorder(recorder));
        Self { log, counters, _guards: guards }
    }

    fn log(&self) -> String {
        String::from_utf8(self.log.0.lock().expect("lock").clone()).expect("text")
    }

    /// Both ends have counted and logged this one word.
    fn expect(&self, dialler: &str, server: &str) {
        let log = self.log();
        let lines = |end: &str, why: &str| {
            let why = format!("why=\"{why}\"");
            log.lines()
                .filter(|line| line.contains("WARN") && line.contains(end) && line.contains(&why))
                .count()
        };
        assert_eq!(lines("node=", dialler), 1, "{dialler} once in the log of who dialled: {log}");
        assert_eq!(lines("from=", server), 1, "{server} once in the log of who was dialled: {log}");
        let counters = self.counters.render();
        for counter in [
            format!("tureen_link_dials_total{{result=\"{dialler}\"}} 1"),
            format!("tureen_link_refused_total{{why=\"{server}\"}} 1"),
        ] {
            assert!(counters.contains(&counter), "{counter} in {counters}");
        }
    }
}

async fn refused(from: Me, security: Security, node: &Node) -> LinkError {
    let (links, _) = links(from, security, patient());
    links.ping(node, ping("s1", 1)).await.expect_err("refused")
}

#[tokio::test]
async fn a_certificate_of_another_authority() {
    let owner = Listening::start("m1", Certificates::new().of("m1"), patient()).await;
    let witness = Witness::new();
    let error = refused(me("s1"), Certificates::new().of("s1"), &owner.node).await;
    assert!(matches!(error, LinkError::Policy(Policy::Certificate(_))), "{error:?}");
    // The server hears it by an alert.
    owner.server.stop(PATIENCE).await;
    witness.expect("certificate", "certificate");
}

#[tokio::test]
async fn a_server_refuses_a_client_of_another_authority() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let owner = Listening::start("m1", ours.of("m1"), patient()).await;
    let witness = Witness::new();
    // It trusts us; we don't trust it.
    let files = theirs.files("s1");
    std::fs::write(&files.ca, &ours.authority.cert).expect("written");
    let error = refused(me("s1"), Security::tls(files).expect("usable"), &owner.node).await;
    assert!(matches!(error, LinkError::Policy(Policy::Certificate(_))), "{error:?}");
    owner.server.stop(PATIENCE).await;
    witness.expect("certificate", "certificate");
}

#[tokio::test]
async fn a_certificate_of_another_node() {
    let certificates = Certificates::new();
    let owner = Listening::start("m1", certificates.of("m1"), patient()).await;
    let witness = Witness::new();
    let error = refused(me("s1"), certificates.of("s2"), &owner.node).await;
    let policy = Policy::Name { node: id("s1"), names: vec!["s2".to_owned()] };
    assert_eq!(error, LinkError::Policy(policy));
    witness.expect("certificate_name", "certificate_name");
    // And one who answers in another's place.
    let elsewhere = Node { id: id("m2"), ..owner.node.clone() };
    let error = refused(me("s1"), certificates.of("s1"), &elsewhere).await;
    assert!(matches!(error, LinkError::Policy(Policy::Certificate(_))), "{error:?}");
}

#[tokio::test]
async fn no_certificate_at_all() {
    let owner = Listening::start("m1", Certificates::new().of("m1"), patient()).await;
    let error = refused(me("s1"), Security::plaintext(), &owner.node).await;
    assert!(matches!(error, LinkError::Broken(_) | LinkError::Policy(_)), "{error:?}");
    let owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let error = refused(me("s1"), Certificates::new().of("s1"), &owner.node).await;
    assert_eq!(error, LinkError::Policy(Policy::Plaintext));
}

#[tokio::test]
async fn plaintext_beyond_loopback() {
    let far: SocketAddr = "192.0.2.1:1".parse().expect("address");
    let error = refused(me("s1"), Security::plaintext(), &node("m1", far)).await;
    assert_eq!(error, LinkError::Policy(Policy::Plaintext));
    let everywhere = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("bound");
    let fake = Listening::start("m1", Security::plaintext(), patient()).await;
    drop(fake.server);
    let (opened, fenced) =
        (tokio::sync::mpsc::unbounded_channel().0, tokio::sync::mpsc::unbounded_channel().0);
    let serve =
        Arc::new(super::fake::Fake::new(id("m1"), tokio::sync::mpsc::unbounded_channel().0, opened, fenced));
    assert!(Server::start(everywhere, me("m1"), Security::plaintext(), patient(), serve).is_err());
}

#[tokio::test]
async fn another_cluster() {
    let owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let witness = Witness::new();
    let stranger = Me { cluster: "other".to_owned(), ..me("s1") };
    let error = refused(stranger, Security::plaintext(), &owner.node).await;
    assert_eq!(error, Policy::Cluster { ours: "tests".to_owned(), theirs: "other".to_owned() }.into());
    witness.expect("cluster", "cluster");
}

#[tokio::test]
async fn an_old_protocol_version() {
    let owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let witness = Witness::new();
    let common = Common {
        me: me("s1"),
        security: Security::plaintext(),
        settings: patient(),
        protocol: crate::PROTOCOL - 1,
    };
    let link = Arc::new(Link::new(owner.node.clone(), Arc::new(common)));
    let error = link.channel().await.expect_err("refused");
    assert_eq!(error, Policy::Protocol { ours: crate::PROTOCOL, theirs: crate::PROTOCOL - 1 }.into());
    witness.expect("protocol", "protocol");
}

#[tokio::test]
async fn an_earlier_life_of_a_node() {
    let owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (later, _) = links(Me { incarnation: Incarnation(6), ..me("s1") }, Security::plaintext(), patient());
    later.ping(&owner.node, ping("s1", 1)).await.expect("heard");
    let witness = Witness::new();
    let error = refused(me("s1"), Security::plaintext(), &owner.node).await;
    let stale =
        |seen| Policy::Incarnation { node: id("s1"), theirs: Incarnation(5), seen: Incarnation(seen) };
    assert_eq!(error, stale(6).into());
    witness.expect("incarnation", "incarnation");
    // The later one goes on, and a still later one ends it.
    later.ping(&owner.node, ping("s1", 1)).await.expect("heard");
    // A node that answers in an earlier life than the store knows of is not the one asked for.
    let renewed = Node { incarnation: Incarnation(9), ..owner.node.clone() };
    let error = later.ping(&renewed, ping("s1", 1)).await.expect_err("refused");
    let stale = Policy::Incarnation { node: id("m1"), theirs: Incarnation(5), seen: Incarnation(9) };
    assert_eq!(error, stale.into());
}

#[tokio::test]
async fn new_files_are_used_for_the_next_connection() {
    let (old, new) = (Certificates::new(), Certificates::new());
    let files = old.files("m1");
    let owner = Listening::start("m1", Security::tls(files.clone()).expect("usable"), patient()).await;
    let (before, _) = links(me("s1"), old.of("s1"), patient());
    before.ping(&owner.node, ping("s1", 1)).await.expect("heard");

    // A file that is half written changes nothing.
    std::fs::write(&files.cert, "-----BEGIN CERTIFICATE-----\nM").expect("written");
    let (still, _) = links(me("s2"), old.of("s2"), patient());
    still.ping(&owner.node, ping("s2", 1)).await.expect("heard");

    let renewed = new.files("m1");
    for (from, to) in [(renewed.ca, &files.ca), (renewed.cert, &files.cert), (renewed.key, &files.key)] {
        std::fs::rename(from, to).expect("moved");
    }
    let (after, _) = links(me("s3"), new.of("s3"), patient());
    after.ping(&owner.node, ping("s3", 1)).await.expect("heard");
    let error = refused(me("s1"), old.of("s1"), &owner.node).await;
    assert!(matches!(error, LinkError::Policy(Policy::Certificate(_))), "{error:?}");
    // What is open goes on.
    before.ping(&owner.node, ping("s1", 1)).await.expect("heard");
}

/// An owner whose term is over: what it says goes no further, and the refusal tells the room, the node and the epoch.
#[tokio::test]
async fn a_stale_epoch() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (links, fences) = links(me("s1"), Security::plaintext(), patient());
    let mut near = links.open(&owner.node, open("r", "ann")).await.expect("opened");
    let far = owner.opened.recv().await.expect("opened");
    let witness = Witness::new();
    let newer = Term { epoch: Epoch(EPOCH.0 + 1), node: id("m2") };
    fences.believe(&room("r"), &newer).expect("newer");
    far.to_client.send(news("too late")).await.expect("sent");
    assert_eq!(near.messages.recv().await, Some(ToClient::Lost(Loss::Superseded)));
    assert_eq!(timeout(PATIENCE, owner.fenced.recv()).await, Ok(Some((room("r"), newer))));
    let log = witness.log();
    let refused = |line: &&str| {
        let told = [" WARN ", "message refused", "room=r ", "node=m1", &format!("epoch={}", EPOCH.0)];
        told.iter().all(|part| line.contains(part))
    };
    assert_eq!(log.lines().filter(refused).count(), 1, "{log}");
    let counters = witness.counters.render();
    assert!(counters.contains("tureen_link_fenced_total 1"), "{counters}");
}
