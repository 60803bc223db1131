//! A room against a model of the media side: what happens in order, what is said to whom, and that nothing is left.

mod broadcasters;
mod endings;
mod joining;
mod levels;
mod media;
mod messages;
mod migrate;
mod offers;
mod random;
mod random_wide;
mod relay;
mod snapshot;
mod wide;
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ortc::{MediaKind, RtpParameters, SctpParameters, SctpStreamParameters};
use serde_json::{Value, json};

use self::world::World;
use super::link::Link;
use super::*;
use crate::event::{MediaDone, MediaFailure, SiteEvent};
use crate::policy::{MediaMatch, RolePolicy};

fn stream(stream_id: u16) -> SctpStreamParameters {
    SctpStreamParameters { stream_id, ordered: Some(true), max_packet_life_time: None, max_retransmits: None }
}

fn produce_data(transport: &TransportId, label: &str) -> Request {
    Request::ProduceData {
        transport: transport.clone(),
        stream: stream(0),
        label: label.to_owned(),
        protocol: String::new(),
        app_data: json!({ "channel": label }),
        replaces: None,
    }
}

fn create(producing: bool, consuming: bool) -> Request {
    Request::CreateWebRtcTransport { force_tcp: false, producing, consuming, data: true, bandwidth: false }
}

fn join(name: &str) -> Request {
    Request::Join {
        display_name: name.to_owned(),
        device: Device::default(),
        rtp_capabilities: Some(Arc::default()),
        remote_address: None,
        receives: Receives::Offered,
        migrates: true,
    }
}

fn produce(transport: &TransportId, kind: MediaKind, app_data: Value) -> Request {
    Request::Produce {
        transport: transport.clone(),
        kind,
        rtp_parameters: Box::new(RtpParameters::default()),
        app_data,
        replaces: None,
    }
}

/// A broadcaster with a PlainTransport.
fn broadcaster(world: &mut World, session: u64, id: &str) -> TransportId {
    world.connect(session, id);
    let Request::Join { display_name, device, .. } = join(id) else { unreachable!() };
    let (rtp_capabilities, receives, migrates) = (None, Receives::OnRequest, false);
    let joining =
        Request::Join { display_name, device, rtp_capabilities, remote_address: None, receives, migrates };
    world.reply(session, joining).expect("joined");
    match world.reply(session, Request::CreatePlainTransport { rtcp_mux: false, comedia: true }) {
        Ok(Reply::PlainTransport(info)) => info.id,
        other => panic!("{other:?}"),
    }
}

fn consume(transport: &TransportId, producer: &ProducerId, paused: bool) -> Request {
    let (transport, producer) = (transport.clone(), producer.clone());
    Request::Consume { transport, producer, rtp_capabilities: Some(Arc::default()), paused }
}

/// Speakers hear each other; listeners hear speakers' audio and send nothing.
fn stage() -> RoomType {
    let (speaker, listener) = (Role::new("speaker"), Role::new("listener"));
    let audio = MediaMatch { kind: Some(MediaKind::Audio), source: None };
    let speakers = RolePolicy {
        produces: vec![MediaMatch::ANY],
        receives: BTreeMap::from([(speaker.clone(), vec![MediaMatch::ANY])]),
    };
    let listeners =
        RolePolicy { produces: Vec::new(), receives: BTreeMap::from([(speaker.clone(), vec![audio])]) };
    RoomType {
        name: "stage".to_owned(),
        default_role: listener.clone(),
        roles: BTreeMap::from([(speaker, speakers), (listener, listeners)]),
    }
}
