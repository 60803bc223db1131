//! What operators rely on by name: the command line's help and the metrics. A change shows as a difference to the files in
//! `golden/`; `TUREEN_TEST_RENEW_GOLDEN=1` writes them anew, and the commit then shows what users will see.

#[expect(dead_code, reason = "the tests of the gateway say more to a server than these")]
#[path = "gateway/client.rs"]
mod client;
#[expect(dead_code, reason = "the tests of the gateway ask more of a server than these")]
#[path = "gateway/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use client::{Client, refused};
use serde_json::json;
use server::{Server, eventually};

/// Compares with the file of this name, or writes it.
fn check(name: &str, actual: &str) -> Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("TUREEN_TEST_RENEW_GOLDEN").is_some() {
        return Ok(std::fs::write(path, actual)?);
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected != actual {
        bail!(
            "{name} has changed; if that is meant, renew it: TUREEN_TEST_RENEW_GOLDEN=1 cargo nextest run -p tureen --test golden\n{}",
            difference(&expected, actual)
        );
    }
    Ok(())
}

/// Lines that went (`-`) and came (`+`), in order, by the longest common subsequence.
fn difference(before: &str, after: &str) -> String {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut longest = vec![vec![0_usize; after.len() + 1]; before.len() + 1];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            longest[i][j] = if before[i] == after[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == after.len() || i < before.len() && longest[i + 1][j] >= longest[i][j + 1] {
            lines.push(format!("- {}", before[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", after[j]));
            j += 1;
        }
    }
    lines.join("\n")
}

#[test]
fn a_difference_names_what_went_and_what_came() {
    assert_eq!(difference("a\nb\nc\n", "a\nx\nc\nd\n"), "- b\n+ x\n+ d");
    assert_eq!(difference("a\n", "a\n"), "");
}

#[test]
fn help_is_as_written_down() -> Result<()> {
    for (name, arguments) in [("help.txt", &["--help"][..]), ("serve-help.txt", &["serve", "--help"])] {
        // Settings in the environment are shown beside their flags.
        let output = Command::new(env!("CARGO_BIN_EXE_tureen")).args(arguments).env_clear().output()?;
        assert!(output.status.success() && output.stderr.is_empty());
        check(name, &String::from_utf8(output.stdout)?)?;
    }
    Ok(())
}

/// Every metric that there is, with its type, and what the workers count: after a session that meets each at least once.
#[tokio::test]
async fn metrics_are_as_written_down() -> Result<()> {
    let limits = [("TUREEN_LIMITS__TRANSPORTS_PER_WORKER", "1")];
    let server = Server::start(&[], &limits).await?;
    assert_eq!(refused(&server, "/?roomId=r&peerId=p", Some("chat")).await?, 403);
    let mut ann = Client::connect(&server, "r", "ann").await?;
    ann.transport(true).await?;
    let full = ann.transport(false).await.expect_err("the worker is full").to_string();
    assert!(full.starts_with("503") && full.contains("its limit of 1 transports"), "{full}");
    ann.ask("nonsense", json!({})).await.expect_err("no such method");
    let again = Client::connect(&server, "r", "ann").await?;
    assert_eq!(ann.closed().await?, 4000);
    again.close().await?;
    let names = || async {
        let metrics = server.metrics().await?;
        let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let counted = metrics.lines().filter(|line| line.starts_with("tureen_worker_"));
        let counted = counted.filter_map(|line| {
            let (name, labels) = line.split_once('{')?;
            let label = labels.split(',').find(|label| !label.starts_with("worker="))?;
            Some(format!("{name}{{{}}}", label.split('}').next()?))
        });
        Ok::<BTreeSet<String>, anyhow::Error>(types.map(str::to_owned).chain(counted).collect())
    };
    // Workers write their counters once a second; who left is noticed a little later.
    eventually("all have been counted", || async {
        let names = names().await?;
        let has = |part: &str| names.iter().any(|name| name.starts_with(part));
        Ok(has("tureen_worker_events_total{") && has("tureen_signaling_sessions_ended_total"))
    })
    .await?;
    let all: Vec<String> = names().await?.into_iter().collect();
    check("metrics.txt", &format!("{}\n", all.join("\n"))).context("names of metrics")
}
