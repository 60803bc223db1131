//! RTP header extension elements (RFC 8285) and the typed values of those that a conference uses.

use super::{ExtensionForm, RtpHeader};
use arrayvec::ArrayVec;
use std::time::Duration;

/// One element of a header extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'p> {
    /// The local identifier, 1..=14 in the one-byte form, 1..=255 in the two-byte form.
    pub id: u8,
    /// The element's bytes.
    pub value: &'p [u8],
}

/// Iterates over the elements of a header extension. An element that runs past the end of the block ends the
/// iteration.
#[derive(Clone, Debug)]
pub struct Elements<'p> {
    form: ExtensionForm,
    rest: &'p [u8],
}

impl<'p> Elements<'p> {
    pub(super) fn new(form: ExtensionForm, bytes: &'p [u8]) -> Self {
        Self { form, rest: bytes }
    }

    pub(super) fn none() -> Self {
        Self { form: ExtensionForm::OneByte, rest: &[] }
    }
}

impl<'p> Iterator for Elements<'p> {
    type Item = Element<'p>;

    fn next(&mut self) -> Option<Element<'p>> {
        loop {
            let (&first, after) = self.rest.split_first()?;
            self.rest = after;
            if first == 0 {
                continue; // A padding byte, in both forms.
            }
            let (id, len, body) = match self.form {
                // Id 15 is reserved, and ends the processing (RFC 8285, section 4.2). Id 0 with a
                // length is not padding: it is to be skipped with its bytes, and no caller asks for it.
                ExtensionForm::OneByte if first >> 4 == 15 => {
                    self.rest = &[];
                    return None;
                }
                ExtensionForm::OneByte => (first >> 4, usize::from(first & 0x0f).saturating_add(1), after),
                ExtensionForm::TwoByte => {
                    let Some((&len, body)) = after.split_first() else {
                        self.rest = &[];
                        return None;
                    };
                    (first, usize::from(len), body)
                }
                ExtensionForm::Other(_) => {
                    self.rest = &[];
                    return None;
                }
            };
            let Some((value, rest)) = body.split_at_checked(len) else {
                self.rest = &[];
                return None;
            };
            self.rest = rest;
            return Some(Element { id, value });
        }
    }
}

/// The header extensions that mediasoup knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExtensionKind {
    /// The media section's identifier (RFC 9143, section 15).
    Mid,
    /// The stream of a simulcast (RFC 8852).
    Rid,
    /// The stream that a repair stream repairs (RFC 8852).
    RepairedRid,
    /// When the packet left the sender, 6.18 fixed-point seconds.
    AbsSendTime,
    /// The transport-wide sequence number, draft-holmer-rmcat-transport-wide-cc-extensions-01.
    TransportWideCc,
    /// Client-to-mixer audio level (RFC 6464).
    SsrcAudioLevel,
    /// AV1 RTP's dependency descriptor.
    DependencyDescriptor,
    /// Coordination of video orientation (3GPP TS 26.114).
    VideoOrientation,
    /// Transmission time offset (RFC 5450).
    TimeOffset,
    /// When the frame was captured.
    AbsCaptureTime,
    /// Bounds on the receiver's playout delay.
    PlayoutDelay,
    /// mediasoup's own packet identifier, for debugging across routers.
    MediasoupPacketId,
}

impl ExtensionKind {
    /// Every kind, in the order of the worker protocol's enumeration.
    pub const ALL: [Self; 12] = [
        Self::Mid,
        Self::Rid,
        Self::RepairedRid,
        Self::AbsSendTime,
        Self::TransportWideCc,
        Self::SsrcAudioLevel,
        Self::DependencyDescriptor,
        Self::VideoOrientation,
        Self::TimeOffset,
        Self::AbsCaptureTime,
        Self::PlayoutDelay,
        Self::MediasoupPacketId,
    ];

