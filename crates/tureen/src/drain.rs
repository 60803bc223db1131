//! `tureen drain`: asks a node, by the store, to hand its rooms to others, and tells how far it is. What is drained is the life
//! of the node that the command finds: one that is started under its name meanwhile is left alone, and the command ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::node::{Incarnation, NodeId};
use store::{Drain, Member, Store, StoreEvent};

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
        let node = find(&store, &name, None).await?.node;
        ensure!(node.roles.media, "{name} runs no rooms: it can be ended as it is");
        let life = node.incarnation;
        let event = match cancel {
            true => StoreEvent::DrainCancelled(name.clone()),
            false => StoreEvent::Drain(name.clone(), Drain::new(life, deadline)),
        };
        eprintln!("asking {name}");
        heard(&store, &name, life, &event, !cancel).await?;
        if cancel {
            eprintln!("{name} takes rooms again");
            return Ok(());
        }
        drained(&store, &name, life, deadline).await
    })
}

/// Says it until the node shows that it has heard; at least once, as what it shows may be older than what it was told last.
async fn heard(
    store: &Store,
    name: &NodeId,
    life: Incarnation,
    event: &StoreEvent,
    draining: bool,
) -> Result<()> {
    let begun = Instant::now();
    let mut said: Option<Instant> = None;
    while find(store, name, Some(life)).await?.node.draining != draining || said.is_none() {
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
async fn drained(store: &Store, name: &NodeId, life: Incarnation, deadline: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut last = None;
    loop {
        let member = find(store, name, Some(life)).await?;
        if !member.node.draining {
            bail!("{name} takes rooms again: somebody has cancelled this");
        }
        // A router without a room is one of another node's room, some of whose peers have their media here.
        let counts = member.counts.map(|counts| (counts.rooms, counts.peers, counts.routers));
        if counts != last {
            last = counts;
            if let Some((rooms, peers, routers)) = counts {
                eprintln!("{name}: {rooms} rooms with {peers} peers, and {routers} routers left");
            }
        }
        if let Some((0, _, 0)) = counts {
            ensure!(begun.elapsed() < deadline, "{name} is empty, but what had not moved in time was closed");
            eprintln!("{name} is empty after {:.1} s", begun.elapsed().as_secs_f64());
            return Ok(());
        }
        ensure!(begun.elapsed() < deadline + GRACE, "{name} is not empty, and its time is over");
        tokio::time::sleep(LOOK).await;
    }
}

/// The node as it is now, in this life if one is known.
async fn find(store: &Store, name: &NodeId, life: Option<Incarnation>) -> Result<Member> {
    let members = store.members().await?;
    let member = members.into_iter().find(|member| member.node.id == *name);
    let member = member.with_context(|| format!("no node {name}: tureen nodes list says which there are"))?;
    if let Some(life) = life {
        ensure!(member.node.incarnation == life, "{name} was started anew: this life of it is not drained");
        ensure!(state(&member) != State::Gone, "{name} has ended");
    }
    ensure!(state(&member) == State::Live, "{name} does not live: tureen nodes list says more");
    Ok(member)
}
