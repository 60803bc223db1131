//! What a load was and what came of it.

use std::fmt::Write;

use serde::Serialize;

/// The figures.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The phase's name.
    pub scenario: String,
    /// Peers that joined.
    pub peers: usize,
    /// Rooms that they joined.
    pub rooms: usize,
    /// The largest room's peers.
    pub largest_room: usize,
    /// Peers that publish.
    pub publishers: usize,
    /// Packets a second of each stream.
    pub packets_per_second_a_stream: u32,
    /// Joins a second.
    pub joins_per_second: f64,
    /// From opening the WebSocket to transports connected and producers made, ms.
    pub join_p50_ms: f64,
    /// The same, 99th percentile.
    pub join_p99_ms: f64,
    /// Attempts beyond each peer's first.
    pub joins_repeated: u32,
    /// From the last join until every stream had brought packets.
    pub all_moving_after_s: f64,
    /// How long streams were watched.
    pub window_s: f64,
    /// Streams that should arrive somewhere.
    pub streams_expected: usize,
    /// Streams that brought at least half of their packets in the window.
    pub streams_moving: usize,
    /// Packets that were decrypted and found intact in the window.
    pub packets_received: u64,
    /// Packets that were sent and did not come in the window.
    pub packets_lost: u64,
    /// Packets that came changed.
    pub packets_damaged: u64,
    /// What each process took in the window.
    pub processes: Vec<Process>,
}

/// One process.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// What it is.
    pub name: String,
    /// CPU, in hundredths of a core.
    pub cpu_percent: f64,
    /// Resident memory at the end of the window.
    pub resident_mb: f64,
}

impl Report {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let all = (self.packets_received + self.packets_lost).max(1);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}: {} peers in {} rooms (the largest {}), {} publish, {} packets/s a stream\n\
             joins     {:.0}/s, p50 {:.0} ms, p99 {:.0} ms, {} repeated; all streams moved {:.1} s after the last\n\
             streams   {} of {} moving in {:.1} s, {:.0} packets/s received, {} lost ({:.3}%), {} damaged\n\n\
             {:<16} {:>8} {:>9}",
            self.scenario,
            self.peers,
            self.rooms,
            self.largest_room,
            self.publishers,
            self.packets_per_second_a_stream,
            self.joins_per_second,
            self.join_p50_ms,
            self.join_p99_ms,
            self.joins_repeated,
            self.all_moving_after_s,
            self.streams_moving,
            self.streams_expected,
            self.window_s,
            self.packets_received as f64 / self.window_s,
            self.packets_lost,
            self.packets_lost as f64 / all as f64 * 100.0,
            self.packets_damaged,
            "process",
            "CPU",
            "memory",
        );
        for process in &self.processes {
            let _ = writeln!(
                text,
                "{:<16} {:>7.1}% {:>6.1} MB",
                process.name, process.cpu_percent, process.resident_mb
            );
        }
        text
    }
}
