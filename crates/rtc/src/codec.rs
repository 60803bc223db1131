//! What a media payload says about itself: whether it starts a key frame, which layers it belongs to,
//! where a receiver may switch.
//!
//! Stateless but for [`vp8::Rewriter`] and what follows a stream's [`layers`], cheap enough to be asked once per received packet, and silent
//! about what it cannot tell: an odd payload is media of the lowest layer that starts no key frame.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod av1;
pub mod dependency;
pub mod h264;
pub mod layers;
pub mod opus;
pub mod vp8;
pub mod vp9;

/// The codecs that the worker treats apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodecKind {
    /// `audio/opus` (RFC 7587).
    Opus,
    /// `audio/multiopus`, several Opus streams in one.
    MultiOpus,
    /// `video/VP8` (RFC 7741).
    Vp8,
    /// `video/VP9` (RFC 9628).
    Vp9,
    /// `video/H264` (RFC 6184).
    H264,
    /// `video/AV1` (AV1 RTP payload specification).
    Av1,
    /// `audio/rtx` or `video/rtx`: repairs of another codec (RFC 4588).
    Rtx,
    /// Any other audio codec; its payload is opaque.
    OtherAudio,
    /// Any other video codec; its payload is opaque.
    OtherVideo,
}

impl CodecKind {
    /// The codec of a MIME type, whatever its letters' case; `None` if it is neither audio nor video.
    #[must_use]
    pub fn from_mime(mime_type: &str) -> Option<Self> {
        const NAMED: [(&str, CodecKind); 6] = [
            ("audio/opus", CodecKind::Opus),
            ("audio/multiopus", CodecKind::MultiOpus),
            ("video/vp8", CodecKind::Vp8),
            ("video/vp9", CodecKind::Vp9),
            ("video/h264", CodecKind::H264),
            ("video/av1", CodecKind::Av1),
        ];
        if let Some(&(_, kind)) = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(mime_type)) {
            return Some(kind);
        }
        let (media, name) = mime_type.split_once('/')?;
        if media.eq_ignore_ascii_case("audio") {
            Some(if name.eq_ignore_ascii_case("rtx") { Self::Rtx } else { Self::OtherAudio })
        } else if media.eq_ignore_ascii_case("video") {
            Some(if name.eq_ignore_ascii_case("rtx") { Self::Rtx } else { Self::OtherVideo })
        } else {
            None
        }
    }

    /// Whether [`inspect`] can tell the key frames of this codec. A receiver of another codec may start
    /// at any packet.
    #[must_use]
    pub const fn has_key_frames(self) -> bool {
        matches!(self, Self::Vp8 | Self::Vp9 | Self::H264 | Self::Av1)
    }
}

/// What [`inspect`] found in a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadInfo {
    /// The packet starts a key frame: a receiver that has nothing yet can start here.
    pub key_frame: bool,
    /// The packet is the first of a frame (of a layer frame, where there are spatial layers).
    pub start_of_frame: bool,
    /// The packet is the last of a frame (of a layer frame, where there are spatial layers).
    pub end_of_frame: bool,
    /// The spatial layer within the stream, 0 the lowest.
    pub spatial_layer: u8,
    /// The temporal layer, 0 the lowest.
    pub temporal_layer: u8,
    /// A receiver of lower temporal layers may move up to this one here.
    pub switch_up: bool,
    /// The packet says only that there is silence (Opus).
    pub dtx: bool,
}

/// Looks into a plaintext payload. `marker` is the RTP header's marker bit.
#[must_use]
pub fn inspect(kind: CodecKind, payload: &[u8], marker: bool) -> PayloadInfo {
    match kind {
        CodecKind::Vp8 => vp8::Descriptor::parse(payload).map(|found| found.info(marker)),
        CodecKind::Vp9 => vp9::Descriptor::parse(payload).map(|found| found.info()),
        CodecKind::H264 => Some(h264::Contents::of(payload).info(marker)),
        CodecKind::Av1 => Some(av1::Contents::of(payload).info(marker)),
        CodecKind::Opus => Some(PayloadInfo { dtx: opus::is_dtx(payload), ..PayloadInfo::default() }),
        CodecKind::MultiOpus | CodecKind::Rtx | CodecKind::OtherAudio | CodecKind::OtherVideo => None,
    }
    .unwrap_or(PayloadInfo { end_of_frame: marker, ..PayloadInfo::default() })
}

#[cfg(test)]
mod tests;
