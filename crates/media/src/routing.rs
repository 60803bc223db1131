//! Turns a worker's notifications into [`MediaEvent`]s. What nobody here asked for (traces of packets, the
//! state of SCTP and of its buffers, RTP on DirectTransports) is passed over.

use std::sync::Arc;

use worker_protocol::wire::{
    audio_level_observer, consumer,
    notification::{BodyRef, Event, NotificationRef},
    producer,
    transport::TraceInfoRef,
    web_rtc_transport,
};

use crate::{
    event::{
        Bandwidth, ConsumerEvent, ConsumerLayers, ConsumerScore, DtlsState, IceState, MediaEvent,
        ProducerEvent, ProducerScore, TransportEvent, VideoOrientation, Volume,
    },
    object::{Kind, Object},
    stats::TransportTuple,
};

/// Sends what `told` says to the object's queue.
pub(crate) fn dispatch(object: &Arc<Object>, told: NotificationRef<'_>) -> Result<(), planus::Error> {
    let event = match object.kind() {
        Kind::Transport => {
            let id = Arc::clone(object.id()).into();
            transport_event(told)?.map(|event| MediaEvent::Transport { id, event })
        }
        Kind::Producer => {
            let id = Arc::clone(object.id()).into();
            producer_event(told)?.map(|event| MediaEvent::Producer { id, event })
        }
        Kind::Consumer => {
            let id = Arc::clone(object.id()).into();
            let event = consumer_event(told)?;
            if event == Some(ConsumerEvent::ProducerClose) {
                // The worker has closed the Consumer already.
                object.mark_closed();
            }
            event.map(|event| MediaEvent::Consumer { id, event })
        }
        Kind::RtpObserver => observer_event(object, told)?,
        Kind::DataConsumer => {
            if told.event()? == Event::DataConsumerDataProducerClose {
                // The worker has closed the DataConsumer already.
                object.mark_closed();
            }
            None
        }
        Kind::WebRtcServer | Kind::Router | Kind::DataProducer => None,
    };
    if let Some(event) = event {
        object.emit(event);
    }
    Ok(())
}

fn transport_event(told: NotificationRef<'_>) -> Result<Option<TransportEvent>, planus::Error> {
    Ok(match told.body()? {
        Some(BodyRef::WebRtcTransportIceStateChangeNotification(body)) => {
            Some(TransportEvent::IceState(IceState::from(body.ice_state()?)))
        }
        Some(BodyRef::WebRtcTransportIceSelectedTupleChangeNotification(body)) => {
            Some(TransportEvent::IceSelectedTuple(TransportTuple::from_wire(body.tuple()?.try_into()?)))
        }
        Some(BodyRef::WebRtcTransportDtlsStateChangeNotification(body)) => {
            Some(TransportEvent::DtlsState(DtlsState::from(body.dtls_state()?)))
        }
        Some(BodyRef::PlainTransportTupleNotification(body)) => {
            Some(TransportEvent::Tuple(TransportTuple::from_wire(body.tuple()?.try_into()?)))
        }
        Some(BodyRef::PlainTransportRtcpTupleNotification(body)) => {
            Some(TransportEvent::RtcpTuple(TransportTuple::from_wire(body.tuple()?.try_into()?)))
        }
        Some(BodyRef::TransportTraceNotification(body)) => match body.info()? {
            Some(TraceInfoRef::BweTraceInfo(info)) => Some(TransportEvent::Bandwidth(Bandwidth {
                desired_bitrate: info.desired_bitrate()?,
                effective_desired_bitrate: info.effective_desired_bitrate()?,
                available_bitrate: info.available_bitrate()?,
            })),
            None => None,
        },
        _ => None,
    })
}

fn producer_event(told: NotificationRef<'_>) -> Result<Option<ProducerEvent>, planus::Error> {
    Ok(match told.body()? {
        Some(BodyRef::ProducerScoreNotification(body)) => {
            let told = producer::ScoreNotification::try_from(body)?;
            Some(ProducerEvent::Score(told.scores.into_iter().map(ProducerScore::from).collect()))
        }
        Some(BodyRef::ProducerVideoOrientationChangeNotification(body)) => {
            Some(ProducerEvent::VideoOrientation(VideoOrientation {
                camera: body.camera()?,
                flip: body.flip()?,
                rotation: body.rotation()?,
            }))
        }
        _ => None,
    })
}

