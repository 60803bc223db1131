//! A peer that takes its media elsewhere within its session, make-before-break, as web/client does (docs/clients.md, "Media that
//! moves within a session"): new transports, what it sends once more on them, and the old ones are closed when all that it
//! receives comes by the new.
//!
//! It decides nothing: where it goes, and when, is the server's business.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::peer::{Links, Media, Migrations, Published, open, produce};
use crate::protoo::Asker;
use crate::source::Source;

/// web/client's: it says that it is done so long before the deadline, whatever has not come by then.
const BEFORE: Duration = Duration::from_secs(2);
/// Invitations that wait while one is followed. The server sends another only after an answer to `migrated`.
const WAITING: usize = 2;

/// Follows invitations until the peer's session is over.
pub(crate) fn start(
    asker: Asker,
    media: &Arc<Media>,
) -> (mpsc::Sender<Duration>, watch::Receiver<Migrations>) {
    let (invite, mut invitations) = mpsc::channel::<Duration>(WAITING);
    let (told, migrations) = watch::channel(Migrations::default());
    let media = Arc::clone(media);
    tokio::spawn(async move {
        while let Some(within) = invitations.recv().await {
            let until = Instant::now() + within.saturating_sub(BEFORE);
            // Where it does not work out the old transports go on, and the server says what is next.
            let done = migrate(&asker, &media, until).await.is_ok();
            told.send_modify(|migrations| {
                let count = if done { &mut migrations.done } else { &mut migrations.failed };
                *count += 1;
            });
        }
    });
    (invite, migrations)
}

async fn migrate(asker: &Asker, media: &Arc<Media>, until: Instant) -> Result<()> {
    let old: Vec<Published> = media.links().published.clone();
    let sends = media.links().send.is_some();
    let mut new = Links::default();
    if sends {
        new.send = Some(open(asker, &media.identity, true, &media.reception).await?);
    }
    let receive = open(asker, &media.identity, false, &media.reception).await?;
    for (mid, Published { shape, begun, id }) in old.into_iter().enumerate() {
        let send = new.send.as_ref().context("who has published something has a transport for it")?;
        let (replacing, ssrc) = produce(asker, send, shape, mid, Some(&id)).await?;
        new.published.push(Published { shape, begun, id: replacing });
        send.wait_connected(until.saturating_duration_since(Instant::now())).await?;
        let source = Source::again(shape, ssrc, shape.media.payload_type(), begun.elapsed());
        send.add_source(source, begun).await?;
    }
    let arrived = async {
        loop {
            let changed = media.reception.progress();
            if media.reception.is_all_at(receive.transport_id()) {
                return;
            }
            changed.await;
        }
    };
    // Who is missing something by then says so all the same.
    let _ = tokio::time::timeout_at(until.into(), arrived).await;
    asker.request("migrated", json!({})).await?;
    let mut links = media.links();
    new.receive = Some(receive);
    new.key_frame_requests =
        links.key_frame_requests + links.send.as_ref().map_or(0, |send| send.key_frame_requests());
    // A peer that has left meanwhile has none any more.
    if links.receive.is_some() {
        *links = new;
    }
    Ok(())
}
