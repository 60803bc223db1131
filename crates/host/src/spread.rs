//! Which of this node's workers carry which room: a room that takes another router wants it on another worker.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use media::{Placed, PoolError, WorkerPool};
use room::RoomId;

use crate::host::lock;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Arc<Mutex<HashMap<RoomId, HashSet<usize>>>>);

/// A room's claim on one worker, while it lives.
#[derive(Debug)]
pub(crate) struct Claim {
    spread: Spread,
    room: RoomId,
    worker: usize,
}

impl Spread {
    /// The worker that bears least of those that carry nothing of this room.
    pub(crate) async fn place(&self, pool: &WorkerPool, room: &RoomId) -> Result<(Placed, Claim), PoolError> {
        loop {
            let taken: Vec<usize> = lock(&self.0).get(room).into_iter().flatten().copied().collect();
            let placed = pool.place_apart(&taken).await?;
            // Another site of the room may have been quicker; then there is one worker less to choose from.
            if lock(&self.0).entry(room.clone()).or_default().insert(placed.index) {
                let claim = Claim { spread: self.clone(), room: room.clone(), worker: placed.index };
                return Ok((placed, claim));
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut rooms = lock(&self.spread.0);
        if let Some(workers) = rooms.get_mut(&self.room) {
            workers.remove(&self.worker);
            if workers.is_empty() {
                rooms.remove(&self.room);
            }
        }
    }
}
