//! Bit rates of a stream's layers: what a consumer of some of them would be sent.

use std::time::{Duration, Instant};

use crate::rate::RateCounter;

/// A counter a layer: one row a spatial layer, one column a temporal layer.
#[derive(Clone, Debug)]
pub(super) struct LayerRates {
    counters: Box<[RateCounter]>,
    temporal_layers: usize,
}

impl LayerRates {
    /// At least one layer of each kind.
    pub(super) fn new(spatial_layers: u8, temporal_layers: u8, window: Duration) -> Self {
        let temporal_layers = usize::from(temporal_layers.max(1));
        let count = usize::from(spatial_layers.max(1)) * temporal_layers;
        Self { counters: vec![RateCounter::new(window); count].into_boxed_slice(), temporal_layers }
    }

    /// Counts a packet; one of a layer that was not negotiated counts as the highest there is.
    pub(super) fn add(&mut self, spatial: u8, temporal: u8, bytes: usize, now: Instant) {
        let spatial_layers = self.counters.len() / self.temporal_layers;
        let spatial = usize::from(spatial).min(spatial_layers - 1);
        let temporal = usize::from(temporal).min(self.temporal_layers - 1);
        self.counters[spatial * self.temporal_layers + temporal].add(bytes, now);
    }

    /// Bits per second of all layers.
    pub(super) fn total(&mut self, now: Instant) -> u64 {
        self.counters.iter_mut().map(|rate| rate.bitrate(now)).sum()
    }

    /// Bits per second of the lower spatial layers whole and of this one up to `temporal`; zero when the layer itself does not
    /// flow or does not exist.
    pub(super) fn up_to(&mut self, spatial: u8, temporal: u8, now: Instant) -> u64 {
        match self.flowing(usize::from(spatial), usize::from(temporal), now) {
            Some(index) => self.counters.iter_mut().take(index + 1).map(|rate| rate.bitrate(now)).sum(),
            None => 0,
        }
    }

    /// Bits per second of each spatial layer from `lowest` to `spatial`, up to the temporal layer `temporal`; zero when the
    /// uppermost of these does not flow.
    pub(super) fn target(&mut self, lowest: u8, spatial: u8, temporal: u8, now: Instant) -> u64 {
        let (lowest, spatial, temporal) = (usize::from(lowest), usize::from(spatial), usize::from(temporal));
        if self.flowing(spatial, temporal, now).is_none() {
            return 0;
        }
        let rows = self.counters.chunks_mut(self.temporal_layers).take(spatial + 1).skip(lowest);
        rows.flat_map(|row| row.iter_mut().take(temporal + 1)).map(|rate| rate.bitrate(now)).sum()
    }

    /// Bits per second of one spatial layer.
    pub(super) fn spatial(&mut self, spatial: u8, now: Instant) -> u64 {
        let row = self.counters.chunks_mut(self.temporal_layers).nth(usize::from(spatial));
        row.into_iter().flatten().map(|rate| rate.bitrate(now)).sum()
    }

    /// Packets of all time.
    pub(super) fn packets(&self) -> u64 {
        self.counters.iter().map(RateCounter::total_packets).sum()
    }

    /// Bytes of all time.
    pub(super) fn bytes(&self) -> u64 {
        self.counters.iter().map(RateCounter::total_bytes).sum()
    }

    /// Where the layer is counted, if it exists and flows.
    fn flowing(&mut self, spatial: usize, temporal: usize, now: Instant) -> Option<usize> {
        if temporal >= self.temporal_layers {
            return None;
        }
        let index = spatial * self.temporal_layers + temporal;
        (self.counters.get_mut(index)?.bitrate(now) > 0).then_some(index)
    }
}
