//! RTP parameters as they are kept by who is asked for them now and then: bytes on the wire, not a tree of strings.
//!
//! A video consumer's tree is some twenty allocations; packed it is one of 370 bytes.

use planus::ReadAsRoot;

use crate::wire::rtp_parameters::{RtpParameters, RtpParametersRef};

/// Bytes that hold what consumers usually have, so that packing does not allocate twice.
const USUAL: usize = 768;

/// `RtpParameters` in one allocation.
#[derive(Debug, Clone)]
pub struct PackedRtpParameters(Box<[u8]>);

impl PackedRtpParameters {
    /// Packs them.
    pub fn new(parameters: &RtpParameters) -> Self {
        let mut builder = planus::Builder::with_capacity(USUAL);
        Self(builder.finish(parameters, None).into())
    }

    /// The tree again.
    pub fn unpack(&self) -> RtpParameters {
        RtpParametersRef::read_as_root(&self.0)
            .and_then(RtpParameters::try_from)
            .expect("what was packed is well-formed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtp_parameters::{RtcpParameters, RtpHeaderExtensionParameters, RtpHeaderExtensionUri};

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let extension = RtpHeaderExtensionParameters {
            uri: RtpHeaderExtensionUri::AbsSendTime,
            id: 4,
            encrypt: false,
            parameters: None,
        };
        let parameters = RtpParameters {
            mid: Some("7".into()),
            header_extensions: vec![extension],
            rtcp: Box::new(RtcpParameters { cname: Some("somebody".into()), reduced_size: true }),
            ..RtpParameters::default()
        };
        assert_eq!(PackedRtpParameters::new(&parameters).unpack(), parameters);
    }
}
