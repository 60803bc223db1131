//! RtpObservers: what the driver hears about the audio Producers that it adds to them. Here is their part of the
//! requests, their timers and notifications; what they make of the levels is in the two modules below.

pub mod active_speaker;
pub mod audio_level;

use std::time::{Duration, Instant};

use rtc::rtp::AudioLevel;
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::{
    active_speaker_observer as speaker_wire, audio_level_observer as level_wire, notification, response,
    rtp_parameters as rtp,
};

use self::active_speaker::ActiveSpeakerObserver;
use self::audio_level::AudioLevelObserver;
use crate::consumer::egress::Incoming;
use crate::error::{RequestError, RequestResult};
use crate::table::{ProducerIdx, RouterIdx, RtpObserverIdx};
use crate::timers::TimerKey;
use crate::worker::{Handler, Timer, Worker, not_found};

/// An RtpObserver.
#[derive(Debug)]
pub struct RtpObserver {
    /// Its id.
    pub id: String,
    router: RouterIdx,
    paused: bool,
    timer: TimerKey,
    kind: Kind,
}

/// What it makes of the levels.
#[derive(Debug)]
enum Kind {
    AudioLevel(AudioLevelObserver),
    ActiveSpeaker(ActiveSpeakerObserver),
}

/// What an observer has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Who is loud, and how much in dBov; the loudest first.
    Volumes(Vec<(ProducerIdx, i8)>),
    /// Nobody is loud any more.
    Silence,
    /// Somebody else became the dominant speaker.
    DominantSpeaker(ProducerIdx),
}

impl Kind {
    fn interval(&self) -> Duration {
        match self {
            Self::AudioLevel(observer) => observer.interval(),
            Self::ActiveSpeaker(observer) => observer.interval(),
        }
    }

    fn add_producer(&mut self, producer: ProducerIdx, paused: bool, now: Instant) -> RequestResult<()> {
        match self {
            Self::AudioLevel(observer) => observer.add_producer(producer),
            Self::ActiveSpeaker(observer) => {
                if !observer.add_producer(producer, paused, now) {
                    return Err(RequestError::error("Producer already in map"));
                }
            }
        }
        Ok(())
    }

    fn remove_producer(&mut self, producer: ProducerIdx) -> Option<Event> {
        match self {
            Self::AudioLevel(observer) => {
                observer.remove_producer(producer);
                None
            }
            Self::ActiveSpeaker(observer) => observer.remove_producer(producer),
        }
    }

    fn audio_level(&mut self, producer: ProducerIdx, level: AudioLevel, now: Instant) {
        match self {
            Self::AudioLevel(observer) => observer.audio_level(producer, level),
            Self::ActiveSpeaker(observer) => observer.audio_level(producer, level, now),
        }
    }

