//! The dependency descriptor header extension (AV1 RTP payload specification, appendix A): which frame a packet is
//! of, what that is predicted from, and for which decode targets it is needed.
//!
//! Most packets name a template of a structure that a key frame announced, so a descriptor is read with the newest
//! structure at hand. It is used with AV1, and with H264 for temporal layers.

use arrayvec::ArrayVec;

use super::layers::{LayerFrame, Layering, References, TargetSet};
use crate::sequence::Unwrapper;

/// Templates of a structure at most: their identifiers have six bits.
pub const MAX_TEMPLATES: usize = 64;
/// Decode targets at most: five bits, counted from one.
pub const MAX_DECODE_TARGETS: usize = 32;

/// Why a descriptor could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// It ends too early, or has more templates, references or layers than there can be.
    #[error("dependency descriptor is malformed")]
    Malformed,
    /// It names a template of a structure that was not seen.
    #[error("dependency descriptor names an unknown template")]
    UnknownTemplate,
}

/// What a frame is to a decode target (section A.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indication {
    /// Not part of it.
    NotPresent,
    /// Part of it, and no later frame of it depends on this one.
    Discardable,
    /// Part of it, and a receiver may go over to it here.
    Switch,
    /// Part of it.
    Required,
}

/// Which decode targets a frame is part of, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indications {
    /// Part of it in any way.
    pub present: u32,
    /// Part of it, and a receiver may go over to it here.
    pub switch: u32,
    /// Part of it, and no later frame of it depends on this one.
    pub discardable: u32,
}

impl Indications {
    /// What the frame is to one decode target.
    #[must_use]
    pub const fn of(self, target: u8) -> Indication {
        let bit = 1_u32 << (target & 31);
        if self.switch & bit != 0 {
            Indication::Switch
        } else if self.discardable & bit != 0 {
            Indication::Discardable
        } else if self.present & bit != 0 {
            Indication::Required
        } else {
            Indication::NotPresent
        }
    }

    fn read(bits: &mut Bits<'_>, targets: u8) -> Result<Self, DescriptorError> {
        let mut indications = Self::default();
        for target in 0..targets {
            let bit = 1_u32 << (target & 31);
            match bits.take(2)? {
                0 => {}
                1 => {
                    indications.present |= bit;
                    indications.discardable |= bit;
                }
                2 => {
                    indications.present |= bit;
                    indications.switch |= bit;
                }
                _ => indications.present |= bit,
            }
        }
        Ok(indications)
    }
}

/// What frames have in common that are made alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// What such a frame is to each decode target.
    pub indications: Indications,
    /// How many frames back those lie that it is predicted from.
    pub references: References,
    /// Per chain, how many frames back the chain's frame before lies; 0 for none.
    pub chains: ArrayVec<u8, MAX_DECODE_TARGETS>,
}

/// A template dependency structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// The identifier of the first template.
    pub template_id_offset: u8,
    /// At least one.
    pub templates: ArrayVec<Template, MAX_TEMPLATES>,
    /// The highest spatial and temporal layer of each decode target.
    pub target_layers: ArrayVec<(u8, u8), MAX_DECODE_TARGETS>,
    /// Which chain protects each decode target; empty where there are no chains.
    pub protected_by: ArrayVec<u8, MAX_DECODE_TARGETS>,
    /// How many chains there are.
    pub chain_count: u8,
    /// Width and height of each spatial layer, where given.
    pub resolutions: ArrayVec<(u16, u16), 4>,
}

impl Structure {
    /// Decode targets, 1 to 32.
    #[must_use]
    pub const fn target_count(&self) -> u8 {
        self.target_layers.len() as u8
    }

    /// A mask with the bits of all decode targets.
    #[must_use]
    pub fn all_targets(&self) -> u32 {
        u32::MAX.checked_shr(32_u32.saturating_sub(u32::from(self.target_count()))).unwrap_or(0)
    }

