use std::time::Duration;

use cluster::keeper::Answer;
use cluster::lease::Term;
use cluster::node::Incarnation;
use host::{FromClient, Loss, NotResumed, Resumed, ToClient};
use room::{AskId, Comer, Notification, PeerId, Reply, Request, RequestId, Role, close_code};
use tokio::time::timeout;

use super::fake::{Certificates, EPOCH, Listening, PATIENCE, id, links, me, patient, ping, room};
use crate::{Believe, LinkError, LinkSettings, Me, OpenError, OpenRefused, OpenSession, Resume, Security};

/// Nothing moves any more if nothing moved for this long. On a machine that is slower, less is on its way.
const LONG: Duration = Duration::from_millis(200);

pub(super) fn open(name: &str, peer: &str) -> OpenSession {
    OpenSession {
        room: room(name),
        comer: Comer { role: Some(Role::new("judge")), ..Comer::new(PeerId::parse(peer).expect("id")) },
        term: Term { epoch: EPOCH, node: id("m1") },
        stays: false,
        resume: None,
        attach: None,
    }
}

pub(super) fn news(text: &str) -> ToClient {
    ToClient::Notify(Notification::PeerClosed(PeerId::parse(text).expect("id")))
}

#[tokio::test]
async fn nodes_talk_ask_and_carry_sessions_both_ways() {
    let certificates = Certificates::new();
    for tls in [false, true] {
        let security = |name| if tls { certificates.of(name) } else { Security::plaintext() };
        let mut owner = Listening::start("m1", security("m1"), patient()).await;
        let (links, _) = links(me("s1"), security("s1"), patient());

        let heard = links.ping(&owner.node, ping("s1", 41)).await.expect("heard");
        assert_eq!((heard.ping.epoch.0, heard.incarnation), (42, owner.node.incarnation));
        assert!(heard.ping.hears.contains(&id("s1")));
        let term = Term { epoch: EPOCH, node: id("m1") };
        let answer = links.ask(&owner.node, room("r"), Some(term.clone())).await;
        assert_eq!(answer, Ok(Answer::Here(term.clone())));
        assert!(links.ping(&owner.node, ping("another", 1)).await.is_err(), "a ping in another's name");

        let nowhere = links.open(&owner.node, open("nowhere", "ann")).await.expect_err("not there");
        assert_eq!(nowhere, OpenError::Refused(OpenRefused::NotHere { newest: Some(term.clone()) }));
        let mut near = links.open(&owner.node, open("r", "ann")).await.expect("opened");
        assert_eq!(near.term, term);
        let mut far = owner.opened.recv().await.expect("opened");
        assert_eq!(far.open, open("r", "ann"));

        let request = Request::ChangeDisplayName("Ann".to_owned());
        near.session.request(RequestId(3), request.clone()).await.expect("sent");
        near.session.answer(AskId(9), true).await.expect("sent");
        let said = FromClient::Request { request: RequestId(3), message: request };
        assert_eq!(far.from_client.recv().await, Some(said));
        assert_eq!(far.from_client.recv().await, Some(FromClient::Answer { ask: AskId(9), accepted: true }));
        let reply = ToClient::Reply { request: RequestId(3), result: Ok(Reply::Done) };
        far.to_client.send(reply.clone()).await.expect("sent");
        assert_eq!(near.messages.recv().await, Some(reply));

        // Dropping it is leaving.
        drop(near);
        assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(None));

        let mut near = links.open(&owner.node, open("r", "bob")).await.expect("opened");
        let far = owner.opened.recv().await.expect("opened");
        let close = ToClient::Close { code: close_code::FINAL, reason: "enough".into() };
        far.to_client.send(close.clone()).await.expect("sent");
        assert_eq!(near.messages.recv().await, Some(close));
        assert_eq!(near.messages.recv().await, None);

        let mut near = links.open(&owner.node, open("r", "eve")).await.expect("opened");
        let far = owner.opened.recv().await.expect("opened");
        drop(far.to_client);
        assert_eq!(near.messages.recv().await, None, "without a word: she did not keep up");
        owner.server.stop(PATIENCE).await;
    }
}

