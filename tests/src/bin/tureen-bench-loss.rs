//! `cargo xtask bench loss [--case NAME]…`: calls of real browsers over bad links, as a table in Markdown. Each case
//! runs through a server of its own and, for comparison, straight from browser to browser over the same link.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tests::loss::Case;

fn main() -> Result<()> {
    let cases = cases(std::env::args().skip(1))?;
    println!(
        "| case | call | frames/s, clean → bad | freezes | frozen ms | longest gap ms | sound concealed | kbit/s | \
         NACKs up / down | PLIs up / down |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut failed = Vec::new();
    for case in cases {
        match case.run(&json!({})) {
            Ok(measured) => {
                for call in ["server", "direct"] {
                    for line in rows(&case, call, &measured[call]) {
                        println!("{line}");
                    }
                }
            }
            Err(error) => {
                println!(
                    "| {} | failed | {} |",
                    case.name,
                    error.to_string().lines().next().unwrap_or_default()
                );
                eprintln!("{error:#}");
                failed.push(case.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("cases that failed: {}", failed.join(" "));
    }
    Ok(())
}

/// A row for each phase but the clean one.
fn rows(case: &Case, call: &str, measured: &Value) -> Vec<String> {
    let clean = &measured["clean"];
    case.phases()
        .map(|phase| {
            let bad = &measured[phase];
            let title = if phase == "bad" { case.title() } else { format!("{}: {phase}", case.title()) };
            format!(
                "| {title} | {call} | {} → {} | {} | {} | {} | {:.1}% | {} | {} / {} | {} / {} |",
                clean["fps"],
                bad["fps"],
                bad["freezes"],
                bad["frozenMs"],
                bad["longestGapMs"],
                bad["concealed"].as_f64().unwrap_or(f64::NAN) * 100.0,
                bad["kbit"],
                bad["nacksUp"],
                bad["nacksDown"],
                bad["plisUp"],
                bad["plisDown"],
            )
        })
        .collect()
}

fn cases(mut arguments: impl Iterator<Item = String>) -> Result<Vec<Case>> {
    let mut named = Vec::new();
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--case", Some(name)) => named.push(Case::named(&name)?),
            _ => bail!("`{argument}`: only --case NAME is understood, any number of times"),
        }
    }
    Ok(if named.is_empty() { Case::all() } else { named })
}