    /// Decode targets, one bit each, as the layers that they consist of.
    #[must_use]
    pub fn layers_of(&self, targets: u32) -> TargetSet {
        self.target_layers
            .iter()
            .zip(0_u32..)
            .filter(|&(_, index)| targets & (1 << (index & 31)) != 0)
            .fold(TargetSet::NONE, |set, (&(spatial, temporal), _)| set.or(TargetSet::one(spatial, temporal)))
    }

    /// The decode targets, one bit each, within a spatial and a temporal layer.
    #[must_use]
    pub fn targets_within(&self, spatial: u8, temporal: u8) -> u32 {
        self.target_layers
            .iter()
            .zip(0_u32..)
            .filter(|&(&(s, t), _)| s <= spatial && t <= temporal)
            .fold(0, |targets, (_, index)| targets | 1 << (index & 31))
    }

    fn read(bits: &mut Bits<'_>) -> Result<Self, DescriptorError> {
        let template_id_offset = bits.take(6)? as u8;
        let targets = (bits.take(5)? as u8).saturating_add(1);
        let mut structure = Self {
            template_id_offset,
            templates: ArrayVec::new(),
            target_layers: ArrayVec::new(),
            protected_by: ArrayVec::new(),
            chain_count: 0,
            resolutions: ArrayVec::new(),
        };
        structure.read_layers(bits)?;
        for template in &mut structure.templates {
            template.indications = Indications::read(bits, targets)?;
        }
        for template in &mut structure.templates {
            while bits.flag()? {
                let distance = (bits.take(4)? as u16).saturating_add(1);
                if !template.references.push(distance) {
                    return Err(DescriptorError::Malformed);
                }
            }
        }
        structure.read_chains(bits, targets)?;
        structure.target_layers = (0..targets).map(|target| structure.layers_of_target(target)).collect();
        if bits.flag()? {
            let spatial_layers = structure.templates.iter().map(|template| template.spatial).max();
            for _ in 0..=spatial_layers.unwrap_or(0) {
                let resolution = (bits.take(16)? as u16, bits.take(16)? as u16);
                let plus_one = (resolution.0.saturating_add(1), resolution.1.saturating_add(1));
                structure.resolutions.try_push(plus_one).map_err(|_| DescriptorError::Malformed)?;
            }
        }
        Ok(structure)
    }

    fn read_layers(&mut self, bits: &mut Bits<'_>) -> Result<(), DescriptorError> {
        let (mut spatial, mut temporal) = (0_u8, 0_u8);
        loop {
            let template = Template {
                spatial,
                temporal,
                indications: Indications::default(),
                references: References::default(),
                chains: ArrayVec::new(),
            };
            self.templates.try_push(template).map_err(|_| DescriptorError::Malformed)?;
            match bits.take(2)? {
                0 => {}
                1 => temporal = temporal.saturating_add(1),
                2 => (spatial, temporal) = (spatial.saturating_add(1), 0),
                _ => return Ok(()),
            }
            if spatial >= 4 || temporal >= 8 {
                return Err(DescriptorError::Malformed);
            }
        }
    }

    fn read_chains(&mut self, bits: &mut Bits<'_>, targets: u8) -> Result<(), DescriptorError> {
        let chains = bits.below(u32::from(targets).saturating_add(1))?;
        self.chain_count = chains as u8;
        if chains == 0 {
            return Ok(());
        }
        for _ in 0..targets {
            self.protected_by.push(bits.below(chains)? as u8);
        }
        for template in &mut self.templates {
            for _ in 0..chains {
                template.chains.push(bits.take(4)? as u8);
            }
        }
        Ok(())
    }

    fn layers_of_target(&self, target: u8) -> (u8, u8) {
        let part_of = |template: &&Template| template.indications.present & (1 << (target & 31)) != 0;
        self.templates.iter().filter(part_of).fold((0, 0), |(spatial, temporal), template| {
            (spatial.max(template.spatial), temporal.max(template.temporal))
        })
    }
}

