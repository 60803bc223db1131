//! A Consumer of one stream with layers inside: it gets those that it wants, and the numbers of what it is spared
//! are closed up.

use rtc::codec::layers::{Layering, Selection, Selector, Target};
use rtc::codec::vp8;

use super::ConsumerStream;
use super::egress::{Admission, Effect, Incoming};
use super::layers::Layers;
use crate::params::CodecKind;

/// A Consumer of a layered stream.
#[derive(Debug)]
pub struct Svc {
    /// What the driver prefers.
    pub preferred: Layers,
    /// What there is at most.
    pub most: Layers,
    /// What is being switched to.
    pub target: Layers,
    /// Whether anything is being forwarded.
    running: bool,
    /// The layers that the driver was told last. They may change with a packet that does not go out.
    told: Layers,
    follow: Follow,
    /// Packets went by that could not be read without an announcement that has not come yet.
    unread: bool,
}

/// What picks the frames.
#[derive(Debug)]
enum Follow {
    /// The layers of VP9, AV1 and H264. Boxed, being five times as large as the other.
    Frames(Box<Selector>),
    /// The temporal layers of VP8, whose pictures are numbered anew.
    Vp8(vp8::Rewriter),
}

/// What becomes of a packet.
struct Verdict {
    forward: bool,
    marker: bool,
    picture: Option<vp8::Picture>,
}

impl Svc {
    /// Nothing is forwarded yet.
    pub fn new(preferred: Layers, most: Layers, codec: CodecKind) -> Self {
        let follow = match codec {
            CodecKind::Vp8 => Follow::Vp8(vp8::Rewriter::new()),
            _ => Follow::Frames(Box::new(Selector::new())),
        };
        Self {
            preferred,
            most,
            target: Layers::NONE,
            running: false,
            told: Layers::NONE,
            follow,
            unread: false,
        }
    }

    /// What is being forwarded.
    pub fn current(&self) -> Layers {
        if !self.running {
            return Layers::NONE;
        }
        match &self.follow {
            // A stream that does not tell its layers goes out whole.
            Follow::Frames(selector) => selector.current().map_or(self.most, |current| Layers {
                spatial: i16::from(current.spatial),
                temporal: i16::from(current.temporal),
            }),
            Follow::Vp8(rewriter) => {
                Layers { spatial: 0, temporal: i16::from(rewriter.current_temporal_layer()) }
            }
        }
    }

    /// Whether packets get other picture numbers than they came with.
    pub fn rewrites_pictures(&self) -> bool {
        matches!(self.follow, Follow::Vp8(_))
    }

    /// Aims at other layers, or at none; `true` where a key frame is needed to get there.
    pub fn aim(&mut self, target: Layers) -> bool {
        self.target = target;
        let aimed = target.to_target();
        if aimed.is_none() {
            (self.running, self.told) = (false, Layers::NONE);
        }
        match &mut self.follow {
            Follow::Frames(selector) => {
                selector.set_target(aimed);
                // Of a stream that does not tell its layers all are there already.
                selector.needs_key_frame() && (selector.current().is_some() || !self.running)
            }
            Follow::Vp8(rewriter) => {
                rewriter.set_target_temporal_layer(aimed.map_or(0, |target| target.temporal));
                !self.running
            }
        }
    }

    /// Whether and how a packet goes out.
    pub fn admit(
        &mut self,
        stream: &mut ConsumerStream,
        incoming: &Incoming<'_>,
        payload_types: u128,
    ) -> Option<Admission> {
        if self.target == Layers::NONE {
            return None;
        }
        let starting = stream.sync_required;
        let known = payload_types >> incoming.payload_type & 1 == 1 && !incoming.payload.is_empty();
        if starting {
            if !known || !incoming.info.key_frame {
                return None;
            }
            self.restart();
        }
        let verdict = if known { self.judge(incoming)? } else { Verdict::DROP };
        if !verdict.forward {
            if !starting {
                stream.sequence.drop_input(incoming.seq);
            }
            return None;
        }
        self.running = true;
        let effect = if starting {
            stream.sync_required = false;
            stream.sequence.sync(incoming.seq);
            Some(Effect::Started { seq: incoming.seq })
        } else if incoming.announces && std::mem::take(&mut self.unread) {
            Some(Effect::Announced { seq: incoming.seq })
        } else {
            (self.told != self.current()).then_some(Effect::LayersChanged)
        };
        self.told = self.current();
        let seq = stream.sequence.map(incoming.seq)?;
        Some(Admission {
            stream: 0,
            seq,
            timestamp_offset: 0,
            picture: verdict.picture,
            marker: verdict.marker,
            effect,
        })
    }

    fn restart(&mut self) {
        self.unread = false;
        match &mut self.follow {
            Follow::Frames(selector) => selector.restart(),
            Follow::Vp8(rewriter) => rewriter.sync(),
        }
    }

    /// `None` where it cannot be said yet: the packet keeps its number, and may follow.
    fn judge(&mut self, incoming: &Incoming<'_>) -> Option<Verdict> {
        let marker = incoming.header.marker;
        match &mut self.follow {
            Follow::Frames(selector) => match &incoming.layering {
                Layering::Plain => Some(Verdict { forward: true, marker, picture: None }),
                Layering::Unknown => {
                    self.unread = true;
                    None
                }
                Layering::Frame(frame) => Some(match selector.select(frame, incoming.header.timestamp) {
                    Selection::Forward { ends_picture } => {
                        Verdict { forward: true, marker: marker || ends_picture, picture: None }
                    }
                    Selection::Drop => Verdict::DROP,
                }),
            },
            Follow::Vp8(rewriter) => {
                let picture = incoming.descriptor.as_ref().and_then(|found| rewriter.process(found));
                Some(Verdict { forward: picture.is_some(), marker, picture })
            }
        }
    }
}

impl Verdict {
    const DROP: Self = Self { forward: false, marker: false, picture: None };
}

impl Layers {
    fn to_target(self) -> Option<Target> {
        let spatial = u8::try_from(self.spatial).ok()?;
        Some(Target { spatial, temporal: u8::try_from(self.temporal).ok()? })
    }
}