    fn pause(&mut self) -> Option<Event> {
        match self {
            Self::AudioLevel(observer) => observer.pause(),
            // Who was dominant stays so.
            Self::ActiveSpeaker(_) => None,
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Option<Event> {
        match self {
            Self::AudioLevel(observer) => observer.handle_timeout(),
            Self::ActiveSpeaker(observer) => observer.handle_timeout(now),
        }
    }
}

impl Worker {
    /// What a Router is asked about its observers.
    pub fn dispatch_router_observers(
        &mut self,
        router: RouterIdx,
        method: Method,
        body: request::Body,
        now: Instant,
    ) -> RequestResult<Option<response::Body>> {
        use request::Body;
        match (method, body) {
            (Method::RouterCreateAudioLevelObserver, Body::RouterCreateAudioLevelObserverRequest(body)) => {
                let kind = Kind::AudioLevel(AudioLevelObserver::new(&body.options)?);
                self.create_observer(router, body.rtp_observer_id, kind, now)?;
            }
            (
                Method::RouterCreateActiveSpeakerObserver,
                Body::RouterCreateActiveSpeakerObserverRequest(body),
            ) => {
                let kind = Kind::ActiveSpeaker(ActiveSpeakerObserver::new(&body.options));
                self.create_observer(router, body.rtp_observer_id, kind, now)?;
            }
            (Method::RouterCloseRtpObserver, Body::RouterCloseRtpObserverRequest(body)) => {
                let mut observers = self.routers[router].observers.iter().copied();
                let found = observers.find(|index| self.observers[*index].id == body.rtp_observer_id);
                self.close_observer(found.ok_or_else(|| not_found("RtpObserver", method))?);
            }
            _ => return Err(RequestError::missing_body(method)),
        }
        Ok(None)
    }

    fn create_observer(
        &mut self,
        router: RouterIdx,
        id: String,
        kind: Kind,
        now: Instant,
    ) -> RequestResult<()> {
        self.check_no_handler(&id, "RtpObserver")?;
        let index = self.observers.next_index();
        let timer = self.timers.create(Timer::RtpObserver(index));
        self.timers.set(timer, Some(now + kind.interval()));
        self.observers.insert(RtpObserver { id: id.clone(), router, paused: false, timer, kind });
        self.routers[router].observers.push(index);
        self.register(id, Handler::RtpObserver(index));
        Ok(())
    }

    /// Closes an observer.
    pub fn close_observer(&mut self, index: RtpObserverIdx) {
        let Some(observer) = self.observers.remove(index) else { return };
        self.timers.remove(observer.timer);
        self.handlers.remove(&observer.id);
        if let Some(router) = self.routers.get_mut(observer.router) {
            router.observers.retain(|other| *other != index);
            for producer in router.producers.values() {
                self.producers[*producer].observers.retain(|other| *other != index);
            }
        }
    }

    /// What an observer is asked.
    pub fn dispatch_observer(
        &mut self,
        index: RtpObserverIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> RequestResult<Option<response::Body>> {
        use request::Body;
        match (method, body) {
            (Method::RtpObserverPause, _) => self.pause_observer(index),
            (Method::RtpObserverResume, _) => {
                let observer = &mut self.observers[index];
                if std::mem::replace(&mut observer.paused, false) {
                    self.timers.set(observer.timer, Some(now + observer.kind.interval()));
                }
            }
            (Method::RtpObserverAddProducer, Some(Body::RtpObserverAddProducerRequest(body))) => {
                let producer = self.observed_producer(index, &body.producer_id, method)?;
                self.observe_producer(index, producer, now)?;
            }
            (Method::RtpObserverRemoveProducer, Some(Body::RtpObserverRemoveProducerRequest(body))) => {
                let producer = self.observed_producer(index, &body.producer_id, method)?;
                self.producers[producer].observers.retain(|other| *other != index);
                self.observer_lost_producer(index, producer);
            }
            (Method::RtpObserverAddProducer | Method::RtpObserverRemoveProducer, _) => {
                return Err(RequestError::missing_body(method));
            }
            _ => return Err(RequestError::unknown_method(method)),
        }
        Ok(None)
    }

    /// A Producer of the observer's Router, by id.
    fn observed_producer(
        &self,
        index: RtpObserverIdx,
        id: &str,
        method: Method,
    ) -> RequestResult<ProducerIdx> {
        let router = &self.routers[self.observers[index].router];
        router.producers.get(id).copied().ok_or_else(|| not_found("Producer", method))
    }

    fn observe_producer(
        &mut self,
        index: RtpObserverIdx,
        producer_idx: ProducerIdx,
        now: Instant,
    ) -> RequestResult<()> {
        let producer = &mut self.producers[producer_idx];
        if producer.kind != rtp::MediaKind::Audio {
            return Err(RequestError::type_error("not an audio Producer"));
        }
        self.observers[index].kind.add_producer(producer_idx, producer.paused, now)?;
        if !producer.observers.contains(&index) {
            producer.observers.push(index);
        }
        Ok(())
    }

    fn pause_observer(&mut self, index: RtpObserverIdx) {
        let observer = &mut self.observers[index];
        if std::mem::replace(&mut observer.paused, true) {
            return;
        }
        self.timers.set(observer.timer, None);
        let event = observer.kind.pause();
        self.notify_observed(index, event);
    }

    /// A Producer left an observer, or closed.
    pub fn observer_lost_producer(&mut self, index: RtpObserverIdx, producer: ProducerIdx) {
        let Some(observer) = self.observers.get_mut(index) else { return };
        let event = observer.kind.remove_producer(producer);
        self.notify_observed(index, event);
    }

    /// A Producer in an observer was paused.
    pub fn observer_producer_paused(&mut self, index: RtpObserverIdx, producer: ProducerIdx) {
        match self.observers.get_mut(index).map(|observer| &mut observer.kind) {
            Some(Kind::AudioLevel(observer)) => observer.pause_producer(producer),
            Some(Kind::ActiveSpeaker(observer)) => observer.pause_producer(producer),
            None => {}
        }
    }

    /// A Producer in an observer goes on.
    pub fn observer_producer_resumed(&mut self, index: RtpObserverIdx, producer: ProducerIdx) {
        if let Some(Kind::ActiveSpeaker(observer)) =
            self.observers.get_mut(index).map(|observer| &mut observer.kind)
        {
            observer.resume_producer(producer);
        }
    }

    /// A packet of a Producer that may be observed.
    pub fn observe(&mut self, producer_idx: ProducerIdx, incoming: &Incoming<'_>, now: Instant) {
        let producer = &self.producers[producer_idx];
        if producer.observers.is_empty() {
            return;
        }
        let read = producer.parameters.extensions.read_audio_level(&incoming.header, incoming.packet);
        let Some(level) = read else { return };
        for index in &producer.observers {
            if let Some(observer) = self.observers.get_mut(*index).filter(|observer| !observer.paused) {
                observer.kind.audio_level(producer_idx, level, now);
            }
        }
    }

    /// An observer's interval ended.
    pub fn observer_interval(&mut self, index: RtpObserverIdx, now: Instant) {
        let Some(observer) = self.observers.get_mut(index) else { return };
        self.timers.set(observer.timer, Some(now + observer.kind.interval()));
        let event = observer.kind.handle_timeout(now);
        self.notify_observed(index, event);
    }

    fn notify_observed(&mut self, index: RtpObserverIdx, event: Option<Event>) {
        let Some(event) = event else { return };
        let producer_id = |producer: ProducerIdx| self.producers[producer].id.clone();
        let (event, body) = match event {
            Event::Volumes(volumes) => {
                let volumes = volumes
                    .into_iter()
                    .map(|(producer, volume)| level_wire::Volume {
                        producer_id: producer_id(producer),
                        volume,
                    })
                    .collect();
                let body = Box::new(level_wire::VolumesNotification { volumes });
                (
                    notification::Event::AudioLevelObserverVolumes,
                    Some(notification::Body::AudioLevelObserverVolumesNotification(body)),
                )
            }
            Event::Silence => (notification::Event::AudioLevelObserverSilence, None),
            Event::DominantSpeaker(producer) => {
                let body = Box::new(speaker_wire::DominantSpeakerNotification {
                    producer_id: producer_id(producer),
                });
                (
                    notification::Event::ActiveSpeakerObserverDominantSpeaker,
                    Some(notification::Body::ActiveSpeakerObserverDominantSpeakerNotification(body)),
                )
            }
        };
        let id = self.observers[index].id.clone();
        self.notify(&id, event, body);
    }
}

#[cfg(test)]
mod tests;
