//! What a publisher is told about congestion: transport-wide feedback where it is negotiated, else REMB.

use std::time::{Duration, Instant};

use rtc::remb::{RembGenerator, RembMode};
use rtc::rtcp;
use rtc::rtp::{Bitrate, RtpHeader, Ssrc};
use rtc::twcc::TransportFeedbackGenerator;

use super::TransportRest;
use crate::table::{ProducerIdx, TransportIdx};
use crate::timers::TimerKey;
use crate::worker::{Timer, Worker};

/// How often REMB is looked at.
const REMB_INTERVAL: Duration = Duration::from_millis(200);

/// The feedback of one Transport.
#[derive(Debug)]
pub struct Feedback {
    /// When it is due.
    pub timer: TimerKey,
    /// Arrival times, where transport-wide feedback is negotiated.
    transport_wide: Option<TransportFeedbackGenerator>,
    /// Our estimate, or with transport-wide feedback only the limit.
    remb: RembGenerator,
}

impl Worker {
    /// Starts feedback with the first Producer that negotiated any.
    pub fn start_transport_feedback(&mut self, index: TransportIdx, producer: ProducerIdx) {
        let parameters = &self.producers[producer].parameters;
        let ids = &parameters.extensions;
        let transport_wide =
            ids.transport_wide_cc != 0 && parameters.codecs.iter().any(|codec| codec.use_transport_cc);
        let remb = ids.abs_send_time != 0 && parameters.codecs.iter().any(|codec| codec.use_remb);
        let transport = &mut self.transports[index];
        if transport.feedback.is_some() || !(transport_wide || remb) {
            return;
        }
        let mode = if transport_wide { RembMode::LimitOnly } else { RembMode::Estimate };
        transport.feedback = Some(Feedback {
            timer: self.timers.create(Timer::Feedback(index)),
            // mediasoup's feedback comes from SSRC 0 too: it has no media of its own to name.
            transport_wide: transport_wide.then(|| TransportFeedbackGenerator::new(Ssrc(0))),
            remb: RembGenerator::new(mode),
        });
        self.limit_incoming(index);
    }

    /// The limit of what publishers may send changed.
    pub fn limit_incoming(&mut self, index: TransportIdx) {
        let transport = &mut self.transports[index];
        let limit = Some(transport.bitrates.max_incoming).filter(|limit| *limit != 0).map(Bitrate);
        if let Some(feedback) = &mut transport.feedback {
            feedback.remb.set_max_incoming_bitrate(limit);
        }
    }

    /// Tells a changed limit now. It is repeated while packets come; that it was lifted, a few times more.
    pub fn announce_incoming_limit(&mut self, index: TransportIdx, now: Instant) {
        if let Some(feedback) = &self.transports[index].feedback {
            self.timers.set_no_later_than(feedback.timer, now);
        }
    }

    /// A packet arrived that congestion feedback tells about.
    pub fn note_for_feedback(
        &mut self,
        index: TransportIdx,
        header: &RtpHeader,
        packet: &[u8],
        now: Instant,
    ) {
        let TransportRest { feedback, recv_extensions, .. } = &mut *self.transports[index];
        let Some(feedback) = feedback else { return };
        let mut due = now + REMB_INTERVAL;
        if let Some(generator) = &mut feedback.transport_wide
            && let Some(seq) = recv_extensions.read_transport_wide_cc(header, packet)
        {
            generator.record(seq, header.ssrc, now);
            due = generator.next_timeout().map_or(due, |timeout| timeout.min(due));
        }
        feedback.remb.record(packet.len(), now);
        self.timers.set_no_later_than(feedback.timer, due);
    }

    /// Sends the feedback that is due.
    pub fn send_transport_feedback(&mut self, index: TransportIdx, now: Instant) {
        let Some(transport) = self.transports.get_mut(index) else { return };
        let connected = transport.connected;
        let Some(feedback) = &mut transport.feedback else { return };
        if !connected {
            if let Some(generator) = &mut feedback.transport_wide {
                generator.reset();
            }
            return;
        }
        let mut rtcp = std::mem::take(&mut self.scratch.rtcp);
        loop {
            rtcp.clear();
            let feedback = self.transports.get_mut(index).and_then(|transport| transport.feedback.as_mut());
            let Some(generator) = feedback.and_then(|feedback| feedback.transport_wide.as_mut()) else {
                break;
            };
            if !generator.poll_feedback(now, &mut rtcp) {
                break;
            }
            self.send_rtcp(index, &rtcp, now);
        }
        if let Some(transport) = self.transports.get_mut(index)
            && let Some(feedback) = &mut transport.feedback
        {
            if let Some(next) =
                feedback.transport_wide.as_ref().and_then(|generator| generator.next_timeout())
            {
                self.timers.set(feedback.timer, Some(next.max(now + Duration::from_millis(1))));
            }
            if let Some(bitrate) = feedback.remb.poll(now) {
                rtcp.clear();
                let sources = &mut self.scratch.ssrcs;
                sources.clear();
                let streams =
                    transport.producers.iter().flat_map(|producer| &self.producers[*producer].streams);
                sources.extend(streams.map(|stream| Ssrc(stream.ssrc)).take(usize::from(u8::MAX)));
                rtcp::write_remb(&mut rtcp, Ssrc(0), bitrate, sources);
                self.send_rtcp(index, &rtcp, now);
            }
        }
        self.scratch.rtcp = rtcp;
    }
}
