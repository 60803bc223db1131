//! Hostile datagrams at a worker's port while others talk: nothing dies, nobody notices, everything is counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use bench::endpoint::Identity;
use bench::hostile::insider::{Insider, Streams, templates, vandalized_handshake};
use bench::hostile::mutate::Mutator;
use bench::hostile::outsider::{Account, Outsiders};
use bench::party::Party;
use bench::router::{Media, Router};
use rtc::srtp::Profile;

use crate::support::{Call, PATIENCE, Publisher, Subscriber, VIDEO, seed, worker};

const GCM: Profile = Profile::AeadAes128Gcm;

/// A call, and what is done to its worker meanwhile. The call must come out of it whole.
fn under_attack<T>(
    counters: &Path,
    attack: impl FnOnce(&mut Router, &BTreeMap<String, u64>) -> Result<T>,
) -> Result<(T, BTreeMap<String, u64>)> {
    let path = counters.to_string_lossy();
    let mut call = Call::new(worker(&[("TUREEN_WORKER_COUNTERS", &path)])?, GCM)?;
    let pid = call.router.worker.pid();
    let mut bystanders = [call.subscribe(GCM, 100_000, true)?];
    call.publisher.exchange(&mut bystanders)?;

    let stop = AtomicBool::new(false);
    let Call { mut router, mut publisher, .. } = call;
    let before = read_counters(counters);
    let outcome = thread::scope(|scope| {
        let talk = scope.spawn(|| publisher.talk(&mut bystanders, &stop));
        let outcome = attack(&mut router, &before);
        stop.store(true, Ordering::Release);
        talk.join().map_err(|_| anyhow!("the call panicked"))??;
        outcome
    })?;
    assert!(router.worker.is_alive() && router.worker.pid() == pid);
    assert!(publisher.sent[0].len() > 60, "the call went on meanwhile");
    bystanders[0].check(&publisher.sent);
    let after = settled_counters(counters, &mut publisher, &mut bystanders)?;
    Ok((outcome, after))
}

fn read_counters(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// The counters once they tell of a packet that was sent after the attack.
fn settled_counters(
    path: &Path,
    publisher: &mut Publisher,
    bystanders: &mut [Subscriber],
) -> Result<BTreeMap<String, u64>> {
    publisher.exchange(bystanders)?;
    let forwarded = bystanders[0].party.received.len() as u64;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counters = read_counters(path);
        if counters.get("rtp_forwarded").is_some_and(|&count| count >= forwarded) {
            return Ok(counters);
        }
        anyhow::ensure!(Instant::now() < deadline, "the counters file tells nothing new: {counters:?}");
        // The file is written once a second; meanwhile the call is kept alive.
        publisher.party.serve_until(Instant::now() + Duration::from_millis(20))?;
    }
}

fn assert_risen(counters: &BTreeMap<String, u64>, names: &[&str]) {
    for name in names {
        assert!(counters.get(*name).is_some_and(|&count| count > 0), "{name} has not risen: {counters:#?}");
    }
}

#[test]
fn outsiders_are_counted_and_never_answered_with_more_than_they_sent() -> Result<()> {
    let seed = seed(2);
    let directory = tempfile::tempdir()?;
    let (account, counters) = under_attack(&directory.path().join("counters"), |router, _| {
        let identity = Identity::new(&[GCM])?;
        let remote = router.web_rtc_transport()?;
        router.connect_web_rtc(&remote.id, identity.fingerprint())?;
        let mut party = Party::new(&identity, &remote)?;
        party.endpoint.record();
        party.handshake()?;
        let mut outsiders = Outsiders::new(&remote, templates(&mut party, VIDEO)?, seed)?;
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            outsiders.round()?;
        }
        Ok::<Account, anyhow::Error>(outsiders.account())
    })?;
    assert!(account.datagrams_out > 1_000 && account.datagrams_in > 0, "{account:?}");
    assert!(account.bytes_in <= account.bytes_out, "{account:?}");
    assert_risen(&counters, &["stun_malformed", "stun_unknown_username", "stun_refused", "stray_datagrams"]);
    Ok(())
}

#[test]
fn insiders_harm_nobody_but_themselves() -> Result<()> {
    let seed = seed(3);
    let directory = tempfile::tempdir()?;
    let ((), counters) = under_attack(&directory.path().join("counters"), |router, _| {
        let mut mutator = Mutator::new(seed);
        let identity = Identity::new(&[GCM, Profile::AesCm128HmacSha1_80])?;
        for _ in 0..8 {
            let remote = router.web_rtc_transport()?;
            router.connect_web_rtc(&remote.id, identity.fingerprint())?;
            vandalized_handshake(&identity, &remote, &mut mutator)?;
        }
        let remote = router.web_rtc_transport()?;
        router.connect_web_rtc(&remote.id, identity.fingerprint())?;
        let mut party = Party::new(&identity, &remote)?;
        party.handshake()?;
        let own = Streams { producer: 7_000, consumer: 7_100 };
        let producer = router.produce(&remote.id, Media::Video, own.producer, Some(own.producer + 1))?;
        router.produce(&remote.id, Media::Audio, 7_010, None)?;
        router.consume(
            &remote.id,
            &producer,
            Media::Video,
            own.producer,
            own.consumer,
            Some(own.consumer + 1),
        )?;
        let mut insider = Insider::new(party, &remote, own, seed)?;
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            insider.round()?;
        }
        insider.nack_storm(200)
    })?;
    assert_risen(
        &counters,
        &[
            "dtls_errors",
            "early_media",
            "rtp_malformed",
            "rtp_no_producer",
            "rtcp_malformed",
            "rtcp_unknown_ssrc",
        ],
    );
    Ok(())
}

#[test]
fn ten_thousand_picture_losses_reach_the_publisher_as_a_few() -> Result<()> {
    let mut call = Call::new(worker(&[])?, GCM)?;
    let identity = Identity::new(&[GCM])?;
    let remote = call.router.web_rtc_transport()?;
    call.router.connect_web_rtc(&remote.id, identity.fingerprint())?;
    let mut party = Party::new(&identity, &remote)?;
    party.handshake()?;
    let consumer = 9_000;
    call.consume_video(&remote.id, consumer)?;
    call.publisher.exchange(&mut [])?;
    // The publisher never answers: the worst that it can be asked for is a key frame an interval.
    let publisher = &mut call.publisher.party;
    let start = Instant::now();
    let mut insider = Insider::new(party, &remote, Streams { producer: 0, consumer }, seed(4))?;
    insider.key_frame_storm(10_000)?;
    // All requests have been read; what they caused is on its way or here.
    publisher.serve_until(Instant::now() + Duration::from_millis(100))?;
    let intervals = start.elapsed().as_secs() + 1;
    let requests = publisher.endpoint.key_frame_request_count();
    assert!(requests > 0, "the receiver is heard");
    assert!(requests <= 1 + intervals, "{requests} key frame requests in {intervals} intervals of a second");
    Ok(())
}
