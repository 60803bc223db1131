//! The table of what the worker may cost: each measurement's figure beside the most (or least) it is meant to be.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::{capacity, fan_out, memory, requests};

/// What a figure is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What came out.
    pub figure: f64,
    /// In what.
    pub unit: &'static str,
    /// What it is meant to be, where that was said.
    pub target: Option<Target>,
    /// Whether it is.
    pub met: Option<bool>,
    /// Stock mediasoup-worker 3.27.1, as measured elsewhere on a like machine.
    pub stock: &'static str,
    /// What else came out of the measurement.
    pub detail: String,
    /// Whether every checked packet arrived whole.
    pub valid: bool,
}

/// Rows, and the reports that they are made of.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    /// The lines.
    pub rows: Vec<Row>,
    /// Everything that was measured.
    pub reports: Vec<Value>,
}

impl Row {
    fn new(name: impl Into<String>, figure: f64, unit: &'static str, target: Option<Target>) -> Self {
        let met = target.map(|target| match target {
            Target::AtMost(most) => figure <= most,
            Target::AtLeast(least) => figure >= least,
        });
        let (name, detail) = (name.into(), String::new());
        Self { name, figure, unit, target, met, stock: "", detail, valid: true }
    }

    fn stock(mut self, stock: &'static str) -> Self {
        self.stock = stock;
        self
    }

    fn detail(mut self, detail: String) -> Self {
        self.detail = detail;
        self
    }

    fn valid(mut self, valid: bool) -> Self {
        self.valid = valid;
        self
    }
}

impl Table {
    /// CPU per forwarded packet.
    pub fn fan_out(&mut self, report: &fan_out::Report, target: Option<Target>, stock: &'static str) {
        let name =
            format!("{}, {} x {}, {}", report.content, report.receivers, report.streams, report.profile);
        let row = Row::new(name, report.units, "sendto", target).stock(stock).valid(report.is_valid());
        self.add(row.detail(fan_out_detail(report)), report);
    }

    /// What transport-cc with feedback costs, against the same without.
    pub fn feedback(&mut self, without: &fan_out::Report, with: &fan_out::Report) {
        let name = format!("transport-cc with feedback, {} x {}", with.content, with.receivers);
        let ratio = with.units / without.units;
        let detail = format!(
            "without {:.2}, with {:.2} sendto; {} feedback packets; all receivers read; {}",
            without.units,
            with.units,
            with.feedback_packets,
            fan_out_detail(with)
        );
        let row = Row::new(name, ratio, "times", Some(Target::AtMost(1.15))).stock("1.7").detail(detail);
        self.add(row.valid(without.is_valid() && with.is_valid() && with.feedback_packets > 0), without);
        self.reports.extend(serde_json::to_value(with));
    }

    /// Packets a second, and latency at half of that.
    pub fn capacity(&mut self, report: &capacity::Report) {
        let least = Some(Target::AtLeast(1.1));
        let row = Row::new("video packets/s before any loss", report.units, "of sendto's", least);
        let priority = if report.preferred { "highest" } else { "normal" };
        let detail = format!(
            "{:.0} packets/s at {:.0}% of the core; sendto {:.0}/s; priority {priority}",
            report.packets_per_second,
            report.core_share * 100.0,
            report.sendto_per_second
        );
        self.add(row.stock("0.28").detail(detail), report);
        let row = Row::new("latency added at half that load, p99", report.latency_p99_ms, "ms", at_most(2.0));
        let detail = format!(
            "p50 {:.2} ms, at {:.0} packets/s; {} missing",
            report.latency_p50_ms, report.latency_packets_per_second, report.missing
        );
        self.rows.push(row.detail(detail).valid(report.missing == 0));
    }