    /// The URI by which the extension is negotiated.
    #[must_use]
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Self::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Self::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Self::AbsSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            Self::TransportWideCc => {
                "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
            }
            Self::SsrcAudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Self::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            Self::VideoOrientation => "urn:3gpp:video-orientation",
            Self::TimeOffset => "urn:ietf:params:rtp-hdrext:toffset",
            Self::AbsCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
            Self::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            Self::MediasoupPacketId => "urn:mediasoup:params:rtp-hdrext:packet-id",
        }
    }

    /// The kind with this URI.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.uri() == uri)
    }

    /// Whether a consumer gets the producer's value unchanged. The others are the sender's own: its
    /// identifiers, and what is stamped when a packet leaves.
    #[must_use]
    pub const fn is_forwarded(self) -> bool {
        match self {
            Self::SsrcAudioLevel
            | Self::DependencyDescriptor
            | Self::VideoOrientation
            | Self::TimeOffset
            | Self::AbsCaptureTime
            | Self::PlayoutDelay
            | Self::MediasoupPacketId => true,
            Self::Mid | Self::Rid | Self::RepairedRid | Self::AbsSendTime | Self::TransportWideCc => false,
        }
    }
}

/// The identifiers that were negotiated for each extension; 0 where it was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the identifier of the ExtensionKind of its name")]
pub struct ExtensionIds {
    pub mid: u8,
    pub rid: u8,
    pub rrid: u8,
    pub abs_send_time: u8,
    pub transport_wide_cc: u8,
    pub ssrc_audio_level: u8,
    pub dependency_descriptor: u8,
    pub video_orientation: u8,
    pub time_offset: u8,
    pub abs_capture_time: u8,
    pub playout_delay: u8,
    pub mediasoup_packet_id: u8,
}

/// The client-to-mixer audio level of a packet (RFC 6464).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioLevel {
    /// Whether the sender believes that the packet holds voice.
    pub voice: bool,
    /// The level below the loudest possible, in -dBov: 0 is the loudest, 127 silence.
    pub minus_dbov: u8,
}

impl AudioLevel {
    /// The level in dBov, -127..=0.
    #[must_use]
    pub const fn dbov(self) -> i8 {
        self.minus_dbov.cast_signed().wrapping_neg()
    }
}

/// How a receiver is to turn the picture (3GPP TS 26.114, section 7.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoOrientation {
    /// Whether the back camera took the picture.
    pub back_camera: bool,
    /// Whether the picture is to be flipped left to right.
    pub flip: bool,
    /// Degrees counterclockwise by which the picture was turned: 0, 90, 180 or 270.
    pub rotation_degrees: u16,
}

/// The elements of a received packet that its consumers get, found once per packet whatever the audience.
pub type ForwardedElements<'p> = ArrayVec<(ExtensionKind, &'p [u8]), 7>;

impl ExtensionIds {
    /// The identifier of an extension; 0 where it was not negotiated.
    #[must_use]
    pub const fn id(&self, kind: ExtensionKind) -> u8 {
        match kind {
            ExtensionKind::Mid => self.mid,
            ExtensionKind::Rid => self.rid,
            ExtensionKind::RepairedRid => self.rrid,
            ExtensionKind::AbsSendTime => self.abs_send_time,
            ExtensionKind::TransportWideCc => self.transport_wide_cc,
            ExtensionKind::SsrcAudioLevel => self.ssrc_audio_level,
            ExtensionKind::DependencyDescriptor => self.dependency_descriptor,
            ExtensionKind::VideoOrientation => self.video_orientation,
            ExtensionKind::TimeOffset => self.time_offset,
            ExtensionKind::AbsCaptureTime => self.abs_capture_time,
            ExtensionKind::PlayoutDelay => self.playout_delay,
            ExtensionKind::MediasoupPacketId => self.mediasoup_packet_id,
        }
    }

    /// Sets the identifier of an extension; 0 takes it out.
    pub const fn set(&mut self, kind: ExtensionKind, id: u8) {
        let slot = match kind {
            ExtensionKind::Mid => &mut self.mid,
            ExtensionKind::Rid => &mut self.rid,
            ExtensionKind::RepairedRid => &mut self.rrid,
            ExtensionKind::AbsSendTime => &mut self.abs_send_time,
            ExtensionKind::TransportWideCc => &mut self.transport_wide_cc,
            ExtensionKind::SsrcAudioLevel => &mut self.ssrc_audio_level,
            ExtensionKind::DependencyDescriptor => &mut self.dependency_descriptor,
            ExtensionKind::VideoOrientation => &mut self.video_orientation,
            ExtensionKind::TimeOffset => &mut self.time_offset,
            ExtensionKind::AbsCaptureTime => &mut self.abs_capture_time,
            ExtensionKind::PlayoutDelay => &mut self.playout_delay,
            ExtensionKind::MediasoupPacketId => &mut self.mediasoup_packet_id,
        };
        *slot = id;
    }

