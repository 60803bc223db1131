//! What an operator asks of a cluster from outside: its nodes, nginx's servers, goodbye for one that died.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Cluster, tureen};

fn ask(words: &[&str]) -> Result<Output> {
    Ok(Command::new(tureen()?).args(words).output()?)
}

/// The states of a cluster's nodes, by their names.
fn states(redis: &str) -> Result<BTreeMap<String, String>> {
    let listed = ask(&["nodes", "list", "--redis", redis, "--output", "json"])?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let nodes: Vec<Value> = serde_json::from_slice(&listed.stdout)?;
    let text = |node: &Value, field: &str| node[field].as_str().map(str::to_owned);
    nodes
        .iter()
        .map(|node| text(node, "id").zip(text(node, "state")).context("a node without name"))
        .collect()
}

#[test]
fn nodes_are_listed_found_by_nginx_and_forgotten() -> Result<()> {
    let mut cluster = Cluster::start(2, 1)?;
    let redis = cluster.redis.url();
    let live = ["m1", "s1", "s2"].map(|name| (name.to_owned(), "live".to_owned()));
    ensure!(states(&redis)? == BTreeMap::from(live), "{:?}", states(&redis)?);
    let table = ask(&["nodes", "list", "--redis", &redis])?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(table.lines().count() == 4 && table.starts_with("NODE"), "{table}");

    let printed = ask(&["config", "nginx", "--redis", &redis])?;
    let printed = String::from_utf8(printed.stdout)?;
    for name in ["s1", "s2"] {
        let server = format!("    server {} ", cluster.node(name).authority());
        ensure!(printed.matches(&server).count() == 1, "{server} in {printed}");
    }
    ensure!(printed.matches("    server 127").count() == 2, "{printed}");
    let elsewhere = ask(&["config", "nginx", "--redis", &redis, "--region", "moon"])?;
    ensure!(!elsewhere.status.success() && elsewhere.stdout.is_empty(), "{elsewhere:?}");

    cluster.kill("m1")?;
    let early = ask(&["nodes", "forget", "m1", "--redis", &redis])?;
    ensure!(String::from_utf8_lossy(&early.stderr).contains("--force"), "{early:?}");
    ensure!(!early.status.success() && states(&redis)?["m1"] == "live");
    let unknown = ask(&["nodes", "forget", "m9", "--redis", &redis])?;
    ensure!(!unknown.status.success(), "{unknown:?}");
    let forced = ask(&["nodes", "forget", "m1", "--redis", &redis, "--force"])?;
    ensure!(forced.status.success() && states(&redis)?["m1"] == "gone", "{forced:?}");
    Ok(())
}
