//! A model of the media side: what each site holds, and what it answers.

use ortc::ConsumerType;

use super::*;
use crate::event::{
    ConsumerCreated, DataConsumerCreated, PipeEnd, PipedDataOut, PipedOut, Place, ProducerCreated,
};
use crate::message::{PlainTransportInfo, TransportInfo};

impl World {
    /// At the room's only site.
    pub(super) fn perform(&mut self, what: MediaOp) -> Result<MediaDone, MediaFailure> {
        self.perform_at(self.home(), what)
    }

    pub(super) fn perform_at(&mut self, site: SiteId, what: MediaOp) -> Result<MediaDone, MediaFailure> {
        let before = self.next;
        let result = self.carry_out(site, what);
        for prefix in ["t", "p", "c", "dp", "dc", "e", "s"] {
            if self.next > before {
                self.at.insert(format!("{prefix}{}", self.next), site);
            }
        }
        result
    }

    /// Whether a producer or data producer can be consumed at a site.
    pub(super) fn has(&self, site: SiteId, id: &str) -> bool {
        let home = self.producers.contains_key(id) || self.data_producers.contains_key(id);
        (home && self.at[id] == site) || self.copies.contains_key(&(site, id.to_owned()))
    }

    fn carry_out(&mut self, site: SiteId, what: MediaOp) -> Result<MediaDone, MediaFailure> {
        let gone = || MediaFailure::Internal("gone".to_owned());
        match what {
            MediaOp::CreateRouter { region, .. } => {
                self.routers += 1;
                let (node, place) = self.places.get(self.routers - 1).copied().unwrap_or_default();
                let fallback = (!place.is_empty()).then(|| Region::new(place));
                let place = Place { node: node.to_owned(), region: fallback.or(region) };
                Ok(MediaDone::Router { rtp_capabilities: Arc::default(), place })
            }
            MediaOp::CloseRouter => {
                let left: Vec<_> = self.held_at(site);
                assert!(left.is_empty(), "a router is closed that holds {left:?}");
                Ok(MediaDone::Done)
            }
            MediaOp::CreatePipe { .. } => {
                let id = self.name("e");
                self.ends.insert(id.clone(), false);
                let (ip, port) = (IpAddr::from([127, 0, 0, 1]), 1);
                let end = PipeEnd { id: TransportId::new(id), ip, port, srtp_parameters: None };
                Ok(MediaDone::Pipe(Box::new(end)))
            }
            MediaOp::ConnectPipe { transport, remote } => {
                assert_ne!(self.at[remote.id.as_str()], site);
                *self.ends.get_mut(transport.as_str()).ok_or_else(gone)? = true;
                Ok(MediaDone::Done)
            }
            MediaOp::PipeOut { transport, producer } => {
                let consumer = ConsumerId::new(self.send(site, &transport, producer.as_str())?);
                let mid = Some(consumer.to_string());
                let rtp_parameters = Box::new(RtpParameters { mid, ..RtpParameters::default() });
                let kind = MediaKind::Video;
                Ok(MediaDone::PipedOut(Box::new(PipedOut { consumer, kind, rtp_parameters })))
            }
            MediaOp::PipeDataOut { transport, data_producer } => {
                let consumer = DataConsumerId::new(self.send(site, &transport, data_producer.as_str())?);
                let (label, protocol) = ("l".to_owned(), String::new());
                Ok(MediaDone::PipedDataOut(PipedDataOut { consumer, stream: stream(1), label, protocol }))
            }
            MediaOp::PipeIn { transport, producer, rtp_parameters, .. } => {
                self.receive(site, &transport, producer.as_str())?;
                let sender = rtp_parameters.mid.expect("its sender");
                self.fed_by.insert((site, producer.to_string()), sender);
                Ok(MediaDone::Producer(ProducerCreated { id: producer, consumable: Arc::default() }))
            }
            MediaOp::PipeDataIn { transport, data_producer, .. } => {
                self.receive(site, &transport, data_producer.as_str())?;
                Ok(MediaDone::DataProducer(data_producer))
            }
            MediaOp::CreateTransport { data, .. } => {
                let id = self.name("t");
                self.transports.insert(id.clone());
                let ice = json!({ "usernameFragment": "u", "password": "p", "iceLite": true });
                let dtls = json!({ "role": "auto", "fingerprints": [] });
                Ok(MediaDone::Transport(Box::new(TransportInfo {
                    id: TransportId::new(id),
                    ice_parameters: serde_json::from_value(ice).expect("ice"),
                    ice_candidates: Vec::new(),
                    dtls_parameters: serde_json::from_value(dtls).expect("dtls"),
                    sctp_parameters: data.then(sctp_parameters),
                })))
            }
            MediaOp::CreatePlainTransport { rtcp_mux, .. } => {
                let id = self.name("t");
                self.transports.insert(id.clone());
                let rtcp_port = (!rtcp_mux).then_some(2);
                let info =
                    PlainTransportInfo { id: TransportId::new(id), ip: "ip".to_owned(), port: 1, rtcp_port };
                Ok(MediaDone::PlainTransport(info))
            }
            MediaOp::CloseTransport(id) => {
                let id = id.as_str();
                self.transports.remove(id);
                self.ends.remove(id);
                let homes = self.producers.iter().chain(&self.data_producers);
                let dead = homes.filter(|(_, transport)| *transport == id).map(|(p, _)| p.clone());
                let copies = self.copies.iter().filter(|(_, transport)| *transport == id);
                let dead: Vec<_> = dead.chain(copies.map(|((_, p), _)| p.clone())).collect();
                for producer in dead {
                    self.close_at(site, &producer);
                }
                self.consumers.retain(|_, (transport, ..)| transport != id);
                self.data_consumers.retain(|_, (transport, ..)| transport != id);
                self.senders.retain(|_, (transport, _)| transport != id);
                Ok(MediaDone::Done)
            }
            MediaOp::ProduceData { transport, .. } => {
                let id = self.name("dp");
                self.data_producers.insert(id.clone(), transport.to_string());
                Ok(MediaDone::DataProducer(DataProducerId::new(id)))
            }
            MediaOp::ConsumeData { transport, data_producer } => {
                let there =
                    self.transports.contains(transport.as_str()) && self.has(site, data_producer.as_str());
                if !there {
                    return Err(gone());
                }
                let id = self.name("dc");
                let entry = (transport.to_string(), data_producer.to_string(), false);
                self.data_consumers.insert(id.clone(), entry);
                let stream = stream(self.data_consumers.len() as u16);
                Ok(MediaDone::DataConsumer(DataConsumerCreated { id: DataConsumerId::new(id), stream }))
            }
            MediaOp::ResumeDataConsumer(id) => {
                let consumer = self.data_consumers.get_mut(id.as_str()).ok_or_else(gone)?;
                consumer.2 = true;
                Ok(MediaDone::Done)
            }
            MediaOp::CloseDataProducer(id) => {
                self.close_at(site, id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::CloseDataConsumer(id) => {
                self.data_consumers.remove(id.as_str());
                self.senders.remove(id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::Produce { transport, .. } => {
                if !self.transports.contains(transport.as_str()) {
                    return Err(gone());
                }
                let id = self.name("p");
                self.producers.insert(id.clone(), transport.to_string());
                Ok(MediaDone::Producer(ProducerCreated {
                    id: ProducerId::new(id),
                    consumable: Arc::default(),
                }))
            }
            MediaOp::CloseProducer(id) => {
                self.close_at(site, id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::Consume { transport, producer, .. } => {
                if self.refuse_consumers {
                    return Err(MediaFailure::Refused("does not fit".to_owned()));
                }
                if !self.transports.contains(transport.as_str()) || !self.has(site, producer.as_str()) {
                    return Err(gone());
                }
                let id = self.name("c");
                self.consumers.insert(id.clone(), (transport.to_string(), producer.to_string(), false));
                Ok(MediaDone::Consumer(Box::new(ConsumerCreated {
                    id: ConsumerId::new(id),
                    consumer_type: ConsumerType::Simple,
                    rtp_parameters: Arc::default(),
                    score: json!({ "score": 10 }),
                })))
            }
            MediaOp::CloseConsumer(id) => {
                self.consumers.remove(id.as_str());
                self.senders.remove(id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::ResumeConsumer(id) => {
                if let Some(consumer) = self.consumers.get_mut(id.as_str()) {
                    consumer.2 = true;
                }
                Ok(MediaDone::Done)
            }
            MediaOp::Stats(_) => Ok(MediaDone::Stats(json!([]))),
            _ => Ok(MediaDone::Done),
        }
    }

    /// A producer or data producer ends at a site, and what consumes it there.
    fn close_at(&mut self, site: SiteId, id: &str) {
        if self.at.get(id) == Some(&site) {
            self.producers.remove(id);
            self.data_producers.remove(id);
        }
        self.copies.remove(&(site, id.to_owned()));
        let at = &self.at;
        self.consumers.retain(|consumer, (_, of, _)| of != id || at[consumer] != site);
        self.data_consumers.retain(|consumer, (_, of, _)| of != id || at[consumer] != site);
        self.senders.retain(|sender, (_, of)| of != id || at[sender] != site);
    }

    fn send(&mut self, site: SiteId, end: &TransportId, id: &str) -> Result<String, MediaFailure> {
        let connected = self.ends.get(end.as_str()).copied();
        if !self.has(site, id) || connected.is_none() {
            return Err(MediaFailure::Unavailable("gone".to_owned()));
        }
        assert_eq!(connected, Some(true), "piped before the pipe is connected");
        assert_eq!(self.at[end.as_str()], site);
        let sender = self.name("s");
        self.senders.insert(sender.clone(), (end.to_string(), id.to_owned()));
        Ok(sender)
    }

    fn receive(&mut self, site: SiteId, end: &TransportId, id: &str) -> Result<(), MediaFailure> {
        if !self.ends.contains_key(end.as_str()) {
            return Err(MediaFailure::Unavailable("gone".to_owned()));
        }
        assert_eq!(self.at[end.as_str()], site);
        assert!(!self.has(site, id), "{id} is at {site:?} twice");
        self.copies.insert((site, id.to_owned()), end.to_string());
        Ok(())
    }

    pub(super) fn held_at(&self, site: SiteId) -> Vec<String> {
        let all = self.transports.iter().chain(self.producers.keys()).chain(self.consumers.keys());
        let all = all.chain(self.ends.keys()).chain(self.senders.keys());
        let here = all.filter(|id| self.at[*id] == site).cloned();
        here.chain(self.copies.keys().filter(|(at, _)| *at == site).map(|(_, id)| id.clone())).collect()
    }
}

fn sctp_parameters() -> SctpParameters {
    SctpParameters {
        port: 5000,
        os: 65_535,
        mis: 65_535,
        max_message_size: 262_144,
        max_send_message_size: 262_144,
        max_receive_message_size: 262_144,
        send_buffer_size: 2_000_000,
        per_stream_send_queue_limit: 2_000_000,
        max_receiver_window_buffer_size: 5_242_880,
        is_data_channel: true,
    }
}
