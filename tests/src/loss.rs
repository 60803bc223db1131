//! Calls over bad links: the cases, and how one is run with real browsers (tests/browser/loss.mjs).

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::link::LinkProfile;

use crate::{LinkProfiles, Network, Server, run_scenario};

/// What a link's queue holds: at 3 Mbit/s 107 ms, at 0.5 Mbit/s 640 ms.
const QUEUE_BYTES: usize = 40_000;
/// Of all chance in the links.
const SEED: u64 = 20;
/// Measured of a clean link, and of a bad one.
const CLEAN_SECONDS: u64 = 4;
const BAD_SECONDS: u64 = 12;
/// Until a call is taken to have settled on a link that has changed. The scenario's, told it.
const SETTLE_SECONDS: u64 = 2;
/// Beside what is measured: browsers start, calls begin and climb.
const OVERHEAD: Duration = Duration::from_secs(75);

/// A link of so many kbit/s.
fn limited(kbit: u64) -> LinkProfile {
    LinkProfile {
        rate: kbit * 1000,
        queue_bytes: QUEUE_BYTES,
        ..LinkProfile::perfect(Duration::from_millis(25))
    }
}

/// Which way a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Through the server.
    Server,
    /// From browser to browser, for comparison.
    Direct,
}

impl Call {
    /// The word in the scenario and its result.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Direct => "direct",
        }
    }
}

/// Whose link is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that sends camera and microphone.
    Publisher,
    /// The one that watches and listens.
    Subscriber,
}

/// A bad link and what it is called.
#[derive(Clone, Debug)]
pub struct Case {
    /// `loss-5`, for one.
    pub name: String,
    words: &'static str,
    /// Whose link it is.
    pub side: Side,
    /// What the link does, one after the other, after a clean phase; each with the seconds that are measured.
    phases: Vec<(&'static str, LinkProfile, u64)>,
    simulcast: bool,
}

impl Case {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let ms = Duration::from_millis;
        let delayed = |delay, jitter| LinkProfile { jitter: ms(jitter), ..LinkProfile::perfect(ms(delay)) };
        let lossy = |loss| LinkProfile { loss, ..delayed(25, 5) };
        let one = |name, words, profile| (name, words, vec![("bad", profile, BAD_SECONDS)], false);
        let kinds = [
            one("loss-2", "2% lost", lossy(0.02)),
            one("loss-5", "5% lost", lossy(0.05)),
            one("loss-10", "10% lost", lossy(0.1)),
            one("loss-5-50ms", "5% lost, 50 ms each way", LinkProfile { loss: 0.05, ..delayed(50, 10) }),
            one("loss-5-100ms", "5% lost, 100 ms each way", LinkProfile { loss: 0.05, ..delayed(100, 10) }),
            one("bursts", "5% lost, 6 in a row", LinkProfile { loss_run: 6.0, ..lossy(0.05) }),
            one("delay-50", "50 ms each way, 10 ms jitter", delayed(50, 10)),
            one("delay-100", "100 ms each way, 20 ms jitter", delayed(100, 20)),
            one("delay-200", "200 ms each way, 40 ms jitter", delayed(200, 40)),
            one(
                "reorder",
                "10% up to 30 ms late",
                LinkProfile { reorder: 0.1, reorder_delay: ms(30), ..delayed(25, 5) },
            ),
            one("duplicate", "10% twice", LinkProfile { duplication: 0.1, ..delayed(25, 5) }),
            (
                "falling",
                "3, then 0.5, then 3 Mbit/s",
                vec![
                    ("wide", limited(3000), 8),
                    ("narrow", limited(500), 20),
                    ("wide-again", limited(3000), 25),
                ],
                true,
            ),
        ];
        [(Side::Publisher, "up"), (Side::Subscriber, "down")]
            .into_iter()
            .flat_map(|(side, way)| {
                kinds.iter().map(move |(name, words, phases, simulcast)| Self {
                    name: format!("{way}-{name}"),
                    words,
                    side,
                    phases: phases.clone(),
                    simulcast: *simulcast,
                })
            })
            .collect()
    }

    /// The one of this name.
    pub fn named(name: &str) -> Result<Self> {
        let known = || Self::all().into_iter().map(|case| case.name).collect::<Vec<_>>().join(" ");
        Self::all()
            .into_iter()
            .find(|case| case.name == name)
            .with_context(|| format!("no case `{name}`; there are: {}", known()))
    }

    /// A viewer's link that falls and stays narrow, for a test: the beginning of `down-falling`.
    #[must_use]
    pub fn fall() -> Self {
        Self {
            name: "down-fall".to_owned(),
            words: "3, then 0.5 Mbit/s",
            side: Side::Subscriber,
            phases: vec![("wide", limited(3000), 3), ("narrow", limited(500), 8)],
            simulcast: true,
        }
    }

    /// What it is, for a table.
    #[must_use]
    pub fn title(&self) -> String {
        let side = match self.side {
            Side::Publisher => "publisher",
            Side::Subscriber => "subscriber",
        };
        format!("{side}: {}", self.words)
    }

    /// The names of its phases after the clean one.
    pub fn phases(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.phases.iter().map(|(name, ..)| *name)
    }

    /// Runs it with a server and browsers of its own, in about half a minute a call, and in no case much more; what they
    /// measured, by call and phase (`clean`, `bad`, …).
    pub fn run(&self, calls: &[Call]) -> Result<Value> {
        let network = Network::with_links(2, SEED)?;
        let server = Server::options().in_network(&network).start()?;
        let folder = tempfile::tempdir()?;
        let clean = ("clean", LinkProfile::default(), CLEAN_SECONDS);
        let phases: Vec<_> = std::iter::once(&clean).chain(&self.phases).collect();
        let link = &network.links()[usize::from(self.side == Side::Subscriber)];
        let profiles =
            phases.iter().map(|(name, profile, _)| ((*name).to_owned(), LinkProfiles::both(*profile)));
        let control = link.control(folder.path(), profiles.collect())?;
        let namespaces: Vec<&str> = network.clients().iter().map(|client| client.name()).collect();
        let told: Vec<_> =
            phases.iter().map(|(name, _, seconds)| json!({ "name": name, "seconds": seconds })).collect();
        let args = json!({
            "netns": namespaces, "link": control.path(), "phases": told, "settle": SETTLE_SECONDS,
            "simulcast": self.simulcast, "calls": calls.iter().map(|call| call.name()).collect::<Vec<_>>(),
        });
        let measured: u64 = phases.iter().map(|(.., seconds)| seconds + SETTLE_SECONDS).sum();
        let deadline = (OVERHEAD + Duration::from_secs(measured)) * u32::try_from(calls.len().max(1))?;
        run_scenario("loss", &server, &args, deadline)
    }
}
