//! What people in a call are to notice of what happens around them: nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use bench::peer::Peer;

use crate::until;

/// How long the next packets may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many.
const PACKETS: u64 = 10;

/// They go on hearing, in the sessions that they had from the first, and have lost no packet until now.
pub async fn undisturbed(peers: &[Peer]) -> Result<()> {
    for peer in peers {
        let received = || peer.streams().values().map(|stream| stream.received).max().unwrap_or_default();
        let before = received();
        until(PATIENCE, "who was there hears the others", || Ok(received() >= before + PACKETS)).await?;
        ensure!(!peer.is_closed() && peer.resumed() == 0, "the session of somebody who was there has ended");
        ensure!(peer.streams().values().all(|stream| stream.missing == 0), "a packet was lost");
    }
    Ok(())
}
