//! A case for each browser scenario of tests/browser.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tests::{Network, Server, run_scenario, run_scenario_in};

/// Names of scenarios with a case below, or in another module beside this one.
const CASES: &[&str] = &[
    "broadcast",
    "call",
    "codec",
    "data",
    "drain",
    "firefox",
    "four",
    "join-time",
    "loss",
    "mediasoup",
    "signal-kill",
    "nodes",
    "regions",
    "simulcast",
    "tcp",
    "udp-drop",
    "viewer",
    "worker-kill",
    "wrtc",
];

#[test]
fn chromium_data_channels_reach_each_other() -> Result<()> {
    let server = Server::start()?;
    run_scenario("data", &server, &json!({}), minutes(3))?;
    Ok(())
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

/// What `cargo xtask bench` runs to record its input: no test.
const RECORDERS: &[&str] = &["record-video"];

#[test]
fn every_scenario_has_a_case() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    let mut scenarios = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        scenarios.extend(name.strip_suffix(".mjs").map(str::to_owned));
    }
    let known = CASES.iter().chain(RECORDERS).map(|name| (*name).to_owned()).collect();
    assert_eq!(scenarios, known);
    Ok(())
}

#[test]
fn two_people_see_and_hear_each_other() -> Result<()> {
    let server = Server::start()?;
    run_scenario("call", &server, &json!({}), minutes(5))?;
    Ok(())
}

#[test]
fn ffmpeg_comes_as_a_broadcaster_and_the_page_shows_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = folder.path().join("tureen.toml");
    std::fs::write(&settings, "[limits.session]\nbroadcaster_silence_ms = 3000\n")?;
    let server = Server::options().set("--config", &settings).start()?;
    run_scenario("broadcast", &server, &json!({ "silenceMs": 3000 }), minutes(3))?;
    Ok(())
}

#[test]
fn four_people_see_and_hear_all_others() -> Result<()> {
    let server = Server::start()?;
    run_scenario("four", &server, &json!({}), minutes(4))?;
    Ok(())
}

#[test]
fn a_client_that_negotiates_aes_cm_calls_chromium() -> Result<()> {
    let server = Server::start()?;
    run_scenario("wrtc", &server, &json!({}), minutes(3))?;
    Ok(())
}

/// Firefox pairs no candidate with one on loopback, so both get namespaces.
#[test]
fn firefox_and_chromium_call_each_other() -> Result<()> {
    let network = Network::new(2)?;
    let server = Server::options().in_network(&network).start()?;
    let [firefox, chromium] = network.clients() else { unreachable!("two were asked for") };
    let args = json!({ "netns": [null, chromium.name()] });
    run_scenario_in(firefox, "firefox", &server, &args, minutes(3))?;
    Ok(())
}

#[test]
fn simulcast_layers_arrive_as_asked_for() -> Result<()> {
    let server = Server::start()?;
    run_scenario("simulcast", &server, &json!({}), minutes(4))?;
    Ok(())
}

#[test]
fn first_frame_comes_soon_after_the_websocket_opens() -> Result<()> {
    let server = Server::start()?;
    run_scenario("join-time", &server, &json!({ "joins": 20 }), minutes(5))?;
    Ok(())
}

#[test]
fn a_call_returns_after_ten_seconds_without_udp() -> Result<()> {
    let network = Network::new(2)?;
    let server = Server::options().in_network(&network).start()?;
    let clients: Vec<&str> = network.clients().iter().map(|client| client.name()).collect();
    run_scenario("udp-drop", &server, &json!({ "netns": clients, "seconds": 10 }), minutes(4))?;
    Ok(())
}

#[test]
fn a_call_without_udp_goes_over_tcp_by_itself() -> Result<()> {
    let network = Network::new(2)?;
    let server = Server::options().in_network(&network).start()?;
    let clients: Vec<&str> = network.clients().iter().map(|client| client.name()).collect();
    run_scenario("tcp", &server, &json!({ "netns": clients }), minutes(2))?;
    Ok(())
}

/// Eight workers, because a worker that is killed five times in a minute is, rightly, left alone for a while.
#[test]
fn a_killed_worker_s_calls_return_within_two_seconds() -> Result<()> {
    const WORKERS: usize = 8;
    let server = Server::options().set("--workers", WORKERS.to_string()).start()?;
    assert_eq!(server.workers()?.len(), WORKERS);
    let args = json!({ "serverPid": server.pid(), "runs": 20, "limitMs": 2000 });
    run_scenario("worker-kill", &server, &args, minutes(6))?;
    let killed = server.log().iter().filter(|line| line.contains("a media worker died")).count();
    assert_eq!(killed, 20, "each kill is told once");
    Ok(())
}
