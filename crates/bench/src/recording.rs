//! What a real sender's stream looked like: when each packet came and how long it was, without its picture.
//!
//! A recording is text, a packet a line: microseconds since the packet before, bytes of RTP payload, and what is
//! needed to write a valid VP8 payload descriptor: `K` begins a key frame, `F` another frame, `M` has the marker. After
//! `K` or `F` come the RTP clock's ticks since the frame before. Lines that begin with `#` are talk.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Chromium's VP8 at 1280x720, as `cargo xtask bench record-video` wrote it.
const CHROMIUM_VP8_720P: &str = include_str!("../recordings/chromium-vp8-720p.txt");

/// One packet of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedPacket {
    /// When it came, from the recording's beginning.
    pub at: Duration,
    /// Bytes of its payload.
    pub payload_bytes: u16,
    /// Whether it is the first of a frame.
    pub starts_frame: bool,
    /// Whether it is the first of a key frame.
    pub starts_key_frame: bool,
    /// Whether it is the last of a frame.
    pub marker: bool,
    /// Where it is the first of a frame: ticks of the 90 kHz clock since the frame before.
    pub ticks: u32,
}

/// Whole frames, from a key frame on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    packets: Vec<RecordedPacket>,
    /// From the first packet to where the first packet of the next round belongs.
    round: Duration,
}

impl Recording {
    /// A recording of these packets.
    ///
    /// # Errors
    /// Where they are not whole frames in order of arrival, the first of them a key frame.
    pub fn new(packets: Vec<RecordedPacket>) -> Result<Self> {
        let (Some(first), Some(last)) = (packets.first(), packets.last()) else {
            bail!("a recording without packets")
        };
        ensure!(first.starts_key_frame, "a recording begins with a key frame");
        ensure!(last.marker, "a recording ends with a whole frame");
        ensure!(packets.is_sorted_by_key(|packet| packet.at), "packets are in order of arrival");
        ensure!(
            packets.windows(2).all(|pair| pair[0].marker == pair[1].starts_frame),
            "a frame begins where the one before has ended"
        );
        // The next round's key frame follows the last frame as any frame follows another.
        let frames: Vec<Duration> =
            packets.iter().filter(|packet| packet.starts_frame).map(|packet| packet.at).collect();
        let interval = match frames.as_slice() {
            [first, .., last] => (*last - *first) / (frames.len() as u32 - 1),
            _ => bail!("a recording has two frames at least"),
        };
        let round = last.at.max(frames.last().copied().unwrap_or_default() + interval);
        Ok(Self { packets, round })
    }

    /// Reads the text that [`Recording::to_text`] writes.
    ///
    /// # Errors
    /// The line that is none of a recording.
    pub fn parse(text: &str) -> Result<Self> {
        let mut packets = Vec::new();
        let mut at = Duration::ZERO;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let packet = parse_line(line, at).with_context(|| format!("line {}: `{line}`", number + 1))?;
            at = packet.at;
            packets.push(packet);
        }
        Self::new(packets)
    }

    /// Chromium's VP8 at 1280x720 that is kept in the repository.
    ///
    /// # Errors
    /// Where somebody broke the file.
    pub fn chromium_vp8_720p() -> Result<Self> {
        Self::parse(CHROMIUM_VP8_720P).context("the recording of Chromium")
    }

    /// The recording as text, below lines of talk.
    pub fn to_text(&self, talk: &str) -> String {
        let mut text = String::new();
        for line in talk.lines() {
            let _ = writeln!(text, "# {line}");
        }
        let mut before = Duration::ZERO;
        for packet in &self.packets {
            let gap = (packet.at - before).as_micros();
            before = packet.at;
            let _ = write!(text, "{gap} {}", packet.payload_bytes);
            let letters = [
                (packet.starts_key_frame, 'K'),
                (packet.starts_frame && !packet.starts_key_frame, 'F'),
                (packet.marker, 'M'),
            ];
            let letters: String =
                letters.into_iter().filter(|(is, _)| *is).map(|(_, letter)| letter).collect();
            if !letters.is_empty() {
                let _ = write!(text, " {letters}");
            }
            if packet.starts_frame {
                let _ = write!(text, " {}", packet.ticks);
            }
            text.push('\n');
        }
        text
    }

    /// Its packets, in order of arrival.
    pub fn packets(&self) -> &[RecordedPacket] {
        &self.packets
    }

    /// How long one round lasts.
    pub fn round(&self) -> Duration {
        self.round
    }

    /// The packet number `number` of an endless replay.
    pub fn packet(&self, number: u64) -> RecordedPacket {
        self.packets[(number % self.packets.len() as u64) as usize]
    }

    /// When packet number `number` of an endless replay is due, from its beginning.
    pub fn due(&self, number: u64) -> Duration {
        let rounds = number / self.packets.len() as u64;
        self.round * u32::try_from(rounds).unwrap_or(u32::MAX) + self.packet(number).at
    }
}

fn parse_line(line: &str, before: Duration) -> Result<RecordedPacket> {
    let mut words = line.split_ascii_whitespace();
    let gap = words.next().context("no gap")?.parse().context("the gap is no number")?;
    let payload_bytes = words.next().context("no length")?.parse().context("the length is no number")?;
    let letters = words.next().unwrap_or_default();
    let starts_key_frame = letters.contains('K');
    let starts_frame = starts_key_frame || letters.contains('F');
    ensure!(letters.chars().all(|letter| "KFM".contains(letter)), "a letter that is none of K, F, M");
    let ticks = match words.next() {
        Some(ticks) if starts_frame => ticks.parse().context("the ticks are no number")?,
        None if !starts_frame => 0,
        _ => bail!("ticks stand on the first packet of a frame and nowhere else"),
    };
    ensure!(words.next().is_none(), "too many words");
    Ok(RecordedPacket {
        at: before + Duration::from_micros(gap),
        payload_bytes,
        starts_frame,
        starts_key_frame,
        marker: letters.contains('M'),
        ticks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# talk\n0 1100 K 0\n200 900 M\n33000 400 FM 2970\n";

    #[test]
    fn text_becomes_packets_and_text_again() {
        let recording = Recording::parse(TEXT).unwrap();
        assert_eq!(recording.packets().len(), 3);
        assert_eq!(recording.to_text("talk"), TEXT);
    }

    #[test]
    fn the_next_round_begins_a_frame_later() {
        let recording = Recording::parse(TEXT).unwrap();
        assert_eq!(recording.due(2), Duration::from_micros(33_200));
        assert_eq!(recording.due(3), Duration::from_micros(66_400));
        assert_eq!(recording.packet(3), recording.packet(0));
    }

    #[test]
    fn broken_frames_are_refused() {
        for text in ["", "0 1100 F 0\n9 9 M\n", "0 1100 K 0\n9 1 FM 3000\n", "0 1100 K 0\n", "0 x K 0\n"] {
            assert!(Recording::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_kept_recording_is_a_video() {
        let recording = Recording::chromium_vp8_720p().unwrap();
        let seconds = recording.round().as_secs_f64();
        let bytes: u64 = recording.packets().iter().map(|packet| u64::from(packet.payload_bytes)).sum();
        let frames = recording.packets().iter().filter(|packet| packet.starts_frame).count() as f64;
        assert!(seconds >= 10.0, "{seconds} s");
        assert!(frames / seconds > 20.0, "{frames} frames in {seconds} s");
        assert!(bytes as f64 * 8.0 / seconds > 500_000.0, "{bytes} bytes in {seconds} s");
    }
}