#[tokio::test]
async fn a_client_comes_back_to_its_session_by_another_gateway_and_leaves_for_good() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (first, _) = links(me("s1"), Security::plaintext(), patient());
    let (second, _) = links(me("s2"), Security::plaintext(), patient());
    let near =
        first.open(&owner.node, OpenSession { stays: true, ..open("r", "ann") }).await.expect("opened");
    let mut far = owner.opened.recv().await.expect("opened");
    assert!(far.open.stays && near.resumed.is_none());
    let token = near.token.expect("a token");
    drop(near.session);
    assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(None), "it did not say that it leaves");

    let back = |token: &str| {
        let resume = Some(Resume { token: token.to_owned(), received: 41 });
        OpenSession { stays: true, resume, ..open("r", "ann") }
    };
    let wrong = second.open(&owner.node, back("wrong")).await.expect_err("refused");
    assert_eq!(wrong, OpenError::Refused(OpenRefused::NotResumed(NotResumed::Token)));
    let near = second.open(&owner.node, back(&token)).await.expect("opened");
    let mut far = owner.opened.recv().await.expect("opened");
    assert_eq!(far.open.resume.map(|resume| resume.received), Some(41));
    assert_eq!(near.resumed, Some(Resumed { joined: true, asks: vec![AskId(3)] }));
    near.session.say(FromClient::Received(42)).await.expect("said");
    near.session.leave().await;
    assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(Some(FromClient::Received(42))));
    assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(Some(FromClient::Leave)));
}

#[tokio::test]
async fn a_session_that_is_not_read_stops_itself_and_no_other() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (links, _) = links(me("s1"), Security::plaintext(), patient());
    // As many that are not read as would fill a connection's usual window many times over.
    let mut stuck = Vec::new();
    for i in 0..20 {
        let near = links.open(&owner.node, open("r", &format!("slow{i}"))).await.expect("opened");
        stuck.push((near, owner.opened.recv().await.expect("opened"), 0));
    }
    let long = "x".repeat(100);
    for (_, far, sent) in &mut stuck {
        // Until the room's queue stays full although everybody else had their turns.
        while timeout(LONG, far.to_client.send(news(&long))).await.is_ok_and(|sent| sent.is_ok()) {
            *sent += 1;
        }
        assert!(*sent > 0);
    }
    let mut near = links.open(&owner.node, open("r", "quick")).await.expect("opened");
    let far = owner.opened.recv().await.expect("opened");
    for i in 0..2_000 {
        far.to_client.send(news(&format!("{i}"))).await.expect("sent");
        assert_eq!(timeout(PATIENCE, near.messages.recv()).await, Ok(Some(news(&format!("{i}")))));
    }
    // Nothing is lost on those that were stuck.
    let (near, far, sent) = &mut stuck[7];
    for _ in 0..*sent {
        assert_eq!(timeout(PATIENCE, near.messages.recv()).await, Ok(Some(news(&long))));
    }
    far.to_client.send(news("last")).await.expect("sent");
    assert_eq!(timeout(PATIENCE, near.messages.recv()).await, Ok(Some(news("last"))));
}

#[tokio::test]
async fn when_a_thousand_leave_at_once_the_link_holds() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (links, _) = links(me("s1"), Security::plaintext(), patient());
    let mut stays = links.open(&owner.node, open("r", "stays")).await.expect("opened");
    let far = owner.opened.recv().await.expect("opened");
    let mut leave = Vec::new();
    for i in 0..1_200 {
        let near = links.open(&owner.node, open("r", &format!("p{i}"))).await.expect("opened");
        leave.push((near, owner.opened.recv().await.expect("opened")));
    }
    let mut rooms = Vec::new();
    for (near, far) in leave {
        // On its way while they leave.
        for _ in 0..4 {
            far.to_client.send(news("something")).await.expect("sent");
        }
        drop(near);
        rooms.push(far);
    }
    for mut far in rooms {
        assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(None));
    }
    far.to_client.send(news("still here")).await.expect("sent");
    assert_eq!(timeout(PATIENCE, stays.messages.recv()).await, Ok(Some(news("still here"))));
}

#[tokio::test]
async fn a_client_that_talks_faster_than_its_room_listens_waits() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (links, _) = links(me("s1"), Security::plaintext(), patient());
    let near = links.open(&owner.node, open("r", "ann")).await.expect("opened");
    let mut far = owner.opened.recv().await.expect("opened");
    let name = "n".repeat(1000);
    let mut sent = 0u64;
    let say = |i| near.session.request(RequestId(i), Request::ChangeDisplayName(name.clone()));
    while timeout(LONG, say(sent)).await.is_ok_and(|said| said.is_ok()) {
        sent += 1;
    }
    assert!(sent < 1_000, "{sent}");
    for i in 0..sent {
        let said = timeout(PATIENCE, far.from_client.recv()).await.expect("in time");
        assert!(matches!(said, Some(FromClient::Request { request: RequestId(at), .. }) if at == i));
    }
}

