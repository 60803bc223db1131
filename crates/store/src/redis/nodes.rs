//! Nodes in Redis: who registered, what they say of themselves, who said goodbye.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::node::{Counts, Incarnation, Load, Node, NodeId};
use futures_util::future::{join, join_all};

use super::link::CHANNEL;
use super::{REGISTERED, RedisStore, accepted, corrupt, millis, read_as};
use crate::types::Member;
use crate::{MEMBER_LIFE, METRICS_LIFE, StoreError, StoreEvent};

/// Names of all nodes that have registered.
const SERVERS: &str = "servers";

fn server_key(id: &NodeId) -> String {
    format!("server:{id}")
}

fn metrics_key(id: &NodeId) -> String {
    format!("server:{id}:metrics")
}

impl RedisStore {
    pub(crate) async fn beat(&self, node: &Node, load: &Load, counts: &Counts) -> Result<(), StoreError> {
        let key = server_key(&node.id);
        let incarnation = node.incarnation.0.to_string();
        let json = |value: serde_json::Result<String>| value.expect("names, addresses and numbers are JSON");
        let (node_text, load_text) = (json(serde_json::to_string(node)), json(serde_json::to_string(load)));
        let message = StoreEvent::NodeCame(node.id.clone()).to_wire().unwrap_or_default();
        let arguments = [&*incarnation, &node_text, &load_text, &millis(MEMBER_LIFE), CHANNEL, &message];
        // The list first: whoever hears that the node came finds it there.
        let mut list = redis::cmd("SADD");
        list.arg(SERVERS).arg(node.id.as_str());
        self.0.fleet.ask(SERVERS, list).await?;
        accepted(&key, &self.ask(&self.0.scripts.beat, &[&key], &arguments).await?)?;

        let life = millis(METRICS_LIFE);
        let mut arguments = vec![incarnation, life];
        for (name, value) in counted(counts) {
            arguments.extend([name.to_owned(), value.to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.ask(&self.0.scripts.metrics, &[&metrics_key(&node.id)], &arguments).await.map(drop)
    }

    pub(crate) async fn deregister(&self, id: &NodeId, incarnation: Incarnation) -> Result<(), StoreError> {
        let message = StoreEvent::NodeLeft(id.clone()).to_wire().unwrap_or_default();
        let arguments = [&*incarnation.0.to_string(), &millis(MEMBER_LIFE), CHANNEL, &message];
        let answer = self.ask(&self.0.scripts.deregister, &[&server_key(id)], &arguments).await?;
        if answer.first().is_some_and(|word| word == "ok") {
            let mut command = redis::cmd("HDEL");
            command.arg(REGISTERED).arg(id.as_str());
            self.0.fleet.ask(REGISTERED, command).await?;
            self.0.registrations.lock().expect("nobody panics while holding this lock").remove(id);
        }
        Ok(())
    }

    pub(crate) async fn members(&self) -> Result<Vec<Member>, StoreError> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(SERVERS);
        let names: BTreeSet<String> = read_as(SERVERS, self.0.fleet.ask(SERVERS, command).await?)?;
        let looked = join_all(names.iter().filter_map(|name| name.parse().ok()).map(async |id: NodeId| {
            let found = self.member(&id).await;
            (id, found)
        }));
        let mut members = Vec::new();
        for (id, found) in looked.await {
            match found {
                Ok(Some(member)) => members.push(member),
                // Silent for so long that it was forgotten. Its next beat would put it back.
                Ok(None) => {
                    let mut command = redis::cmd("SREM");
                    command.arg(SERVERS).arg(id.as_str());
                    self.0.fleet.ask(SERVERS, command).await?;
                }
                // One bad record must not hide the others.
                Err(error @ StoreError::Corrupt { .. }) => tracing::warn!(node = %id, %error, "left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(members)
    }

    async fn member(&self, id: &NodeId) -> Result<Option<Member>, StoreError> {
        let (key, metrics) = (server_key(id), metrics_key(id));
        let mut command = redis::cmd("HGETALL");
        command.arg(&metrics);
        let keys = [key.as_str()];
        let (record, counts) =
            join(self.ask(&self.0.scripts.member, &keys, &[]), self.0.fleet.ask(&metrics, command)).await;
        let record = record?;
        let [now, incarnation, node, load, left, beat] = record.as_slice() else {
            return Err(corrupt(&key, "not the fields of a server"));
        };
        if node.is_empty() {
            return Ok(None);
        }
        let node: Node = serde_json::from_str(node).map_err(|error| corrupt(&key, error))?;
        let load: Load = serde_json::from_str(load).map_err(|error| corrupt(&key, error))?;
        let number = |text: &str| text.parse::<u64>().map_err(|error| corrupt(&key, error));
        let silent = Duration::from_millis(number(now)?.saturating_sub(number(beat)?));
        let counts: BTreeMap<String, u64> = read_as(&metrics, counts?)?;
        let current = counts.get("incarnation").is_some_and(|of| of.to_string() == *incarnation);
        let left = left == "1";
        Ok(Some(Member { node, load, counts: (current && !left).then(|| counts_of(&counts)), silent, left }))
    }
}

/// The fields of `server:<id>:metrics`.
fn counted(counts: &Counts) -> [(&'static str, u32); 7] {
    let Counts { workers, routers, transports, producers, consumers, rooms, peers } = *counts;
    [
        ("workers", workers),
        ("routers", routers),
        ("transports", transports),
        ("producers", producers),
        ("consumers", consumers),
        ("rooms", rooms),
        ("peers", peers),
    ]
}

fn counts_of(fields: &BTreeMap<String, u64>) -> Counts {
    let count = |name| fields.get(name).map_or(0, |value| u32::try_from(*value).unwrap_or(u32::MAX));
    Counts {
        workers: count("workers"),
        routers: count("routers"),
        transports: count("transports"),
        producers: count("producers"),
        consumers: count("consumers"),
        rooms: count("rooms"),
        peers: count("peers"),
    }
}
