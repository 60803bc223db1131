//! VP8 payload descriptors (RFC 7741, section 4.2), and their rewriting for a consumer that is switched
//! between simulcast streams and spared temporal layers: to its decoder the picture numbers must look
//! like one unbroken stream.

use super::PayloadInfo;
use crate::sequence::{Mapper, Unwrapper};

/// The longest descriptor: flags, extension flags, a long picture id, TL0PICIDX, and the TID byte.
pub const MAX_DESCRIPTOR_LEN: usize = 6;

/// The temporal layer's part of the descriptor (TID, Y and KEYIDX).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerIndices {
    /// Temporal layer, TID; meaningful where the T bit was set.
    pub temporal: u8,
    /// Layer sync, Y: the frame depends on base layer frames only.
    pub sync: bool,
}

/// A parsed descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The descriptor's length: the VP8 payload header starts here.
    pub len: u8,
    /// Start of a partition, S.
    pub start: bool,
    /// Partition index, PID.
    pub partition: u8,
    /// Non-reference frame, N: it may be dropped without harm to others.
    pub non_reference: bool,
    /// Frame number, 7 or 15 bits.
    pub picture_id: Option<u16>,
    /// Whether the picture number has 15 bits.
    pub long_picture_id: bool,
    /// Index of the last base layer frame, TL0PICIDX.
    pub tl0_picture_index: Option<u8>,
    /// The temporal layer, where the stream tells it.
    pub layers: Option<LayerIndices>,
    /// The packet starts a key frame.
    pub key_frame: bool,
}

impl Descriptor {
    /// Parses the start of a payload; `None` where it ends within the descriptor.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (&first, mut rest) = payload.split_first()?;
        let mut descriptor = Self {
            len: 0,
            start: first & 0x10 != 0,
            partition: first & 0x07,
            non_reference: first & 0x20 != 0,
            picture_id: None,
            long_picture_id: false,
            tl0_picture_index: None,
            layers: None,
            key_frame: false,
        };
        if first & 0x80 != 0 {
            let (&present, after) = rest.split_first()?;
            rest = after;
            if present & 0x80 != 0 {
                let (&high, after) = rest.split_first()?;
                rest = after;
                descriptor.picture_id = Some(u16::from(high));
                if high & 0x80 != 0 {
                    let (&low, after) = rest.split_first()?;
                    rest = after;
                    descriptor.picture_id = Some(u16::from_be_bytes([high & 0x7f, low]));
                    descriptor.long_picture_id = true;
                }
            }
            if present & 0x40 != 0 {
                let (&index, after) = rest.split_first()?;
                rest = after;
                descriptor.tl0_picture_index = Some(index);
            }
            if present & 0x30 != 0 {
                let (&indices, after) = rest.split_first()?;
                rest = after;
                if present & 0x20 != 0 {
                    descriptor.layers =
                        Some(LayerIndices { temporal: indices >> 6, sync: indices & 0x20 != 0 });
                }
            }
        }
        // The payload header's P bit is 0 in key frames (RFC 7741, section 4.3).
        descriptor.key_frame = descriptor.start
            && descriptor.partition == 0
            && rest.first().is_some_and(|first| first & 0x01 == 0);
        descriptor.len = payload.len().saturating_sub(rest.len()) as u8;
        Some(descriptor)
    }

    /// The temporal layer, 0 where the stream tells none.
    #[must_use]
    pub fn temporal_layer(&self) -> u8 {
        self.layers.map_or(0, |layers| layers.temporal)
    }

    /// The codec-independent summary.
    #[must_use]
    pub fn info(&self, marker: bool) -> PayloadInfo {
        PayloadInfo {
            key_frame: self.key_frame,
            start_of_frame: self.start && self.partition == 0,
            end_of_frame: marker,
            spatial_layer: 0,
            temporal_layer: self.temporal_layer(),
            switch_up: self.layers.is_some_and(|layers| layers.sync),
            dtx: false,
        }
    }

    /// Writes the descriptor of `payload` (the one that this was parsed from) with other picture
    /// numbers into `out`, and returns the length: it takes the place of the payload's first `self.len`
    /// bytes. Picture numbers always get the 15-bit form, as a map over switches needs more than 7
    /// bits.
    #[must_use]
    pub fn write(&self, payload: &[u8], picture: Picture, out: &mut [u8; MAX_DESCRIPTOR_LEN]) -> usize {
        let mut at = 0_usize;
        let mut put = |byte: u8| {
            if let Some(slot) = out.get_mut(at) {
                *slot = byte;
                at = at.saturating_add(1);
            }
        };
        let mut rest = payload.get(..usize::from(self.len)).unwrap_or_default().iter().copied();
        // Flags and extension flags stay.
        rest.by_ref().take(2).for_each(&mut put);
        if self.picture_id.is_some() {
            let [high, low] = picture.picture_id.to_be_bytes();
            put(high | 0x80);
            put(low);
            rest.by_ref().take(if self.long_picture_id { 2 } else { 1 }).for_each(drop);
        }
        if self.tl0_picture_index.is_some() {
            put(picture.tl0_picture_index);
            rest.by_ref().take(1).for_each(drop);
        }
        rest.for_each(put);
        at
    }

    /// Puts other picture numbers into a copied payload in place. `false`, and nothing changed, where
    /// its picture number has only 7 bits: then [`Descriptor::write`] must be used.
    #[must_use]
    pub fn patch(&self, payload: &mut [u8], picture: Picture) -> bool {
        if self.picture_id.is_some() && !self.long_picture_id {
            return false;
        }
        let mut out = [0; MAX_DESCRIPTOR_LEN];
        let len = self.write(payload, picture, &mut out);
        if let (Some(slot), Some(written)) = (payload.get_mut(..len), out.get(..len)) {
            slot.copy_from_slice(written);
        }
        true
    }
}

