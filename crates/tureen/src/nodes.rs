//! `tureen nodes`, and nginx's servers from the live list: what the store says of a cluster, asked from outside of it.

use std::fmt::Write;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster::node::{Node, NodeId};
use serde::Serialize;
use store::{METRICS_LIFE, Member, Store};

use crate::cli::{NodesCommand, Output};
use crate::front::{self, NginxSettings};

/// Does what is asked for.
pub(crate) fn run(command: NodesCommand) -> Result<()> {
    match command {
        NodesCommand::List { redis, output } => {
            let members = asked(&redis, |store| async move { Ok(store.members().await?) })?;
            match output {
                Output::Table => print!("{}", table(&members)),
                Output::Json => {
                    let rows: Vec<Row<'_>> = members.iter().map(Row::new).collect();
                    println!("{}", serde_json::to_string_pretty(&rows)?);
                }
            }
            Ok(())
        }
        NodesCommand::Forget { name, redis, force } => asked(&redis, |store| forget(store, name, force)),
    }
}

/// Prints nginx's configuration, with the servers that are named and those that live.
pub(crate) fn nginx(mut settings: NginxSettings) -> Result<()> {
    if let Some(redis) = &settings.redis {
        let members = asked(redis, |store| async move { Ok(store.members().await?) })?;
        let wanted = |node: &Node| settings.region.as_ref().is_none_or(|region| node.region == *region);
        let live = members.iter().filter(|member| state(member) == State::Live && wanted(&member.node));
        let found: Vec<_> = live.filter_map(|member| member.node.clients).collect();
        if found.is_empty() && settings.upstreams.is_empty() {
            bail!("no signal node lives there: look with tureen nodes list, or name servers with --upstream");
        }
        for server in found.iter().filter(|server| server.ip().is_loopback()) {
            eprintln!(
                "warning: {server} is reached from its own machine only: give that node another --listen"
            );
        }
        settings.upstreams.extend(found.into_iter().map(Into::into));
    }
    print!("{}", front::nginx(&settings));
    Ok(())
}

async fn forget(store: Store, name: NodeId, force: bool) -> Result<()> {
    let members = store.members().await?;
    let member = members
        .iter()
        .find(|member| member.node.id == name)
        .with_context(|| format!("no node {name}: tureen nodes list says which there are"))?;
    match state(member) {
        State::Gone => eprintln!("{name} has said goodbye already"),
        State::Live if !force => bail!(
            "{name} was heard {} ago: end it, or say --force if its machine is lost",
            seconds(member.silent)
        ),
        State::Live | State::Silent => {
            store.deregister(&name, member.node.incarnation).await?;
            eprintln!("{name} counts no more; should it still live, it ends");
        }
    }
    Ok(())
}

/// Asks the store that a URL names. A command is over soon: it needs no more than this thread.
pub(crate) fn asked<T, F: Future<Output = Result<T>>>(
    url: &str,
    question: impl FnOnce(Store) -> F,
) -> Result<T> {
    // Its error never quotes the URL, which may hold a password.
    let settings = url.parse().context("--redis")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { question(Store::redis(settings).await.context("redis")?).await })
}

/// How the store sees a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It beats.
    Live,
    /// It missed five beats or more, and counts in majorities.
    Silent,
    /// It said goodbye.
    Gone,
}

pub(crate) fn state(member: &Member) -> State {
    match member.left {
        true => State::Gone,
        false if member.silent >= METRICS_LIFE => State::Silent,
        false => State::Live,
    }
}

/// A node as programs read it.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    node: &'a Node,
    load: &'a cluster::node::Load,
    counts: Option<&'a cluster::node::Counts>,
    state: State,
    silent_ms: u64,
}

impl<'a> Row<'a> {
    fn new(member: &'a Member) -> Self {
        Self {
            node: &member.node,
            load: &member.load,
            counts: member.counts.as_ref(),
            state: state(member),
            silent_ms: u64::try_from(member.silent.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn table(members: &[Member]) -> String {
    const HEAD: [&str; 9] = ["NODE", "REGION", "ROLES", "STATE", "HEARD", "LOAD", "ROOMS", "PEERS", "LINK"];
    let rows = members.iter().map(|member| {
        let Node { id, region, roles, link, draining, full, .. } = &member.node;
        let state = match state(member) {
            State::Live if *draining => "draining",
            State::Live if *full => "full",
            State::Live => "live",
            State::Silent => "silent",
            State::Gone => "gone",
        };
        let roles: Vec<&str> = [(roles.signal, "signal"), (roles.media, "media"), (roles.control, "control")]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
            .collect();
        let count = |of: fn(&cluster::node::Counts) -> u32| {
            member.counts.as_ref().map_or_else(|| "-".to_owned(), |counts| of(counts).to_string())
        };
        [
            id.to_string(),
            region.to_string(),
            roles.join(","),
            state.to_owned(),
            format!("{} ago", seconds(member.silent)),
            format!("{}%", member.load.highest() / 10),
            count(|counts| counts.rooms),
            count(|counts| counts.peers),
            link.to_string(),
        ]
    });
    let rows: Vec<[String; 9]> = std::iter::once(HEAD.map(str::to_owned)).chain(rows).collect();
    let widths = rows.iter().fold([0; 9], |mut widths, row| {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
        widths
    });
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}
