//! Streams with layers inside: what one frame of such a stream is to whom, and which frames one consumer gets.
//!
//! VP9's payload descriptor and the AV1 dependency descriptor say the same things in two ways. Both are turned into
//! a [`LayerFrame`], in terms of *targets*: a target is a spatial and a temporal layer with all that they need. A
//! [`Selector`] then follows one consumer's wish. It knows no packets' numbers, no clock and no bitrates.
//!
//! The rules: a consumer follows one target at a time. Frames that are not part of it are dropped. A target is
//! *whole* as long as none of its frames was dropped since a frame at which a receiver may switch to it; only to a
//! whole target may the consumer go over. So full SVC goes down at once, while spatial layers that depend on each
//! other in key frames only wait for the next one in both directions. Targets change between pictures, except that
//! a picture that makes a better target decodable is taken whole.

/// Layers of either kind at most: three bits in VP9's descriptor, less in AV1's.
pub const MAX_LAYERS: u8 = 8;

/// A set of targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetSet(u64);

impl TargetSet {
    /// No target.
    pub const NONE: Self = Self(0);
    /// Every target.
    pub const ALL: Self = Self(u64::MAX);
    const FIRST_COLUMN: u64 = 0x0101_0101_0101_0101;
    const PLACES: usize = 64;

    /// The place of a target in the set.
    const fn place(spatial: u8, temporal: u8) -> usize {
        (((spatial & 7) << 3) | (temporal & 7)) as usize
    }

    /// The places that are taken.
    fn places(self) -> impl Iterator<Item = usize> {
        (0..Self::PLACES).filter(move |place| self.0 >> place & 1 == 1)
    }

    /// One target.
    #[must_use]
    pub const fn one(spatial: u8, temporal: u8) -> Self {
        Self(1 << Self::place(spatial, temporal))
    }

    /// The targets of one spatial layer from a temporal layer upwards.
    #[must_use]
    pub const fn row(spatial: u8, from_temporal: u8) -> Self {
        let row = (0xff_u64 << (from_temporal & 7)) & 0xff;
        Self(row << ((spatial & 7) << 3))
    }

    /// The targets from a spatial and a temporal layer upwards, in both directions.
    #[must_use]
    pub const fn from(spatial: u8, temporal: u8) -> Self {
        let row = (0xff_u64 << (temporal & 7)) & 0xff;
        Self((row.wrapping_mul(Self::FIRST_COLUMN)) & (u64::MAX << ((spatial & 7) << 3)))
    }

    /// The targets up to a spatial and a temporal layer, in both directions.
    #[must_use]
    pub const fn up_to(spatial: u8, temporal: u8) -> Self {
        let row = 0xff_u64 >> (7_u8.saturating_sub(temporal) & 7);
        Self((row.wrapping_mul(Self::FIRST_COLUMN)) & (u64::MAX >> ((7_u8.saturating_sub(spatial) & 7) << 3)))
    }

    /// Targets that are in either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Targets that are in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Targets that are in this set and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether a target is in the set.
    #[must_use]
    pub const fn has(self, target: Target) -> bool {
        self.0 & Self::one(target.spatial, target.temporal).0 != 0
    }

    /// Whether the set has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The target with the highest spatial layer, and of these the one with the highest temporal layer.
    #[must_use]
    pub const fn best(self) -> Option<Target> {
        let Some(index) = self.0.checked_ilog2() else { return None };
        Some(Target { spatial: (index >> 3) as u8, temporal: (index & 7) as u8 })
    }

    /// The same temporal layers one spatial layer higher.
    const fn one_up(self) -> Self {
        Self(self.0 << 8)
    }
}

/// A spatial and a temporal layer, with all that they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Spatial layer, 0 the lowest.
    pub spatial: u8,
    /// Temporal layer, 0 the lowest.
    pub temporal: u8,
}

/// Frames that a frame is predicted from, as distances in frame numbers; AV1 has seven references a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References {
    distances: [u16; Self::MAX],
    count: u8,
}

impl References {
    /// References at most.
    pub const MAX: usize = 8;

