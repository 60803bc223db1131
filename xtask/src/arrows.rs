//! The arrows between the workspace's crates: who may depend on whom. An arrow that is not listed here is refused, so
//! that a new one is a decision and not an accident.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::workspace;

/// What each crate may use. rtc, net, ortc and worker-protocol know no sibling; worker and media meet only in
/// worker-protocol.
const ARROWS: &[(&str, &[&str])] = &[
    ("rtc", &[]),
    ("net", &[]),
    ("ortc", &[]),
    ("worker-protocol", &[]),
    ("worker", &["rtc", "net", "worker-protocol"]),
    ("media", &["ortc", "worker-protocol"]),
    ("room", &["ortc"]),
    ("cluster", &["room"]),
    ("store", &["cluster", "room"]),
    ("host", &["room", "media", "ortc", "token"]),
    ("links", &["cluster", "host", "room"]),
    ("node", &["cluster", "store", "links", "host", "room", "token"]),
    ("token", &["room"]),
    ("signaling", &["room", "host", "node", "ortc", "token"]),
    ("tureen", &["cluster", "host", "links", "media", "node", "ortc", "room", "signaling", "store", "token"]),
    ("bench", &["rtc", "net", "worker-protocol", "ortc"]),
    ("testkit", &["rtc"]),
    ("tests", &["bench", "media", "ortc", "rtc", "testkit"]),
    ("fuzz", &["rtc", "net", "worker", "worker-protocol", "ortc", "signaling", "token"]),
    ("xtask", &[]),
];

/// What a crate's tests may use beyond that. `testkit` is allowed to all of them and to nobody's shipped code.
const DEV_ARROWS: &[(&str, &[&str])] = &[
    // The DTLS tests drive BoringSSL's timers, whose shim is in net.
    ("rtc", &["net"]),
    // The messages between nodes hold its types: a test carries one of each.
    ("links", &["ortc"]),
    // One speaks to a node as another node would.
    ("tests", &["cluster", "links", "room"]),
];

/// Checks every dependency between siblings, and that every crate is listed.
pub(crate) fn check() -> Result<()> {
    let wrong = violations(&workspace::metadata()?);
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}\nthe arrows that are allowed are in xtask/src/arrows.rs", wrong.join("\n"))
}

fn violations(metadata: &Value) -> Vec<String> {
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let siblings: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = listed(ARROWS, name) else {
            wrong.push(format!("{name} is not in the list of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            if !siblings.contains(used) || allowed.contains(&used) {
                continue;
            }
            let dev = dependency["kind"].as_str() == Some("dev");
            let dev_allowed =
                used == "testkit" || listed(DEV_ARROWS, name).is_some_and(|more| more.contains(&used));
            if !(dev && dev_allowed) {
                let kind = if dev { "tests of " } else { "" };
                wrong.push(format!("{kind}{name} must not depend on {used}"));
            }
        }
    }
    wrong
}

fn listed<'a>(list: &[(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    list.iter().find(|(listed, _)| *listed == name).map(|(_, arrows)| *arrows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Dependencies<'a> = &'a [(&'a str, Option<&'a str>)];

    fn workspace_of(packages: &[(&str, Dependencies<'_>)]) -> Value {
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, dependencies)| {
                let dependencies: Vec<Value> =
                    dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
                json!({ "name": name, "dependencies": dependencies })
            })
            .collect();
        json!({ "packages": packages })
    }

    #[test]
    fn this_workspace_keeps_to_the_arrows() {
        check().expect("every arrow is allowed");
    }

    #[test]
    fn an_arrow_against_the_grain_is_refused() {
        let metadata = workspace_of(&[("rtc", &[("net", None), ("thiserror", None)]), ("net", &[])]);
        assert_eq!(violations(&metadata), ["rtc must not depend on net"]);
    }

    #[test]
    fn testkit_serves_tests_only() {
        let metadata = workspace_of(&[
            ("room", &[("testkit", Some("dev"))]),
            ("host", &[("testkit", None)]),
            ("testkit", &[]),
        ]);
        assert_eq!(violations(&metadata), ["host must not depend on testkit"]);
    }

    #[test]
    fn an_unlisted_crate_is_told() {
        let metadata = workspace_of(&[("newcomer", &[])]);
        assert_eq!(violations(&metadata), ["newcomer is not in the list of arrows"]);
    }
}
