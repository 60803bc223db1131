//! A node whose rooms are the test itself.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::fence::{Fence, Stale};
use cluster::keeper::Answer;
use cluster::lease::{Epoch, Term};
use cluster::neighbourhood::Ping;
use cluster::node::{Capacity, Incarnation, Node, NodeId, Region, Roles};
use host::{FarEnd, NotResumed, Resumed, Session, SiteNews, SiteOp, ToClient};
use room::{AskId, RoomId, SessionId, SiteId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::authority::{Pair, make_authority, make_node};
use crate::{
    Admitted, Believe, Guest, HandOver, HandedOver, LinkSettings, Links, Me, OpenRefused, OpenSession,
    OpenSite, Security, Serve, Server, SiteRefused, TakenSite, TlsFiles,
};

/// Long enough for anything on a loaded machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The term under which a fake node has every room but `nowhere`.
pub(super) const EPOCH: Epoch = Epoch(7);

/// By which clients come back to any session.
const TOKEN: &str = "a token";

pub(super) fn id(name: &str) -> NodeId {
    name.parse().expect("name")
}

pub(super) fn room(name: &str) -> RoomId {
    RoomId::parse(name).expect("id")
}

pub(super) fn me(name: &str) -> Me {
    Me { id: id(name), incarnation: Incarnation(5), cluster: "tests".to_owned() }
}

/// Patient with a loaded machine, else as shipped.
pub(super) fn patient() -> LinkSettings {
    LinkSettings {
        keep_alive_timeout: PATIENCE,
        handshake: PATIENCE,
        ping: PATIENCE,
        answer: PATIENCE,
        ..LinkSettings::default()
    }
}

/// What a room's end of a session is to the test.
pub(super) struct Opened {
    pub(super) open: OpenSession,
    pub(super) from_client: FarEnd,
    pub(super) to_client: mpsc::Sender<ToClient>,
}

/// What an edge's end of a site is to the test.
pub(super) struct Site {
    pub(super) open: OpenSite,
    pub(super) work: mpsc::Receiver<SiteOp>,
    pub(super) news: mpsc::Sender<(SiteId, SiteNews)>,
    /// The owner's time is over.
    pub(super) end: oneshot::Sender<()>,
}

pub(super) struct Fake {
    me: NodeId,
    sites: mpsc::UnboundedSender<Site>,
    opened: mpsc::UnboundedSender<Opened>,
    fenced: mpsc::UnboundedSender<(RoomId, Term)>,
}

impl Fake {
    pub(super) fn new(
        me: NodeId,
        sites: mpsc::UnboundedSender<Site>,
        opened: mpsc::UnboundedSender<Opened>,
        fenced: mpsc::UnboundedSender<(RoomId, Term)>,
    ) -> Self {
        Self { me, sites, opened, fenced }
    }
}

impl Serve for Fake {
    fn pinged(&self, ping: Ping, from: &Guest) -> Ping {
        let hears = [from.id.clone()].into();
        Ping { from: self.me.clone(), hears, store: ping.store, epoch: Epoch(ping.epoch.0 + 1) }
    }

    async fn ask(&self, _: &Guest, _: RoomId, _: Option<Term>) -> Answer {
        Answer::Here(Term { epoch: EPOCH, node: self.me.clone() })
    }

    async fn open(&self, _: &Guest, open: OpenSession) -> Result<Admitted, OpenRefused> {
        let term = Term { epoch: EPOCH, node: self.me.clone() };
        if open.room.as_str() == "nowhere" {
            return Err(OpenRefused::NotHere { newest: Some(term) });
        }
        let resumed = match &open.resume {
            Some(resume) if resume.token != TOKEN => {
                return Err(OpenRefused::NotResumed(NotResumed::Token));
            }
            resume => resume.as_ref().map(|_| Resumed { joined: true, asks: vec![AskId(3)] }),
        };
        let token = open.stays.then(|| TOKEN.to_owned());
        let (session, from_client) = Session::far(SessionId(77), 1);
        let (to_client, messages) = mpsc::channel(8);
        self.opened.send(Opened { open, from_client, to_client }).expect("the test waits");
        Ok(Admitted { session, messages, term, token, resumed })
    }

    async fn site(&self, _: &Guest, open: OpenSite) -> Result<TakenSite, SiteRefused> {
        if open.term.epoch < EPOCH {
            return Err(SiteRefused::Stale { newest: Term { epoch: EPOCH, node: self.me.clone() } });
        }
        let (ops, work) = mpsc::channel(1);
        let (news, told) = mpsc::channel(1);
        let (end, ended) = oneshot::channel::<()>();
        self.sites.send(Site { open, work, news, end }).expect("the test waits");
        Ok(TakenSite { ops, news: told, over: Box::pin(async { drop(ended.await) }) })
    }

    async fn hand_over(&self, from: &Guest, offer: HandOver) -> HandedOver {
        if offer.lease.term.node != from.id {
            return HandedOver::Refused("it is not yours".to_owned());
        }
        HandedOver::Taken(Term { epoch: Epoch(offer.lease.term.epoch.0 + 1), node: self.me.clone() })
    }

    fn fenced(&self, _: &Guest, room: RoomId, newest: Term) {
        self.fenced.send((room, newest)).expect("the test waits");
    }
}

/// A fake node that listens.
pub(super) struct Listening {
    pub(super) node: Node,
    pub(super) server: Server,
    pub(super) sites: mpsc::UnboundedReceiver<Site>,
    pub(super) opened: mpsc::UnboundedReceiver<Opened>,
    pub(super) fenced: mpsc::UnboundedReceiver<(RoomId, Term)>,
}

impl Listening {
    pub(super) async fn start(name: &str, security: Security, settings: LinkSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let (opened, opened_end) = mpsc::unbounded_channel();
        let (fenced, fenced_end) = mpsc::unbounded_channel();
        let (sites, sites_end) = mpsc::unbounded_channel();
        let fake = Arc::new(Fake::new(id(name), sites, opened, fenced));
        let server = Server::start(listener, me(name), security, settings, fake).expect("started");
        let node = node(name, server.address());
        Self { node, server, sites: sites_end, opened: opened_end, fenced: fenced_end }
    }
}

pub(super) fn node(name: &str, link: std::net::SocketAddr) -> Node {
    Node {
        id: id(name),
        incarnation: Incarnation(5),
        roles: Roles::default(),
        region: "here".parse::<Region>().expect("name"),
        link,
        capacity: Capacity { weight: 1, transports: 1, streams: 1 },
        clients: None,
        draining: false,
        full: false,
        protocol: crate::PROTOCOL,
    }
}

/// A fence as a signal node has it.
#[derive(Default)]
pub(super) struct Fences(Mutex<Fence>);

impl Believe for Fences {
    fn believe(&self, room: &RoomId, term: &Term) -> Result<(), Stale> {
        self.0.lock().expect("lock").pass(room, term)
    }
}

pub(super) fn links(me: Me, security: Security, settings: LinkSettings) -> (Links, Arc<Fences>) {
    let fences = Arc::new(Fences::default());
    (Links::new(me, security, settings, fences.clone()), fences)
}

pub(super) fn ping(from: &str, epoch: u64) -> Ping {
    Ping { from: id(from), hears: [].into(), store: true, epoch: Epoch(epoch) }
}

/// A cluster's authority, and a folder for what it makes.
pub(super) struct Certificates {
    pub(super) folder: TempDir,
    pub(super) authority: Pair,
}

impl Certificates {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("folder"), authority: make_authority().expect("made") }
    }

    pub(super) fn files(&self, name: &str) -> TlsFiles {
        let file = |what: &str, text: &str| {
            let path = self.folder.path().join(format!("{name}-{what}.pem"));
            let mut file = std::fs::File::create(&path).expect("file");
            file.write_all(text.as_bytes()).expect("written");
            path
        };
        let pair = make_node(&self.authority, &id(name), &[], 1).expect("made");
        TlsFiles {
            ca: file("ca", &self.authority.cert),
            cert: file("cert", &pair.cert),
            key: file("key", &pair.key),
        }
    }

    pub(super) fn of(&self, name: &str) -> Security {
        Security::tls(self.files(name)).expect("usable")
    }
}