    /// Adds one; `false` where there is no room.
    #[must_use]
    pub fn push(&mut self, distance: u16) -> bool {
        let Some(slot) = self.distances.get_mut(usize::from(self.count)) else { return false };
        *slot = distance;
        self.count = self.count.saturating_add(1);
        true
    }

    /// The distances.
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        self.distances.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What one packet's frame is: a picture's frame of one spatial layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFrame {
    /// Extended frame number; each layer frame has its own, ascending in coding order.
    pub number: u64,
    /// Its spatial layer.
    pub spatial: u8,
    /// Its temporal layer.
    pub temporal: u8,
    /// The targets that it is part of.
    pub present: TargetSet,
    /// The targets that can be gone over to at this frame, provided that it can be decoded.
    pub switch: TargetSet,
    /// Higher temporal layers of this spatial layer can be gone over to after this frame, as far as the spatial
    /// layer below allows: VP9's switching up point.
    pub switching_up_point: bool,
    /// It is predicted from the spatial layer below.
    pub needs_lower: bool,
    /// What it needs in order to be decoded; of VP9 only what bears on a switch.
    pub references: References,
    /// The targets that the sender produces at the moment.
    pub active: TargetSet,
    /// The packet is the first of the frame.
    pub start: bool,
    /// The packet is the last of the frame.
    pub end: bool,
}

/// What a stream tells of a packet's layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layering {
    /// The stream does not tell: it is forwarded as it comes.
    #[default]
    Plain,
    /// The stream tells, but by what was announced in a packet that has not arrived.
    Unknown,
    /// This.
    Frame(LayerFrame),
}