/// One packet's descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The packet is the first of its frame.
    pub start: bool,
    /// The packet is the last of its frame.
    pub end: bool,
    /// Frame number, 16 bits.
    pub frame_number: u16,
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// What the frame is to each decode target.
    pub indications: Indications,
    /// How many frames back those lie that it is predicted from.
    pub references: References,
    /// Per chain, how many frames back the chain's frame before lies.
    pub chains: ArrayVec<u8, MAX_DECODE_TARGETS>,
    /// The structure that the packet announces.
    pub structure: Option<Box<Structure>>,
    /// The decode targets that are produced from here on, one bit each, where the packet says so.
    pub active_targets: Option<u32>,
}

impl Descriptor {
    /// Reads a descriptor; `known` is the newest structure that was announced.
    ///
    /// # Errors
    /// See [`DescriptorError`].
    pub fn parse(value: &[u8], known: Option<&Structure>) -> Result<Self, DescriptorError> {
        let mut bits = Bits::new(value);
        let (start, end) = (bits.flag()?, bits.flag()?);
        let template_id = bits.take(6)? as u8;
        let frame_number = bits.take(16)? as u16;
        let (mut announced, mut active_targets) = (None, None);
        let (mut own_indications, mut own_references, mut own_chains) = (false, false, false);
        if value.len() > 3 {
            let (has_structure, has_active) = (bits.flag()?, bits.flag()?);
            (own_indications, own_references, own_chains) = (bits.flag()?, bits.flag()?, bits.flag()?);
            if has_structure {
                let structure = Structure::read(&mut bits)?;
                active_targets = Some(structure.all_targets());
                announced = Some(Box::new(structure));
            }
            if has_active {
                let structure = announced.as_deref().or(known).ok_or(DescriptorError::UnknownTemplate)?;
                active_targets = Some(bits.take(u32::from(structure.target_count()))?);
            }
        }
        let structure = announced.as_deref().or(known).ok_or(DescriptorError::UnknownTemplate)?;
        let index = template_id.wrapping_sub(structure.template_id_offset) & 0x3f;
        let template = structure.templates.get(usize::from(index)).ok_or(DescriptorError::UnknownTemplate)?;
        let indications = if own_indications {
            Indications::read(&mut bits, structure.target_count())?
        } else {
            template.indications
        };
        let references = if own_references { read_references(&mut bits)? } else { template.references };
        let chains = if own_chains {
            (0..structure.chain_count).map(|_| Ok(bits.take(8)? as u8)).collect::<Result<_, _>>()?
        } else {
            template.chains.clone()
        };
        Ok(Self {
            start,
            end,
            frame_number,
            spatial: template.spatial,
            temporal: template.temporal,
            indications,
            references,
            chains,
            active_targets,
            structure: announced,
        })
    }
}

fn read_references(bits: &mut Bits<'_>) -> Result<References, DescriptorError> {
    let mut references = References::default();
    loop {
        let nibbles = bits.take(2)?;
        if nibbles == 0 {
            return Ok(references);
        }
        let distance = (bits.take(nibbles.saturating_mul(4))? as u16).saturating_add(1);
        if !references.push(distance) {
            return Err(DescriptorError::Malformed);
        }
    }
}

/// Reads the layers of one received stream, packet by packet.
#[derive(Clone, Debug, Default)]
pub struct LayerReader {
    structure: Option<Box<Structure>>,
    /// The frame that announced it.
    structure_number: u64,
    numbers: Unwrapper<16>,
    active: u32,
}

/// A frame that announces a structure and is this much older than the newest is no late one: the sender numbers anew.
const FRAME_WINDOW: u64 = 256;

/// What a descriptor tells of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The packet's frame.
    pub layering: Layering,
    /// A receiver that has nothing yet can start here.
    pub key_frame: bool,
    /// The packet announces the structure that others need.
    pub announces: bool,
}

