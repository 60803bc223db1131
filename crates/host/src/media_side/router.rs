//! Where a site lives: a router on one of the node's workers, with what tells who speaks.

use media::{AudioLevelObserver, AudioLevelObserverOptions, MediaError, Router, RouterOptions, WebRtcServer};
use room::MediaFailure;
use tokio::sync::watch;
use tracing::warn;

use super::{Failed, MediaSide, Outcome, Outcomes, Surroundings, failure};
use crate::spread::Claim;

/// Who speaks is told this often at most: quick enough to follow a talk, rare enough for big rooms.
const VOLUME_INTERVAL_MS: u16 = 800;
/// So many of the loudest are told.
const SPEAKERS: u16 = 8;
/// Below this there is silence, in dBov.
const VOLUME_THRESHOLD: i8 = -80;

/// How many workers are tried that die while they are asked for a router.
const PLACE_ATTEMPTS: usize = 4;

/// Where a room lives: a router on one worker.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) router: Router,
    pub(super) server: WebRtcServer,
    /// `None` where the worker could not make one: then nobody is told who speaks.
    pub(super) volumes: Option<AudioLevelObserver>,
    pub(super) cpu: watch::Receiver<u32>,
    _claim: Claim,
}

impl MediaSide {
    /// Takes a place on a worker; one that dies or does not answer meanwhile is left for another.
    pub(super) fn create_router(&mut self) -> Outcomes {
        let Surroundings { pool, spread, room, .. } = &self.surroundings;
        let (pool, spread, room) = (pool.clone(), spread.clone(), room.clone());
        let (events, media_codecs) = (self.events.clone(), self.settings.codecs.clone());
        Box::pin(async move {
            for attempt in 1..=PLACE_ATTEMPTS {
                let last = attempt == PLACE_ATTEMPTS;
                let (placed, claim) = spread
                    .place(&pool, &room)
                    .await
                    .map_err(|error| Failed::Otherwise(MediaFailure::Unavailable(error.to_string())))?;
                let options =
                    RouterOptions { id: None, media_codecs: media_codecs.clone(), events: events.clone() };
                let router = match placed.worker.create_router(options).await {
                    Ok(router) => router,
                    // It died under our hands: the pool knows by now, and has others.
                    Err(MediaError::WorkerGone) if !last => continue,
                    // It lives but does not answer: it is of no use to anyone.
                    Err(MediaError::Timeout { .. }) if !last => {
                        placed.worker.kill();
                        continue;
                    }
                    Err(error) => return Err(failure(error)),
                };
                let volumes = match router.create_audio_level_observer(volume_options()).await {
                    Ok(volumes) => Some(volumes),
                    Err(MediaError::WorkerGone | MediaError::Closed) if !last => continue,
                    Err(error) => {
                        warn!(%error, "no audio level observer: nobody is told who speaks");
                        None
                    }
                };
                if router.is_closed() && !last {
                    continue;
                }
                let cpu = placed.cpu_permille();
                return Ok(Outcome::Home(Home {
                    router,
                    server: placed.web_rtc_server,
                    volumes,
                    cpu,
                    _claim: claim,
                }));
            }
            Err(Failed::WorkerGone)
        })
    }
}

fn volume_options() -> AudioLevelObserverOptions {
    AudioLevelObserverOptions {
        max_entries: SPEAKERS,
        threshold: VOLUME_THRESHOLD,
        interval_ms: VOLUME_INTERVAL_MS,
    }
}