impl Layering {
    /// The frame, where it is known.
    #[must_use]
    pub const fn frame(&self) -> Option<&LayerFrame> {
        match self {
            Self::Frame(frame) => Some(frame),
            Self::Plain | Self::Unknown => None,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// It goes out.
    Forward {
        /// It ends what the consumer gets of its picture: the RTP marker bit belongs on it.
        ends_picture: bool,
    },
    /// It does not, and its number is taken out of the consumer's numbering.
    Drop,
}

/// Which frames one consumer gets.
#[derive(Clone, Debug)]
pub struct Selector {
    wanted: Option<Target>,
    current: Option<Target>,
    /// No frame of these was dropped since a frame that starts them.
    whole: TargetSet,
    /// Since which frame each of them has been so, by place in the set; the lower half of its number.
    whole_since: [u32; TargetSet::PLACES],
    frames: FrameWindow,
    /// What was forwarded, the newest first: a late frame is judged by what was so at its place, and by what came after it.
    history: [Epoch; HISTORY],
    /// The RTP timestamp of the newest picture.
    timestamp: u32,
}

/// A stretch of frames of which the same target was forwarded.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    target: Option<Target>,
    /// Its first frame.
    since: u64,
    /// The first frame that its target needs: earlier where it had been whole before, without being forwarded.
    needs: u64,
}

impl Epoch {
    const NONE: Self = Self { target: None, since: 0, needs: 0 };
}

/// Changes of the target remembered; a frame so late that there were more since then is not sent.
const HISTORY: usize = 4;

impl Default for Selector {
    fn default() -> Self {
        Self::new()
    }
}

impl Selector {
    /// A selector that wants nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            wanted: None,
            current: None,
            whole: TargetSet::NONE,
            whole_since: [0; TargetSet::PLACES],
            frames: FrameWindow::new(),
            history: [Epoch::NONE; HISTORY],
            timestamp: 0,
        }
    }

    /// What to aim at; `None` for nothing.
    pub fn set_target(&mut self, target: Option<Target>) {
        self.wanted = target;
        if target.is_none() {
            self.restart();
        }
    }

    /// What is aimed at.
    #[must_use]
    pub const fn target(&self) -> Option<Target> {
        self.wanted
    }

    /// What is being forwarded; `None` before the first frame.
    #[must_use]
    pub const fn current(&self) -> Option<Target> {
        self.current
    }

    /// Whether the spatial layer that is aimed at can be reached without a key frame.
    #[must_use]
    pub fn needs_key_frame(&self) -> bool {
        let Some(wanted) = self.wanted else { return false };
        match self.current {
            None => true,
            Some(current) if current.spatial == wanted.spatial => false,
            Some(_) => self.whole.and(TargetSet::row(wanted.spatial, 0)).is_empty(),
        }
    }

    /// Forgets what was forwarded: the stream goes on after a pause, or another one does.
    pub fn restart(&mut self) {
        self.current = None;
        self.whole = TargetSet::NONE;
        self.frames = FrameWindow::new();
        self.history = [Epoch::NONE; HISTORY];
    }

    /// Decides about a packet. `timestamp` is its RTP timestamp, which all frames of a picture share.
    pub fn select(&mut self, frame: &LayerFrame, timestamp: u32) -> Selection {
        let Some(wanted) = self.wanted else { return Selection::Drop };
        let forward = match self.frames.place(frame.number) {
            Place::Known { sent } => sent,
            // The sender has started to number anew.
            Place::Forgotten if !frame.switch.is_empty() && frame.references.is_empty() => {
                self.restart();
                self.decide(frame, wanted, timestamp)
            }
            Place::Forgotten => false,
            // Late, and not a packet of it came in time: part of what is being forwarded, or not.
            Place::Late => {
                let sent = self.is_needed(frame);
                self.record_late(frame, sent);
                sent
            }
            Place::Newest => self.decide(frame, wanted, timestamp),
        };
        match self.current {
            Some(current) if forward => {
                Selection::Forward { ends_picture: frame.end && frame.spatial >= current.spatial }
            }
            _ => Selection::Drop,
        }
    }

    /// Decides about a frame that is newer than all before.
    fn decide(&mut self, frame: &LayerFrame, wanted: Target, timestamp: u32) -> bool {
        let new_picture = self.current.is_none() || timestamp != self.timestamp;
        self.timestamp = timestamp;
        let decodable = self.frames.has_sent_all(frame.number, &frame.references);
        let switch = if decodable { frame.switch.and(frame.active) } else { TargetSet::NONE };
        let allowed = TargetSet::up_to(wanted.spatial, wanted.temporal);
        if new_picture {
            self.current = self.next_target(switch, allowed.and(frame.active), wanted);
        } else if let (Some(current), Some(better)) = (self.current, switch.and(allowed).best())
            && better.spatial > current.spatial
        {
            self.current = Some(better);
        }
        if self.history.first().is_none_or(|newest| newest.target != self.current) {
            self.history.rotate_right(1);
            // The layers below of a new picture are of it, even if they come later.
            let below = if new_picture { u64::from(frame.spatial) } else { 0 };
            let since = frame.number.saturating_sub(below);
            let needs = self.current.and_then(|current| self.needs(current, frame.number)).unwrap_or(since);
            if let Some(newest) = self.history.first_mut() {
                *newest = Epoch { target: self.current, since, needs };
            }
        }
        let sent = self.current.is_some_and(|current| frame.present.has(current));
        self.record(frame, sent);
        sent
    }

    /// The first frame that a target needs, as seen from frame `number`; `None` where it is not whole.
    fn needs(&self, target: Target, number: u64) -> Option<u64> {
        let since = *self.whole_since.get(TargetSet::place(target.spatial, target.temporal))?;
        let age = u64::from((number as u32).wrapping_sub(since));
        self.whole.has(target).then(|| number.saturating_sub(age))
    }

    /// Whether a frame that is late was part of what was being forwarded at its place, or is of what was later.
    fn is_needed(&self, frame: &LayerFrame) -> bool {
        for epoch in &self.history {
            let of_it = epoch.target.is_some_and(|target| frame.present.has(target));
            if of_it && epoch.needs <= frame.number {
                return true;
            }
            if epoch.since <= frame.number {
                return false;
            }
        }
        false
    }

    /// The target of a new picture.
    fn next_target(&self, switch: TargetSet, allowed: TargetSet, wanted: Target) -> Option<Target> {
        if let Some(best) = self.whole.or(switch).and(allowed).best() {
            return Some(best);
        }
        // Nothing of what is wanted is whole. Meanwhile the spatial layer stays, with no more temporal layers than
        // wanted: those are whole wherever higher ones are.
        self.current.map(|current| Target {
            spatial: current.spatial,
            temporal: current.temporal.min(wanted.temporal),
        })
    }

    /// What came behind it was decided without it: it makes nothing whole.
    fn record_late(&mut self, frame: &LayerFrame, sent: bool) {
        self.frames.record(frame.number, sent);
        if !sent {
            self.whole = self.whole.without(frame.present);
        }
    }

    fn record(&mut self, frame: &LayerFrame, sent: bool) {
        self.frames.record(frame.number, sent);
        if !sent {
            self.whole = self.whole.without(frame.present);
            return;
        }
        let mut whole = self.whole.or(frame.switch);
        if frame.switching_up_point {
            let raised = TargetSet::row(frame.spatial, frame.temporal);
            whole = whole.or(if frame.needs_lower { raised.and(whole.one_up()) } else { raised });
        }
        for place in whole.without(self.whole).places() {
            if let Some(since) = self.whole_since.get_mut(place) {
                *since = frame.number as u32;
            }
        }
        self.whole = whole;
    }
}

