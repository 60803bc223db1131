//! Finds the Producer of a packet within its Transport: by SSRC, else by MID, else by RID (RFC 8843, RFC 8852).
//!
//! What MID or RID tell about an SSRC is learned, and bounded: a peer that invents SSRCs under a known MID replaces
//! its own entries and nobody else's.

use rustc_hash::FxHashMap;
use worker_protocol::wire::{common, transport as wire};

use crate::error::{RequestError, RequestResult};
use crate::params::RtpParameters;
use crate::table::ProducerIdx;

/// SSRCs that one Transport may teach us. Six simulcast streams with RTX in each of 30 Producers fit many times.
const MAX_LEARNED: usize = 512;

/// The tables of one Transport.
#[derive(Debug, Default)]
pub struct RtpListener {
    ssrcs: FxHashMap<u32, ProducerIdx>,
    mids: FxHashMap<String, ProducerIdx>,
    rids: FxHashMap<String, ProducerIdx>,
    /// SSRCs that came from MID or RID, oldest first.
    learned: std::collections::VecDeque<u32>,
}

impl RtpListener {
    /// Adds a Producer's SSRCs, MID and RIDs.
    ///
    /// # Errors
    /// `Error` where another Producer of this Transport has one of them; nothing is added then.
    pub fn add(&mut self, producer: ProducerIdx, parameters: &RtpParameters) -> RequestResult<()> {
        let result = self.try_add(producer, parameters);
        if result.is_err() {
            self.remove(producer);
        }
        result
    }

    fn try_add(&mut self, producer: ProducerIdx, parameters: &RtpParameters) -> RequestResult<()> {
        for encoding in &parameters.encodings {
            for ssrc in [encoding.ssrc, encoding.rtx_ssrc.filter(|ssrc| *ssrc != 0)].into_iter().flatten() {
                if self.ssrcs.contains_key(&ssrc) {
                    return Err(RequestError::error(format!(
                        "ssrc already exists in RTP listener [ssrc:{ssrc}]"
                    )));
                }
                self.ssrcs.insert(ssrc, producer);
            }
        }
        if let Some(mid) = &parameters.mid {
            if self.mids.contains_key(mid) {
                return Err(RequestError::error(format!("MID already exists in RTP listener [mid:{mid}]")));
            }
            self.mids.insert(mid.clone(), producer);
        }
        for rid in parameters.encodings.iter().filter_map(|encoding| encoding.rid.as_ref()) {
            if !self.rids.contains_key(rid) {
                self.rids.insert(rid.clone(), producer);
            } else if parameters.mid.is_none() {
                return Err(RequestError::error(format!(
                    "RID already exists in RTP listener and no MID is given [rid:{rid}]"
                )));
            }
        }
        Ok(())
    }

    /// Removes everything that leads to this Producer.
    pub fn remove(&mut self, producer: ProducerIdx) {
        self.ssrcs.retain(|_, other| *other != producer);
        self.mids.retain(|_, other| *other != producer);
        self.rids.retain(|_, other| *other != producer);
        let ssrcs = &self.ssrcs;
        self.learned.retain(|ssrc| ssrcs.contains_key(ssrc));
    }

    /// The Producer that has this SSRC, as far as known.
    pub fn find_ssrc(&self, ssrc: u32) -> Option<ProducerIdx> {
        self.ssrcs.get(&ssrc).copied()
    }

    /// The Producer of a packet that carries this MID and this RID (or repaired RID); its SSRC is then known.
    pub fn find_by_ids(&mut self, ssrc: u32, mid: Option<&str>, rid: Option<&str>) -> Option<ProducerIdx> {
        // A packet with a MID is never sorted by its RID: RIDs are only unique within one m-section.
        let producer = match mid {
            Some(mid) => self.mids.get(mid),
            None => rid.and_then(|rid| self.rids.get(rid)),
        }
        .copied()?;
        if self.ssrcs.insert(ssrc, producer).is_none() {
            self.learned.push_back(ssrc);
            if self.learned.len() > MAX_LEARNED
                && let Some(oldest) = self.learned.pop_front()
            {
                self.ssrcs.remove(&oldest);
            }
        }
        Some(producer)
    }

    /// The tables as dumps show them.
    pub fn dump(&self, id_of: impl Fn(ProducerIdx) -> String) -> wire::RtpListener {
        let strings = |table: &FxHashMap<String, ProducerIdx>| {
            table
                .iter()
                .map(|(key, producer)| common::StringString { key: key.clone(), value: id_of(*producer) })
                .collect()
        };
        wire::RtpListener {
            ssrc_table: self
                .ssrcs
                .iter()
                .map(|(ssrc, producer)| common::Uint32String { key: *ssrc, value: id_of(*producer) })
                .collect(),
            mid_table: strings(&self.mids),
            rid_table: strings(&self.rids),
        }
    }
}
