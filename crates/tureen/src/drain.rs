//! `tureen drain`: asks a node, by the store, to hand its rooms to others, and tells how far it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::node::NodeId;
use store::{Member, Store, StoreEvent};

use crate::cli::DrainArguments;
use crate::nodes::{State, asked, state};

/// Between two looks at the node's counters, which it writes every two seconds.
const LOOK: Duration = Duration::from_millis(250);
/// The request is a hint that may be lost: it is said again until the node has heard it.
const AGAIN: Duration = Duration::from_secs(1);
/// A node that has not heard it by then does not listen.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// How long after its deadline a node may take to say that it is empty.
const GRACE: Duration = Duration::from_secs(6);

/// Drains a node, or has it take rooms again.
pub(crate) fn run(arguments: DrainArguments) -> Result<()> {
    let DrainArguments { name, redis, deadline, cancel } = arguments;
    asked(&redis, |store| async move {
        let event = match cancel {
            true => StoreEvent::DrainCancelled(name.clone()),
            false => StoreEvent::Drain(name.clone(), deadline),
        };
        ensure!(
            find(&store, &name).await?.node.roles.media,
            "{name} runs no rooms: it can be ended as it is"
        );
        heard(&store, &name, &event, !cancel).await?;
        if cancel {
            eprintln!("{name} takes rooms again");
            return Ok(());
        }
        drained(&store, &name, deadline).await
    })
}

/// Says it until the node shows that it has heard.
async fn heard(store: &Store, name: &NodeId, event: &StoreEvent, draining: bool) -> Result<()> {
    let begun = Instant::now();
    let mut said: Option<Instant> = None;
    while find(store, name).await?.node.draining != draining {
        ensure!(begun.elapsed() < HEARD_WITHIN, "{name} does not listen: is it of this version?");
        if said.is_none_or(|said| said.elapsed() >= AGAIN) {
            store.publish(event).await;
            said = Some(Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until it is empty, and tells how far it is.
async fn drained(store: &Store, name: &NodeId, deadline: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut last = None;
    loop {
        let member = find(store, name).await?;
        if !member.node.draining {
            bail!("{name} takes rooms again: somebody has cancelled this, or it was started anew");
        }
        let counts = member.counts.map(|counts| (counts.rooms, counts.peers));
        if counts != last {
            last = counts;
            if let Some((rooms, peers)) = counts {
                eprintln!("{name}: {rooms} rooms with {peers} peers left");
            }
        }
        if let Some((0, _)) = counts {
            ensure!(begun.elapsed() < deadline, "{name} is empty, but what had not moved in time was closed");
            eprintln!("{name} is empty after {:.1} s", begun.elapsed().as_secs_f64());
            return Ok(());
        }
        ensure!(begun.elapsed() < deadline + GRACE, "{name} is not empty, and its time is over");
        tokio::time::sleep(LOOK).await;
    }
}

async fn find(store: &Store, name: &NodeId) -> Result<Member> {
    let members = store.members().await?;
    let member = members.into_iter().find(|member| member.node.id == *name);
    let member = member.with_context(|| format!("no node {name}: tureen nodes list says which there are"))?;
    ensure!(state(&member) == State::Live, "{name} does not live: tureen nodes list says more");
    Ok(member)
}