    /// The media section's identifier.
    #[must_use]
    pub fn read_mid<'p>(&self, header: &RtpHeader, packet: &'p [u8]) -> Option<&'p str> {
        text(header.extension(packet, self.mid)?)
    }

    /// The stream identifier.
    #[must_use]
    pub fn read_rid<'p>(&self, header: &RtpHeader, packet: &'p [u8]) -> Option<&'p str> {
        text(header.extension(packet, self.rid)?)
    }

    /// The identifier of the stream that this one repairs.
    #[must_use]
    pub fn read_rrid<'p>(&self, header: &RtpHeader, packet: &'p [u8]) -> Option<&'p str> {
        text(header.extension(packet, self.rrid)?)
    }

    /// The audio level.
    #[must_use]
    pub fn read_audio_level(&self, header: &RtpHeader, packet: &[u8]) -> Option<AudioLevel> {
        let &byte = header.extension(packet, self.ssrc_audio_level)?.first()?;
        Some(AudioLevel { voice: byte & 0x80 != 0, minus_dbov: byte & 0x7f })
    }

    /// The transport-wide sequence number.
    #[must_use]
    pub fn read_transport_wide_cc(&self, header: &RtpHeader, packet: &[u8]) -> Option<u16> {
        header.extension(packet, self.transport_wide_cc)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// The absolute send time: 24 bits, seconds in 6.18 fixed point, wrapping every 64 s.
    #[must_use]
    pub fn read_abs_send_time(&self, header: &RtpHeader, packet: &[u8]) -> Option<u32> {
        let &[a, b, c] = header.extension(packet, self.abs_send_time)?.first_chunk::<3>()?;
        Some(u32::from_be_bytes([0, a, b, c]))
    }

    /// The orientation of the picture.
    #[must_use]
    pub fn read_video_orientation(&self, header: &RtpHeader, packet: &[u8]) -> Option<VideoOrientation> {
        let &byte = header.extension(packet, self.video_orientation)?.first()?;
        let rotation_degrees = match byte & 0x03 {
            0 => 0,
            1 => 90,
            2 => 180,
            _ => 270,
        };
        Some(VideoOrientation { back_camera: byte & 0x08 != 0, flip: byte & 0x04 != 0, rotation_degrees })
    }

    /// Finds the elements that consumers get, in one pass. The caller may exchange values (an
    /// abs-capture-time whose clock offset has to be corrected) or take some out before it writes
    /// headers with them.
    #[must_use]
    pub fn forwarded<'p>(&self, header: &RtpHeader, packet: &'p [u8]) -> ForwardedElements<'p> {
        let mut found = ForwardedElements::new();
        for element in header.elements(packet) {
            let kind = ExtensionKind::ALL
                .into_iter()
                .filter(|kind| kind.is_forwarded())
                .find(|&kind| self.id(kind) == element.id && element.id != 0);
            if let Some(kind) = kind
                // Of a capture time there are two forms, with a clock offset and without.
                && (kind != ExtensionKind::AbsCaptureTime || matches!(element.value.len(), 8 | 16))
                && found.iter().all(|&(known, _)| known != kind)
                && found.try_push((kind, element.value)).is_err()
            {
                break;
            }
        }
        found
    }
}

/// Identifiers are text without a terminator; some senders fill the element up with zero bytes.
fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    let trimmed = value.get(..end).unwrap_or_default();
    std::str::from_utf8(trimmed).ok().filter(|text| !text.is_empty())
}

/// The 24-bit absolute send time of an instant, given as time since any fixed epoch: only differences count.
#[must_use]
pub fn abs_send_time_from_epoch(since_epoch: Duration) -> u32 {
    let fraction = (u64::from(since_epoch.subsec_nanos()) << 18).wrapping_div(1_000_000_000);
    let seconds = (since_epoch.as_secs() & 0x3f) << 18;
    ((seconds | fraction) & 0x00ff_ffff) as u32
}