/// The picture numbers that a consumer's packet gets: to be kept with its sequence number, for a repeat
/// must carry the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Frame number, 15 bits; meaningless where the packet has none.
    pub picture_id: u16,
    /// Index of the last base layer frame; meaningless where the packet has none.
    pub tl0_picture_index: u8,
}

/// Decides, packet by packet, which temporal layers one consumer gets, and numbers its pictures without
/// gaps over drops and switches.
///
/// Order of calls: [`Rewriter::sync`] whenever another stream, or the same one after a pause, goes on
/// with a key frame; then [`Rewriter::process`] for each packet.
#[derive(Clone, Debug)]
pub struct Rewriter {
    target_temporal_layer: u8,
    current_temporal_layer: u8,
    /// Bit `t` is set when a frame of temporal layer `t` was dropped since its last sync point: later
    /// frames of `t` and above may depend on it.
    broken_layers: u8,
    sync_pending: bool,
    picture_input: Unwrapper<15>,
    picture_ids: Mapper<PICTURE_WORDS>,
    /// What is added to this stream's TL0PICIDX; base frames are never dropped, so it stays the same
    /// until the next switch.
    tl0_offset: Option<u8>,
    newest_tl0: u8,
}

/// The words of the picture map: it knows the fate of the newest 256 pictures.
const PICTURE_WORDS: usize = 4;

/// A key frame this much older than the newest picture is no late one: the sender has started numbering anew.
const PICTURE_WINDOW: u64 = 256;

impl Default for Rewriter {
    fn default() -> Self {
        Self::new()
    }
}

impl Rewriter {
    /// The highest temporal layer that a descriptor can name.
    pub const MAX_TEMPORAL_LAYER: u8 = 3;

