//! The SCTP stream of a DataProducer or DataConsumer: checked, and as the association takes it.

use rtc::sctp::Delivery;
use worker_protocol::wire::sctp_parameters as wire;

use crate::error::{RequestError, RequestResult};

/// Streams of data channels: 65,535 is not used (RFC 8832 section 6).
const MAX_STREAM_ID: u16 = 65_534;

/// A checked `SctpStreamParameters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamParameters {
    /// The stream's number.
    pub id: u16,
    /// How its messages are delivered.
    pub delivery: Delivery,
}

impl StreamParameters {
    /// Checks what a request says; direct ones need nothing.
    ///
    /// # Errors
    /// `TypeError` for what mediasoup refuses too.
    pub fn parse(direct: bool, given: Option<&wire::SctpStreamParameters>) -> RequestResult<Option<Self>> {
        if direct {
            return Ok(None);
        }
        let given = given.ok_or_else(|| RequestError::type_error("missing sctpStreamParameters"))?;
        if given.stream_id > MAX_STREAM_ID {
            return Err(RequestError::type_error(format!(
                "streamId must not be greater than {MAX_STREAM_ID}"
            )));
        }
        // Zero is what the driver's library has for nothing.
        let max_life_time_ms = given.max_packet_life_time.filter(|time| *time != 0);
        let max_retransmits =
            given.max_retransmits.filter(|times| *times != 0 || given.ordered != Some(true));
        if max_life_time_ms.is_some() && max_retransmits.is_some_and(|times| times != 0) {
            return Err(RequestError::type_error("cannot provide both maxPacketLifeTime and maxRetransmits"));
        }
        let partial = max_life_time_ms.is_some() || max_retransmits.is_some();
        if given.ordered == Some(true) && partial {
            return Err(RequestError::type_error(
                "cannot be ordered with maxPacketLifeTime or maxRetransmits",
            ));
        }
        Ok(Some(Self {
            id: given.stream_id,
            delivery: Delivery {
                ordered: given.ordered.unwrap_or(!partial),
                max_life_time_ms,
                max_retransmits,
            },
        }))
    }

    /// What dumps show.
    pub fn dump(&self) -> wire::SctpStreamParameters {
        wire::SctpStreamParameters {
            stream_id: self.id,
            ordered: Some(self.delivery.ordered),
            max_packet_life_time: self.delivery.max_life_time_ms,
            max_retransmits: self.delivery.max_retransmits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(
        ordered: Option<bool>,
        max_packet_life_time: Option<u16>,
        max_retransmits: Option<u16>,
    ) -> wire::SctpStreamParameters {
        wire::SctpStreamParameters { stream_id: 4, ordered, max_packet_life_time, max_retransmits }
    }

    #[test]
    fn order_follows_from_reliability_where_it_is_not_given() {
        for (parameters, ordered) in [
            (given(None, None, None), true),
            (given(None, Some(100), None), false),
            (given(None, None, Some(0)), false),
            (given(Some(false), None, None), false),
        ] {
            let stream = StreamParameters::parse(false, Some(&parameters)).unwrap().unwrap();
            assert_eq!(stream.delivery.ordered, ordered, "{parameters:?}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for parameters in [
            given(Some(true), Some(100), None),
            given(Some(true), None, Some(3)),
            given(None, Some(100), Some(3)),
            wire::SctpStreamParameters { stream_id: 65_535, ..given(None, None, None) },
        ] {
            assert!(StreamParameters::parse(false, Some(&parameters)).is_err(), "{parameters:?}");
        }
        assert!(StreamParameters::parse(false, None).is_err());
        assert_eq!(StreamParameters::parse(true, None), Ok(None));
    }
}
