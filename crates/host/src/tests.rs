//! Sessions that come back while their room moves to another node. Nobody needs media here.

use std::sync::Arc;

use futures_util::FutureExt;
use room::{Comer, Limits, PeerId, Region, RoomId, RoomType, SiteId};
use tokio::sync::mpsc;

use crate::host::{Handing, Host, HostLimits, HostSettings};
use crate::media_side::MediaSettings;
use crate::moving::Move;
use crate::resume::NotResumed;
use crate::session::{FromClient, Session, ToClient};
use crate::site::{NewsSender, SITE_OPS, SiteNews, SiteOp, Sites};

const TERM: (u64, &str) = (1, "here");

/// Sites that make nothing of what they are told, and stand still when they are to.
#[derive(Debug)]
struct DeafSites;

impl Sites for DeafSites {
    fn open(&self, _: &RoomId, site: SiteId, _: Option<&Region>, news: NewsSender) -> mpsc::Sender<SiteOp> {
        let (ops, mut inbox) = mpsc::channel(SITE_OPS);
        tokio::spawn(async move {
            while let Some(op) = inbox.recv().await {
                if let SiteOp::Park = op {
                    let _ = news.send((site, SiteNews::Parked)).await;
                }
            }
        });
        ops
    }

    fn adopt(
        &self,
        room: &RoomId,
        site: SiteId,
        _: &str,
        _: (u64, &str),
        news: NewsSender,
    ) -> mpsc::Sender<SiteOp> {
        self.open(room, site, None, news)
    }
}

/// A room with ann, who is there, and bob, whose connection broke; it stands still as soon as ann's gateway says so.
struct Scene {
    host: Host,
    room: RoomId,
    ann: (Session, mpsc::Receiver<ToClient>),
    bobs_token: String,
}

impl Scene {
    async fn new() -> Self {
        let settings = HostSettings {
            room_type: Arc::new(RoomType::open()),
            room_limits: Arc::new(Limits::default()),
            limits: HostLimits { rooms: 1, sessions: 2 },
            media: MediaSettings::default(),
            ended: None,
        };
        let host = Host::with_sites(Arc::new(DeafSites), settings);
        let room = RoomId::parse("r").unwrap();
        let comer = |name: &str| Comer::new(PeerId::parse(name).unwrap());
        let ann = host.enter(room.clone(), comer("ann")).await.unwrap();
        let (bob, _) = host.enter(room.clone(), comer("bob")).await.unwrap();
        let term = (TERM.0, TERM.1.to_owned());
        let bobs_token = host.resume_token(room.clone(), comer("bob").peer, bob.id(), term).unwrap();
        Self { host, room, ann, bobs_token }
    }

    /// Bob is back while the room is brought to a stand, which it then does.
    async fn stand(&mut self) -> (Handing, impl Future<Output = Result<(), NotResumed>> + use<>) {
        let (host, room, token) = (self.host.clone(), self.room.clone(), self.bobs_token.clone());
        let handing = tokio::spawn({
            let (host, room) = (host.clone(), room.clone());
            async move { host.hand_over(&room, (TERM.0, TERM.1.to_owned())).await }
        });
        loop {
            if let ToClient::Move(what) = self.ann.1.recv().await.expect("the room is there") {
                assert_eq!(what, Move::Freeze);
                break;
            }
        }
        let back = async move {
            host.resume(&room, &PeerId::parse("bob").unwrap(), &token, TERM, 0).await.map(drop)
        };
        let mut back = Box::pin(back);
        // Whatever is said behind it in the room's queue is heard after it.
        assert!((&mut back).now_or_never().is_none(), "the room answers nobody while it stands");
        self.ann.0.say(FromClient::Held).await.unwrap();
        let handing = handing.await.unwrap().expect("the room is written down");
        assert!((&mut back).now_or_never().is_none(), "the room answers nobody while it stands");
        (handing, back)
    }
}

#[tokio::test]
async fn who_comes_back_to_a_room_that_leaves_is_told_to_ask_again() {
    let mut scene = Scene::new().await;
    let (handing, back) = scene.stand().await;
    handing.moved(2, "there".to_owned());
    assert_eq!(back.await, Err(NotResumed::Moving));
}

#[tokio::test]
async fn who_comes_back_to_a_room_that_stays_has_the_session() {
    let mut scene = Scene::new().await;
    let (handing, back) = scene.stand().await;
    drop(handing);
    assert_eq!(back.await, Ok(()));
}
