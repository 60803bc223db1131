//! The ends of pipes: what takes a producer to another site of its room, and what receives it there. Between nodes they
//! are encrypted, and packets that get lost are sent again.

use std::net::{IpAddr, Ipv4Addr};

use media::{
    DataProducerOptions, ListenAddress, ListenInfo, PipeTransport, PipeTransportOptions, ProducerOptions,
};
use ortc::{MediaKind, RtpParameters, SctpStreamParameters, TransportProtocol};
use room::{DataProducerId, PipeEnd, ProducerId, TransportId};

use super::{MediaSide, Outcome, Outcomes, failure, gone};

impl MediaSide {
    pub(super) fn create_pipe(&mut self, leaves_node: bool) -> Outcomes {
        let Some(home) = &self.home else { return gone("router") };
        let router = home.router.clone();
        let listen = if leaves_node {
            let ListenAddress { ip, announced_address } = self.settings.pipe_address.clone();
            ListenInfo { announced_address, ..ListenInfo::new(TransportProtocol::Udp, ip, 0) }
        } else {
            ListenInfo::new(TransportProtocol::Udp, Ipv4Addr::LOCALHOST.into(), 0)
        };
        let options = PipeTransportOptions {
            id: None,
            listen,
            enable_rtx: leaves_node,
            enable_srtp: leaves_node,
            enable_sctp: true,
        };
        Box::pin(
            async move { router.create_pipe_transport(options).await.map(Outcome::Pipe).map_err(failure) },
        )
    }

    pub(super) fn pipe_out(&mut self, transport: TransportId, producer: ProducerId) -> Outcomes {
        let handles = (self.objects.pipe(&transport), self.objects.producer(&producer));
        let (Some(pipe), Some(of)) = handles else { return gone("pipe or producer") };
        Box::pin(async move {
            let consumer = pipe.pipe(of.id()).await.map_err(failure)?;
            Ok(Outcome::PipedOut(consumer, transport, producer))
        })
    }

    pub(super) fn pipe_in(
        &mut self,
        transport: TransportId,
        producer: &ProducerId,
        kind: MediaKind,
        rtp_parameters: RtpParameters,
    ) -> Outcomes {
        let Some(pipe) = self.objects.pipe(&transport) else { return gone("pipe") };
        let id = Some(producer.as_str().into());
        let options = ProducerOptions { id, ..ProducerOptions::new(kind, rtp_parameters) };
        Box::pin(async move {
            let producer = pipe.produce(options).await.map_err(failure)?;
            Ok(Outcome::Producer(producer, transport))
        })
    }

    pub(super) fn pipe_data_in(
        &mut self,
        transport: TransportId,
        producer: &DataProducerId,
        sctp_stream_parameters: SctpStreamParameters,
        label: String,
        protocol: String,
    ) -> Outcomes {
        let Some(pipe) = self.objects.pipe(&transport) else { return gone("pipe") };
        let id = Some(producer.as_str().into());
        let options = DataProducerOptions { id, sctp_stream_parameters, label, protocol, paused: false };
        Box::pin(async move {
            let producer = pipe.produce_data(options).await.map_err(failure)?;
            Ok(Outcome::DataProducer(producer, transport))
        })
    }
}

/// The unspecified address where the announced one is a name: nothing is sent there, and the pipe fails by being silent.
pub(super) fn end(pipe: &PipeTransport) -> PipeEnd {
    let beginning = pipe.beginning();
    PipeEnd {
        id: TransportId::new(pipe.id().as_str()),
        ip: beginning.tuple.local_address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port: beginning.tuple.local_port,
        srtp_parameters: beginning.srtp_parameters.clone(),
    }
}