impl LayerReader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest structure.
    #[must_use]
    pub fn structure(&self) -> Option<&Structure> {
        self.structure.as_deref()
    }

    /// Learns from a packet that comes for the first time, and tells what its frame is.
    pub fn read(&mut self, value: &[u8]) -> Read {
        let mut descriptor = match Descriptor::parse(value, self.structure.as_deref()) {
            Ok(descriptor) => descriptor,
            Err(error) => return Read::failed(error),
        };
        let announces = descriptor.structure.is_some();
        let behind = self
            .numbers
            .newest()
            .map_or(0, |newest| newest.saturating_sub(self.numbers.peek(descriptor.frame_number)));
        if announces && behind >= FRAME_WINDOW {
            *self = Self::new();
        }
        let number = self.numbers.extend(descriptor.frame_number);
        if let Some(active) = descriptor.active_targets {
            self.active = active;
        }
        // One that comes late must not take the place of its successor.
        if announces && (self.structure.is_none() || number >= self.structure_number) {
            self.structure_number = number;
            self.structure = descriptor.structure.take();
        }
        self.describe(&descriptor, announces)
    }

    /// What the frame of a packet is, which may have come before.
    #[must_use]
    pub fn look(&self, value: &[u8]) -> Read {
        match Descriptor::parse(value, self.structure.as_deref()) {
            Ok(descriptor) => self.describe(&descriptor, descriptor.structure.is_some()),
            Err(error) => Read::failed(error),
        }
    }

    fn describe(&self, descriptor: &Descriptor, announces: bool) -> Read {
        let Some(structure) = descriptor.structure.as_deref().or(self.structure.as_deref()) else {
            return Read::failed(DescriptorError::UnknownTemplate);
        };
        let frame = LayerFrame {
            number: self.numbers.peek(descriptor.frame_number),
            spatial: descriptor.spatial,
            temporal: descriptor.temporal,
            present: structure.layers_of(descriptor.indications.present),
            switch: structure.layers_of(descriptor.indications.switch),
            switching_up_point: false,
            needs_lower: false,
            references: descriptor.references,
            active: structure.layers_of(self.active),
            start: descriptor.start,
            end: descriptor.end,
        };
        let key_frame = announces && descriptor.start && descriptor.references.is_empty();
        Read { layering: Layering::Frame(frame), key_frame, announces }
    }
}

impl Read {
    fn failed(error: DescriptorError) -> Self {
        let layering = match error {
            DescriptorError::UnknownTemplate => Layering::Unknown,
            DescriptorError::Malformed => Layering::Plain,
        };
        Self { layering, ..Self::default() }
    }
}

/// Reads bits, the most significant first.
struct Bits<'v> {
    bytes: &'v [u8],
    at: usize,
}

impl<'v> Bits<'v> {
    const fn new(bytes: &'v [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn flag(&mut self) -> Result<bool, DescriptorError> {
        Ok(self.take(1)? != 0)
    }

    /// The next `count` bits, at most 32, as a number.
    fn take(&mut self, count: u32) -> Result<u32, DescriptorError> {
        let mut value = 0_u32;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(DescriptorError::Malformed)?;
            let shift = 7_usize.saturating_sub(self.at % 8);
            value = (value << 1) | u32::from((byte >> shift) & 1);
            self.at = self.at.saturating_add(1);
        }
        Ok(value)
    }

    /// A number below `limit`, in as few bits as that takes: the specification's `ns(n)`.
    fn below(&mut self, limit: u32) -> Result<u32, DescriptorError> {
        let Some(top) = limit.checked_ilog2() else { return Ok(0) };
        let width = top.saturating_add(1);
        let short = (1_u32 << (width & 31)).saturating_sub(limit);
        let value = self.take(width.saturating_sub(1))?;
        if value < short {
            return Ok(value);
        }
        Ok((value << 1).saturating_sub(short).saturating_add(self.take(1)?))
    }
}

#[cfg(test)]
mod tests;