/// Which of the newest frames came, and which of these were sent.
#[derive(Clone, Debug)]
struct FrameWindow {
    newest: Option<u64>,
    seen: [u64; WORDS],
    sent: [u64; WORDS],
}

/// Of 256 frames: a second of three spatial layers at 60 pictures, and 32 pictures of VP9, whose frame numbers
/// leave room for eight layers.
const WORDS: usize = 4;
const WINDOW: u64 = 64 * WORDS as u64;

enum Place {
    Newest,
    Known { sent: bool },
    Late,
    Forgotten,
}

impl FrameWindow {
    const fn new() -> Self {
        Self { newest: None, seen: [0; WORDS], sent: [0; WORDS] }
    }

    fn place(&self, number: u64) -> Place {
        match self.newest {
            Some(newest) if number <= newest => {
                if newest.saturating_sub(number) >= WINDOW {
                    Place::Forgotten
                } else if self.is_set(&self.seen, number) {
                    Place::Known { sent: self.is_set(&self.sent, number) }
                } else {
                    Place::Late
                }
            }
            _ => Place::Newest,
        }
    }

    fn record(&mut self, number: u64, sent: bool) {
        if self.newest.is_none_or(|newest| number > newest) {
            let skipped = self.newest.map_or(WINDOW, |newest| number.saturating_sub(newest));
            if skipped >= WINDOW {
                (self.seen, self.sent) = ([0; WORDS], [0; WORDS]);
            } else {
                for step in 0..skipped {
                    self.put(number.saturating_sub(step), false, false);
                }
            }
            self.newest = Some(number);
        }
        self.put(number, true, sent);
    }

    /// Whether all that a frame is predicted from was sent.
    fn has_sent_all(&self, number: u64, references: &References) -> bool {
        references.as_slice().iter().all(|&distance| {
            let Some(reference) = number.checked_sub(u64::from(distance)) else { return false };
            matches!(self.place(reference), Place::Known { sent: true })
        })
    }

    fn put(&mut self, number: u64, seen: bool, sent: bool) {
        let bit = Self::bit(number);
        for (words, set) in [(&mut self.seen, seen), (&mut self.sent, sent)] {
            if let Some(word) = words.get_mut(Self::index(number)) {
                *word = if set { *word | bit } else { *word & !bit };
            }
        }
    }

    fn is_set(&self, words: &[u64; WORDS], number: u64) -> bool {
        words.get(Self::index(number)).is_some_and(|word| word & Self::bit(number) != 0)
    }

    const fn index(number: u64) -> usize {
        const { assert!(WORDS.is_power_of_two(), "the window wraps by a mask") };
        (number >> 6) as usize & WORDS.wrapping_sub(1)
    }

    const fn bit(number: u64) -> u64 {
        1 << (number % 64)
    }
}

#[cfg(test)]
mod tests;