    /// Bytes an object.
    pub fn memory(&mut self, report: &memory::Report) {
        let kb = |bytes: f64| bytes / 1_000.0;
        let over = format!("growth of Rss over {} of them", report.objects);
        let rows = [
            ("WebRtcTransport before its handshake", report.transport_before_handshake, at_most(12.0), "20"),
            ("WebRtcTransport after its handshake", report.transport_after_handshake, at_most(32.0), ""),
            ("video consumer in traffic", report.video_consumer, at_most(6.0), "36"),
            ("audio consumer in traffic", report.audio_consumer, None, "8"),
            ("idle worker", report.idle_worker as f64, None, "9,900"),
        ];
        for (name, bytes, target, stock) in rows {
            let detail = if name == "idle worker" { "Rss".to_owned() } else { over.clone() };
            self.rows.push(Row::new(name, kb(bytes), "kB", target).stock(stock).detail(detail));
        }
        self.reports.extend(serde_json::to_value(report));
    }

    /// CPU a request.
    pub fn requests(&mut self, report: &requests::Report) {
        let rows = [("createWebRtcTransport", "9"), ("connect", "7"), ("produce", "12"), ("consume", "18")];
        for (i, (name, stock)) in rows.into_iter().enumerate() {
            let half_of_stock = stock.parse::<f64>().ok().map(|units| Target::AtMost(units / 2.0));
            let detail = format!(
                "{:.1} us of worker CPU, 50 in flight, {} requests",
                report.worker_ns[i] / 1e3,
                report.requests
            );
            let row = Row::new(name, report.units[i], "sendto", half_of_stock).stock(stock);
            self.rows.push(row.detail(detail));
        }
        self.reports.extend(serde_json::to_value(report));
    }

    /// Whether every figure means something.
    pub fn is_valid(&self) -> bool {
        self.rows.iter().all(|row| row.valid)
    }

    /// The table for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{:<52} {:>8} {:<11} {:>8} {:<4} {:>8}\n",
            "", "figure", "in", "target", "met", "stock *"
        );
        for row in &self.rows {
            let target = match row.target {
                Some(Target::AtMost(most)) => format!("<= {most}"),
                Some(Target::AtLeast(least)) => format!(">= {least}"),
                None => String::new(),
            };
            let met = match (row.valid, row.met) {
                (false, _) => "NOT VALID: packets missing",
                (true, Some(true)) => "yes",
                (true, Some(false)) => "no",
                (true, None) => "",
            };
            let Row { name, figure, unit, stock, detail, .. } = row;
            let _ = writeln!(
                text,
                "{name:<52} {figure:>8.2} {unit:<11} {target:>8} {met:<4} {stock:>8}\n    {detail}"
            );
        }
        text.push_str(
            "\nsendto: the CPU time of one bare, unconnected sendto of the same bytes to the same addresses on the same core, in\n\
             turns. Receivers that are not checked do not read, nobody uses UDP GRO: the kernel cuts runs of segments, at the\n\
             worker's cost, and drops at full buffers.\n\
             * mediasoup-worker 3.27.1, measured elsewhere on a like machine; to measure it here: --worker-bin PATH\n",
        );
        text
    }

    fn add(&mut self, row: Row, report: &impl Serialize) {
        self.rows.push(row);
        self.reports.extend(serde_json::to_value(report));
    }
}

fn at_most(most: f64) -> Option<Target> {
    Some(Target::AtMost(most))
}

fn fan_out_detail(r: &fan_out::Report) -> String {
    format!(
        "{:.0} B: worker {:.0} ns, sendto {:.0} ns, the kernel alone {:.0} ns ({:.2}); {} forwarded; of {} checked {} missing, {} damaged",
        r.datagram_bytes,
        r.worker_ns,
        r.sendto_ns,
        r.floor_ns,
        r.floor_units,
        r.forwarded,
        r.checked,
        r.missing,
        r.damaged
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_met_on_its_side_of_the_target() {
        let met = |figure, target| Row::new("", figure, "", Some(target)).met;
        assert_eq!(met(0.5, Target::AtMost(0.55)), Some(true));
        assert_eq!(met(0.6, Target::AtMost(0.55)), Some(false));
        assert_eq!(met(1.2, Target::AtLeast(1.1)), Some(true));
        assert_eq!(met(1.0, Target::AtLeast(1.1)), Some(false));
    }

    #[test]
    fn a_row_that_is_not_valid_does_not_claim_to_be_met() {
        let mut table = Table::default();
        table.rows.push(Row::new("x", 0.1, "ms", at_most(2.0)).valid(false));
        assert!(!table.is_valid() && table.to_text().contains("NOT VALID"));
    }
}