fn consumer_event(told: NotificationRef<'_>) -> Result<Option<ConsumerEvent>, planus::Error> {
    Ok(match told.event()? {
        Event::ConsumerProducerPause => Some(ConsumerEvent::ProducerPause),
        Event::ConsumerProducerResume => Some(ConsumerEvent::ProducerResume),
        Event::ConsumerProducerClose => Some(ConsumerEvent::ProducerClose),
        Event::ConsumerLayersChange => {
            let layers = match told.body()? {
                Some(BodyRef::ConsumerLayersChangeNotification(body)) => body.layers()?,
                _ => None,
            };
            let layers = layers.map(consumer::ConsumerLayers::try_from).transpose()?;
            Some(ConsumerEvent::LayersChange(layers.map(ConsumerLayers::from)))
        }
        Event::ConsumerScore => match told.body()? {
            Some(BodyRef::ConsumerScoreNotification(body)) => {
                let score = consumer::ConsumerScore::try_from(body.score()?)?;
                Some(ConsumerEvent::Score(ConsumerScore::from(score)))
            }
            _ => None,
        },
        _ => None,
    })
}

fn observer_event(object: &Object, told: NotificationRef<'_>) -> Result<Option<MediaEvent>, planus::Error> {
    let id = Arc::clone(object.id()).into();
    Ok(match (told.event()?, told.body()?) {
        (Event::AudioLevelObserverSilence, _) => Some(MediaEvent::Volumes { id, volumes: Vec::new() }),
        (_, Some(BodyRef::AudioLevelObserverVolumesNotification(body))) => {
            let told = audio_level_observer::VolumesNotification::try_from(body)?;
            let volumes = told
                .volumes
                .into_iter()
                .map(|entry| Volume { producer_id: entry.producer_id.into(), volume: entry.volume })
                .collect();
            Some(MediaEvent::Volumes { id, volumes })
        }
        (_, Some(BodyRef::ActiveSpeakerObserverDominantSpeakerNotification(body))) => {
            Some(MediaEvent::DominantSpeaker { id, producer_id: body.producer_id()?.into() })
        }
        _ => None,
    })
}

impl From<web_rtc_transport::IceState> for IceState {
    fn from(state: web_rtc_transport::IceState) -> Self {
        match state {
            web_rtc_transport::IceState::New => Self::New,
            web_rtc_transport::IceState::Connected => Self::Connected,
            web_rtc_transport::IceState::Completed => Self::Completed,
            web_rtc_transport::IceState::Disconnected => Self::Disconnected,
        }
    }
}

impl From<web_rtc_transport::DtlsState> for DtlsState {
    fn from(state: web_rtc_transport::DtlsState) -> Self {
        match state {
            web_rtc_transport::DtlsState::New => Self::New,
            web_rtc_transport::DtlsState::Connecting => Self::Connecting,
            web_rtc_transport::DtlsState::Connected => Self::Connected,
            web_rtc_transport::DtlsState::Failed => Self::Failed,
            web_rtc_transport::DtlsState::Closed => Self::Closed,
        }
    }
}

impl From<producer::Score> for ProducerScore {
    fn from(score: producer::Score) -> Self {
        Self {
            encoding_idx: score.encoding_idx,
            ssrc: score.ssrc,
            rid: score.rid.filter(|rid| !rid.is_empty()),
            score: score.score,
        }
    }
}

impl From<consumer::ConsumerScore> for ConsumerScore {
    fn from(score: consumer::ConsumerScore) -> Self {
        Self {
            score: score.score,
            producer_score: score.producer_score,
            producer_scores: score.producer_scores,
        }
    }
}

impl From<consumer::ConsumerLayers> for ConsumerLayers {
    fn from(layers: consumer::ConsumerLayers) -> Self {
        Self { spatial_layer: layers.spatial_layer, temporal_layer: layers.temporal_layer }
    }
}

impl From<ConsumerLayers> for consumer::ConsumerLayers {
    fn from(layers: ConsumerLayers) -> Self {
        Self { spatial_layer: layers.spatial_layer, temporal_layer: layers.temporal_layer }
    }
}