    /// A rewriter that has sent nothing and wants every layer.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            target_temporal_layer: Self::MAX_TEMPORAL_LAYER,
            current_temporal_layer: 0,
            broken_layers: 0,
            sync_pending: false,
            picture_input: Unwrapper::new(),
            picture_ids: Mapper::new(1),
            tl0_offset: None,
            newest_tl0: 0,
        }
    }

    /// The next packet starts another stream, or goes on after a pause.
    pub const fn sync(&mut self) {
        self.sync_pending = true;
    }

    /// Sets the highest temporal layer that is wanted. Downwards it takes effect with the next frame,
    /// upwards with the next frame that is a sync point.
    pub fn set_target_temporal_layer(&mut self, layer: u8) {
        self.target_temporal_layer = layer.min(Self::MAX_TEMPORAL_LAYER);
        self.current_temporal_layer = self.current_temporal_layer.min(self.target_temporal_layer);
    }

    /// The highest temporal layer that is being sent.
    #[must_use]
    pub const fn current_temporal_layer(&self) -> u8 {
        self.current_temporal_layer
    }

    /// The numbers for a packet, or `None` when it is not to be sent: its temporal layer is not wanted,
    /// cannot be decoded, or it comes from before the last switch. The caller then takes its sequence
    /// number out of the consumer's numbering.
    pub fn process(&mut self, descriptor: &Descriptor) -> Option<Picture> {
        if std::mem::take(&mut self.sync_pending) {
            self.start_stream();
        }
        let Some(picture_id) = descriptor.picture_id else {
            let sent = self.decide(descriptor);
            return sent
                .then(|| Picture { picture_id: 0, tl0_picture_index: self.map_tl0(descriptor, true) });
        };
        let mut picture = self.picture_input.peek(picture_id);
        if descriptor.key_frame
            && self
                .picture_input
                .newest()
                .is_some_and(|newest| newest.saturating_sub(picture) >= PICTURE_WINDOW)
        {
            self.start_stream();
            picture = self.picture_input.peek(picture_id);
        }
        let newest = self.picture_input.newest();
        if newest.is_none() {
            self.picture_ids.sync(picture);
        }
        let is_new_frame = newest.is_none_or(|newest| picture > newest);
        if is_new_frame {
            self.picture_input.extend(picture_id);
            if !self.decide(descriptor) {
                self.picture_ids.drop_input(picture);
                return None;
            }
        } else if newest != Some(picture) && descriptor.temporal_layer() > self.target_temporal_layer {
            // Late, and of a frame that nothing is known of but its place. (Of the newest frame, all
            // packets share one fate.)
            return None;
        }
        let picture_id = self.picture_ids.map(picture)?;
        let tl0_picture_index = self.map_tl0(descriptor, is_new_frame);
        Some(Picture { picture_id: (picture_id & 0x7fff) as u16, tl0_picture_index })
    }

    fn start_stream(&mut self) {
        self.broken_layers = 0;
        self.current_temporal_layer = 0;
        self.picture_input = Unwrapper::new();
        self.tl0_offset = None;
    }

    fn map_tl0(&mut self, descriptor: &Descriptor, is_new_frame: bool) -> u8 {
        let Some(index) = descriptor.tl0_picture_index else { return 0 };
        let next = self.newest_tl0.wrapping_add(1);
        let offset = *self.tl0_offset.get_or_insert(next.wrapping_sub(index));
        let mapped = index.wrapping_add(offset);
        if is_new_frame {
            self.newest_tl0 = mapped;
        }
        mapped
    }

    /// Whether a new frame is sent: it is wanted and can be decoded.
    fn decide(&mut self, descriptor: &Descriptor) -> bool {
        let layer = descriptor.temporal_layer();
        let bit = 1_u8.checked_shl(u32::from(layer)).unwrap_or(0);
        let up_to_layer = bit | bit.saturating_sub(1);
        let is_sync_point = descriptor.key_frame || descriptor.layers.is_some_and(|layers| layers.sync);
        let decodable = is_sync_point || self.broken_layers & up_to_layer == 0;
        if layer > self.target_temporal_layer || !decodable {
            self.broken_layers |= bit;
            self.current_temporal_layer = self.current_temporal_layer.min(layer.saturating_sub(1));
            return false;
        }
        if descriptor.key_frame {
            self.broken_layers = 0;
        }
        self.broken_layers &= !bit;
        self.current_temporal_layer = self.current_temporal_layer.max(layer);
        true
    }
}
