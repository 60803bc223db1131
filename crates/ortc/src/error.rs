//! What can be wrong with parameters and capabilities, in words that a developer of a client can act on.

/// Why parameters or capabilities were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrtcError {
    /// The MIME type is neither `audio/…` nor `video/…`.
    #[error("invalid codec MIME type \"{0}\"")]
    InvalidMimeType(String),
    /// A codec of a Producer is of another kind than the Producer.
    #[error("codec \"{mime_type}\" cannot be used by a Producer of kind {kind}")]
    KindMismatch {
        /// The codec.
        mime_type: String,
        /// The Producer's kind.
        kind: &'static str,
    },
    /// A parameter that must be a number or text is something else.
    #[error("invalid value of codec parameter \"{name}\" of \"{mime_type}\"")]
    InvalidParameter {
        /// The codec.
        mime_type: String,
        /// The parameter.
        name: String,
    },
    /// A Producer without codecs.
    #[error("no codecs given")]
    NoCodecs,
    /// A Router is asked to support a codec that mediasoup does not know.
    #[error("media codec \"{mime_type}\" ({clock_rate} Hz) is not supported")]
    UnsupportedMediaCodec {
        /// The codec.
        mime_type: String,
        /// Its clock rate.
        clock_rate: u32,
    },
    /// A Producer uses a codec that its Router does not offer.
    #[error("codec \"{mime_type}\" with payload type {payload_type} is not among the Router's codecs")]
    UnsupportedCodec {
        /// The codec.
        mime_type: String,
        /// Its payload type.
        payload_type: u8,
    },
    /// The `apt` of an RTX codec names no media codec.
    #[error("RTX codec with payload type {0} names no media codec in its `apt` parameter")]
    OrphanRtxCodec(u8),
    /// The Router has no RTX codec for a media codec that a Producer repairs.
    #[error("the Router has no RTX codec for payload type {0}")]
    NoRouterRtxCodec(u8),
    /// Two codecs were given one payload type.
    #[error("payload type {0} is used by two codecs")]
    DuplicatePayloadType(u8),
    /// There are more codecs than dynamic payload types.
    #[error("cannot allocate more dynamic payload types; ask for fewer codecs")]
    PayloadTypesExhausted,
    /// The mapping does not fit the parameters it is used with.
    #[error("the RTP mapping has no entry for payload type {0}")]
    UnmappedPayloadType(u8),
    /// The endpoint can receive none of the Producer's codecs.
    #[error("no compatible media codecs")]
    NoCompatibleMediaCodecs,
    /// Both partial reliability limits are given.
    #[error("maxPacketLifeTime and maxRetransmits exclude each other")]
    ConflictingReliability,
    /// An ordered stream with a partial reliability limit.
    #[error("a stream cannot be ordered with maxPacketLifeTime or maxRetransmits")]
    OrderedWithLimits,
}

/// The class of an error, by mediasoup's names for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The parameters contradict themselves (`TypeError`).
    Type,
    /// They ask for something that is not offered (`UnsupportedError`).
    Unsupported,
}

impl OrtcError {
    /// The error's class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnsupportedMediaCodec { .. }
            | Self::UnsupportedCodec { .. }
            | Self::NoRouterRtxCodec(_)
            | Self::NoCompatibleMediaCodecs
            | Self::PayloadTypesExhausted => ErrorKind::Unsupported,
            Self::InvalidMimeType(_)
            | Self::KindMismatch { .. }
            | Self::InvalidParameter { .. }
            | Self::NoCodecs
            | Self::OrphanRtxCodec(_)
            | Self::DuplicatePayloadType(_)
            | Self::UnmappedPayloadType(_)
            | Self::ConflictingReliability
            | Self::OrderedWithLimits => ErrorKind::Type,
        }
    }
}