#[tokio::test]
async fn when_the_owner_dies_sessions_say_so_and_the_next_ping_is_proof() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (links, _) = links(me("s1"), Security::plaintext(), patient());
    let mut near = links.open(&owner.node, open("r", "ann")).await.expect("opened");
    let far = owner.opened.recv().await.expect("opened");
    far.to_client.send(news("before")).await.expect("sent");
    assert_eq!(near.messages.recv().await, Some(news("before")));
    drop(owner.server);
    assert_eq!(timeout(PATIENCE, near.messages.recv()).await, Ok(Some(ToClient::Lost(Loss::Unreachable))));
    assert_eq!(near.messages.recv().await, None);
    assert_eq!(links.ping(&owner.node, ping("s1", 1)).await, Err(LinkError::Refused));
    assert_eq!(
        links.ping(&owner.node, ping("s1", 1)).await,
        Err(LinkError::Resting),
        "no proof at second hand"
    );
    links.wake(&owner.node.id);
    assert_eq!(links.ping(&owner.node, ping("s1", 1)).await, Err(LinkError::Refused));
}

#[tokio::test]
async fn silence_is_no_proof() {
    // The system takes the connection in, but nobody answers on it.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let node = super::fake::node("m1", mute.local_addr().expect("address"));
    let (links, _) = links(me("s1"), Security::plaintext(), LinkSettings::default());
    assert_eq!(links.ping(&node, ping("s1", 1)).await, Err(LinkError::Silent));
}

#[tokio::test]
async fn a_gateway_that_dies_leaves_its_rooms() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (first, _) = links(me("s1"), Security::plaintext(), patient());
    let _near = first.open(&owner.node, open("r", "ann")).await.expect("opened");
    let mut far = owner.opened.recv().await.expect("opened");
    first.close();
    assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(None));

    // It may be back before anybody has noticed.
    let mut near = first.open(&owner.node, open("r", "bob")).await.expect("opened");
    let mut far = owner.opened.recv().await.expect("opened");
    let again = Me { incarnation: Incarnation(6), ..me("s1") };
    let (second, _) = links(again, Security::plaintext(), patient());
    second.ping(&owner.node, ping("s1", 1)).await.expect("heard");
    assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(None));
    assert_eq!(timeout(PATIENCE, near.messages.recv()).await, Ok(Some(ToClient::Lost(Loss::Unreachable))));
}

#[tokio::test]
async fn what_a_superseded_owner_says_is_not_passed_on_and_it_is_told() {
    let mut owner = Listening::start("m1", Security::plaintext(), patient()).await;
    let (links, fences) = links(me("s1"), Security::plaintext(), patient());
    let mut near = links.open(&owner.node, open("r", "ann")).await.expect("opened");
    let mut far = owner.opened.recv().await.expect("opened");
    far.to_client.send(news("before")).await.expect("sent");
    assert_eq!(near.messages.recv().await, Some(news("before")));
    let newer = Term { epoch: cluster::lease::Epoch(EPOCH.0 + 1), node: id("m2") };
    fences.believe(&room("r"), &newer).expect("newer");
    far.to_client.send(news("after")).await.expect("sent");
    assert_eq!(near.messages.recv().await, Some(ToClient::Lost(Loss::Superseded)));
    assert_eq!(near.messages.recv().await, None);
    assert_eq!(timeout(PATIENCE, owner.fenced.recv()).await, Ok(Some((room("r"), newer))));
    assert_eq!(timeout(PATIENCE, far.from_client.recv()).await, Ok(None));
}

#[tokio::test]
async fn a_link_carries_so_many_sessions_and_a_message_is_so_long() {
    let small = LinkSettings { sessions: 1, message_up: 4096, ..patient() };
    let mut owner = Listening::start("m1", Security::plaintext(), small).await;
    let (links, _) = links(me("s1"), Security::plaintext(), small);
    let mut near = links.open(&owner.node, open("r", "ann")).await.expect("opened");
    let _far = owner.opened.recv().await.expect("opened");
    let full = links.open(&owner.node, open("r", "bob")).await.expect_err("full");
    assert_eq!(full, OpenError::Link(LinkError::Sessions(1)));
    near.session.request(RequestId(1), Request::ChangeDisplayName("n".repeat(5000))).await.expect("taken");
    assert_eq!(timeout(PATIENCE, near.messages.recv()).await, Ok(Some(ToClient::Lost(Loss::Unreachable))));
}
