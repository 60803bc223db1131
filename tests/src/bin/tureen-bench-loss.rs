//! `cargo xtask bench loss [--case NAME]… [--minutes N] [--direct]`: calls of real browsers over bad links, as a table in
//! Markdown on stdout, a row as soon as it is measured; progress goes to stderr.
//!
//! Each case runs through a server of its own. Then, while time is left, the same browsers call each other directly over
//! the same link, beginning with those cases in which the picture froze the longest: what is worse through the server, the
//! server adds. `--direct` does that for every case, however long it takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::loss::{Call, Case};

/// What a call takes that has one bad phase; the falling link takes twice that.
const USUAL: Duration = Duration::from_secs(35);
/// How long the whole may take, where nothing else is said.
const DEFAULT_MINUTES: u64 = 18;

fn main() -> Result<()> {
    let Options { cases, minutes, direct } = Options::parse(std::env::args().skip(1))?;
    let started = Instant::now();
    let end = started + Duration::from_secs(60 * minutes);
    println!(
        "| case | call | frames/s, clean → bad | smooth after ms | full rate after ms | freezes | frozen ms | \
         longest gap ms | sound concealed | kbit/s | width | NACKs up / down | PLIs up / down |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut failed = Vec::new();
    let mut froze = Vec::new();
    let count = cases.len();
    for (index, case) in cases.into_iter().enumerate() {
        if Instant::now() + USUAL > end && !direct {
            bail!("{} of {count} cases are not measured: give more --minutes", count - index);
        }
        eprintln!("{} of {count} after {} s: {}", index + 1, started.elapsed().as_secs(), case.name);
        match measure(&case, Call::Server) {
            Ok(measured) => froze.push((frozen_ms(&case, &measured), case)),
            Err(error) => {
                eprintln!("{error:#}");
                failed.push(case.name);
            }
        }
    }
    froze.sort_by_key(|(ms, _)| std::cmp::Reverse(*ms));
    for (index, (_, case)) in froze.iter().enumerate() {
        let length = if case.phases().count() > 1 { USUAL * 2 } else { USUAL };
        if Instant::now() + length > end && !direct {
            eprintln!("time is over: {} cases are without a direct call", froze.len() - index);
            break;
        }
        eprintln!("directly, after {} s: {}", started.elapsed().as_secs(), case.name);
        if let Err(error) = measure(case, Call::Direct) {
            eprintln!("{error:#}");
            failed.push(format!("{} (direct)", case.name));
        }
    }
    if !failed.is_empty() {
        bail!("cases that failed: {}", failed.join(" "));
    }
    Ok(())
}

/// Runs a call and prints its rows.
fn measure(case: &Case, call: Call) -> Result<Value> {
    match case.run(&[call]) {
        Ok(mut measured) => {
            let measured = measured[call.name()].take();
            rows(case, call, &measured).iter().for_each(|row| println!("{row}"));
            Ok(measured)
        }
        Err(error) => {
            println!("| {} | {} | failed |", case.title(), call.name());
            Err(error)
        }
    }
}

/// A row for each phase but the clean one.
fn rows(case: &Case, call: Call, measured: &Value) -> Vec<String> {
    let clean = &measured["clean"];
    let row = |phase: &str| {
        let bad = &measured[phase];
        let title = if phase == "bad" { case.title() } else { format!("{}: {phase}", case.title()) };
        let or_never = |name: &str| bad[name].as_f64().map_or("never".to_owned(), |ms| format!("{ms:.0}"));
        format!(
            "| {title} | {} | {} → {} | {} | {} | {} | {} | {} | {:.1}% | {} | {} | {} / {} | {} / {} |",
            call.name(),
            clean["fps"],
            bad["fps"],
            or_never("smoothAfterMs"),
            or_never("fullAfterMs"),
            bad["freezes"],
            bad["frozenMs"],
            bad["longestGapMs"],
            bad["concealed"].as_f64().unwrap_or(f64::NAN) * 100.0,
            bad["kbit"],
            bad["width"],
            bad["nacksUp"],
            bad["nacksDown"],
            bad["plisUp"],
            bad["plisDown"],
        )
    };
    case.phases().map(row).collect()
}

/// How long the picture stood still, over all phases.
fn frozen_ms(case: &Case, measured: &Value) -> u64 {
    case.phases().filter_map(|phase| measured[phase]["frozenMs"].as_u64()).sum()
}

struct Options {
    cases: Vec<Case>,
    minutes: u64,
    direct: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { cases: Vec::new(), minutes: DEFAULT_MINUTES, direct: false };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} wants a value"));
            match argument.as_str() {
                "--case" => options.cases.push(Case::named(&value()?)?),
                "--minutes" => options.minutes = value()?.parse().context("--minutes wants a number")?,
                "--direct" => options.direct = true,
                _ => bail!("`{argument}`: only --case NAME, --minutes N and --direct are understood"),
            }
        }
        if options.cases.is_empty() {
            options.cases = Case::all();
        }
        Ok(options)
    }
}
