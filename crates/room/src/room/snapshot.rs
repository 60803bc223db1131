//! A room as it is at one moment, to be gone on with on another node. It carries all that the room knows; times become ages,
//! because no two nodes share a clock, and limits are those of the node that takes it up.
//!
//! Whoever takes it up must bring it the completions of all work that was under way, and the news of all sites, as if
//! nothing had been: what the room does then is what it would have done here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Room;
use super::migrate::MigrationLeft;
use crate::event::Place;
use crate::id::{ConsumerId, PeerId, Region, RoomId, SessionId, SiteId};
use crate::limits::Limits;

/// Changes with every change of what a snapshot holds. Rooms do not move between nodes that differ in it.
const VERSION: u32 = 2;

/// A room on its way to another node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    room: Room,
    /// How long nobody has been there.
    empty_for: Option<Duration>,
    /// In how long consumers are asked for again.
    again_in: Option<Duration>,
    /// Consumers that others have taken the place of, and in how long they end.
    replaced_in: Vec<(ConsumerId, Duration)>,
    /// Sessions whose clients are away, and for how long.
    away_for: Vec<(SessionId, Duration)>,
    /// Regions that had no router, and for how long none is asked for there.
    failed_sites: Vec<(Option<Region>, Duration)>,
    /// In how long it is looked next after those who are to migrate, and what each that does has left.
    migrate_in: Option<Duration>,
    migrating: Vec<(SessionId, MigrationLeft)>,
}

/// Why a snapshot is not gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It is of another version of this program.
    #[error("the room's snapshot is of version {0}, and not {VERSION}")]
    Version(u32),
}

impl Snapshot {
    /// The version that this program writes, and the only one that it reads.
    pub const VERSION: u32 = VERSION;

    /// Which room it is.
    pub fn room(&self) -> &RoomId {
        &self.room.id
    }

    /// The sessions of its peers.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.room.peers.keys().copied()
    }

    /// The room, as it was, under these limits.
    ///
    /// # Errors
    /// [`SnapshotError`]: it cannot be read.
    pub fn restore(self, limits: Arc<Limits>, now: Instant) -> Result<Room, SnapshotError> {
        let Self {
            version,
            mut room,
            empty_for,
            again_in,
            replaced_in,
            away_for,
            failed_sites,
            migrate_in,
            migrating,
        } = self;
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        // A machine that has been up for less long than that lets a time begin when it can.
        let ago = |age: Duration| now.checked_sub(age).unwrap_or(now);
        room.empty_since = empty_for.map(ago);
        room.again.at = again_in.and_then(|after| now.checked_add(after));
        let until = |(id, after): (ConsumerId, Duration)| Some((now.checked_add(after)?, id));
        room.replaced = replaced_in.into_iter().filter_map(until).collect();
        room.migrate_at = migrate_in.and_then(|after| now.checked_add(after));
        for (session, left) in migrating {
            if let Some(migration) = room.peers.get_mut(&session).and_then(|peer| peer.migration.as_mut()) {
                migration.restore(&left, now);
            }
        }
        for (session, age) in away_for {
            if let Some(peer) = room.peers.get_mut(&session) {
                peer.detached = Some(ago(age));
            }
        }
        room.failed_sites = failed_sites
            .into_iter()
            .filter_map(|(region, after)| Some((region, now.checked_add(after)?)))
            .collect();
        room.pipes.set_fan_out(limits.router.fan_out);
        room.limits = limits;
        Ok(room)
    }
}

impl Room {
    /// The room, to be gone on with elsewhere, or here after all. Between two events only: nothing is waiting to be done.
    pub fn into_snapshot(self, now: Instant) -> Snapshot {
        let age = |since: Instant| now.saturating_duration_since(since);
        let left = |until: Instant| until.saturating_duration_since(now);
        let away = |(session, peer): (&SessionId, &super::Peer)| Some((*session, age(peer.detached?)));
        let migrating = |(session, peer): (&SessionId, &super::Peer)| {
            Some((*session, peer.migration.as_ref()?.left(now)))
        };
        Snapshot {
            version: VERSION,
            empty_for: self.empty_since.map(age),
            again_in: self.again.at.map(left),
            replaced_in: self.replaced.iter().map(|(at, id)| (id.clone(), left(*at))).collect(),
            away_for: self.peers.iter().filter_map(away).collect(),
            migrate_in: self.migrate_at.map(left),
            migrating: self.peers.iter().filter_map(migrating).collect(),
            failed_sites: self.failed_sites.iter().map(|(of, until)| (of.clone(), left(*until))).collect(),
            room: self,
        }
    }

    /// Its sessions and whose they are, in order of arrival.
    pub fn peers(&self) -> impl Iterator<Item = (SessionId, &PeerId)> {
        self.peers.iter().map(|(session, peer)| (*session, &peer.id))
    }

    /// Its sites and where they are; those on their way have no place yet.
    pub fn places(&self) -> impl Iterator<Item = (SiteId, Option<&Place>)> {
        self.sites.keys().map(|site| (*site, self.pipes.place(*site)))
    }
}

/// Maps as lists of pairs: their keys are not always text.
pub(super) mod pairs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::room) fn serialize<'a, C, K, V, S>(map: &'a C, serializer: S) -> Result<S::Ok, S::Error>
    where
        &'a C: IntoIterator<Item = (&'a K, &'a V)>,
        K: Serialize + 'a,
        V: Serialize + 'a,
        S: Serializer,
    {
        serializer.collect_seq(map)
    }

    pub(in crate::room) fn deserialize<'de, C, K, V, D>(deserializer: D) -> Result<C, D::Error>
    where
        C: FromIterator<(K, V)> + IntoIterator<Item = (K, V)>,
        K: Deserialize<'de>,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// An option within an option, of which JSON has only one.
pub(super) mod nested {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::room) fn serialize<T: Serialize, S: Serializer>(
        outer: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        outer.as_ref().map(|inner| [inner]).serialize(serializer)
    }

    pub(in crate::room) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Ok(Option::<[Option<T>; 1]>::deserialize(deserializer)?.map(|[inner]| inner))
    }
}
