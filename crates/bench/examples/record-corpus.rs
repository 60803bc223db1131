//! Records the corpus anew: `cargo run --package bench --example record-corpus -- TUREEN-WORKER DIRECTORY [SEED]`.
//!
//! Templates are what a real peer sends to a real worker, and a driver to its worker; mutants are damage done to them.
//! Keys and random numbers differ from recording to recording: what is committed is one of them.

use std::path::Path;

use anyhow::{Context, Result};
use bench::channel::Worker;
use bench::endpoint::Identity;
use bench::hostile::channel::Requests;
use bench::hostile::mutate::Mutator;
use bench::hostile::{insider, messages};
use bench::party::Party;
use bench::router::{Media, Router};
use rtc::srtp::Profile;
use rtc::stun::{Class, IntegrityKey, Method, StunBuilder};

/// Longer files are left out: the corpus is looked at by people too.
const MAX_BYTES: usize = 900;
/// Mutants of each kind.
const MUTANTS: usize = 8;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: record-corpus TUREEN-WORKER DIRECTORY [SEED]";
    let (worker, directory) = (arguments.next().context(usage)?, arguments.next().context(usage)?);
    let seed = arguments.next().map_or(Ok(1), |seed| seed.parse()).context("the seed is a number")?;
    let mut mutator = Mutator::new(seed);

    let mut requests = Requests::default();
    let mut router = Router::new(Worker::spawn(Path::new(&worker), &["--logLevel=none"], &[])?, true)?;
    requests.learn(router.worker.last_request());
    let identity = Identity::new(&Profile::PREFERENCE)?;
    let remote = router.web_rtc_transport()?;
    requests.learn(router.worker.last_request());
    router.connect_web_rtc(&remote.id, identity.fingerprint())?;
    requests.learn(router.worker.last_request());
    let producer = router.produce(&remote.id, Media::Audio, 1_000, None)?;
    requests.learn(router.worker.last_request());
    router.consume(&remote.id, &producer, Media::Audio, 1_000, 2_000, None)?;
    requests.learn(router.worker.last_request());
    let mut party = Party::new(&identity, &remote)?;
    party.endpoint.record();
    party.handshake()?;
    let mut templates = insider::templates(&mut party, 1_000)?;
    templates.stun.truncate(1);
    templates.stun.extend(more_stun());

    let protoo: Vec<Vec<u8>> =
        messages::templates().iter().map(|value| value.to_string().into_bytes()).collect();
    let channel: Vec<Vec<u8>> = requests.templates().to_vec();
    for (kind, templates) in [
        ("stun", templates.stun),
        ("dtls", templates.dtls),
        ("rtp", templates.rtp),
        ("rtcp", templates.rtcp),
        ("protoo", protoo),
        ("channel", channel),
    ] {
        let directory = Path::new(&directory).join(kind);
        std::fs::create_dir_all(&directory)?;
        let short: Vec<_> = templates.into_iter().filter(|bytes| bytes.len() <= MAX_BYTES).take(8).collect();
        for (i, bytes) in short.iter().enumerate() {
            std::fs::write(directory.join(format!("valid-{i}")), bytes)?;
        }
        for i in 0..MUTANTS {
            let Some(template) = mutator.pick(&short).cloned() else { break };
            std::fs::write(directory.join(format!("mutant-{i}")), mutator.mutate(&template))?;
        }
    }
    Ok(())
}

/// STUN of the kinds that a peer of a lite server does not send by itself.
fn more_stun() -> Vec<Vec<u8>> {
    let key = IntegrityKey::new("password");
    let write = |class, build: &dyn for<'b> Fn(StunBuilder<'b>) -> StunBuilder<'b>, key| {
        let mut out = vec![0; 256];
        let builder = StunBuilder::new(&mut out, class, Method::BINDING, &[7; 12]);
        let len = build(builder).finish(key).unwrap_or(0);
        out.truncate(len);
        out
    };
    let address = |text: &str| text.parse().expect("an address of the documentation ranges");
    let (v4, v6) = (address("192.0.2.1:5000"), address("[2001:db8::1]:5000"));
    vec![
        write(Class::Request, &|b| b.username("fragment", "other").nomination(3).priority(1), Some(&key)),
        write(Class::Request, &|b| b.ice_controlled(9).username("fragment", "x").priority(1), Some(&key)),
        write(Class::Request, &|b| b.software("nobody"), None),
        write(Class::Indication, &|b| b, None),
        write(Class::SuccessResponse, &|b| b.xor_mapped_address(v4), Some(&key)),
        write(Class::SuccessResponse, &|b| b.xor_mapped_address(v6), Some(&key)),
        write(Class::ErrorResponse, &|b| b.error_code(487, "role conflict"), Some(&key)),
    ]
}
