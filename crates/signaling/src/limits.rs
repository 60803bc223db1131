//! How much of everything one client may send.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::address::Network;

/// The limits of one session at the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayLimits {
    /// Requests and notifications a second, in the long run. Answers to the server's own requests are not counted:
    /// there are no more of them than questions. Above it requests are refused; as many refused ones and answers that
    /// nobody asked for are borne, then the session is closed.
    pub messages_per_second: u32,
    /// As many may come at once after a quiet time.
    pub message_burst: u32,
    /// Requests that one client may have unanswered.
    pub requests_in_flight: usize,
    /// Web pages that may connect although they were served under another host name than the server's, written as
    /// browsers send it in `Origin`: `https://app.example.org`. Programs that send no `Origin` are not asked.
    pub allowed_origins: Vec<String>,
    /// Frames that are no protoo messages before the session is closed.
    pub malformed_frames: u32,
    /// The time between WebSocket pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// A client from which nothing came for this long, not even a pong, is gone. In milliseconds.
    pub silence_ms: u64,
    /// A broadcaster of which nothing was heard for this long, neither a request nor a byte of media, is gone. In
    /// milliseconds.
    pub broadcaster_silence_ms: u64,
    /// How long a client may be connected without having joined, in milliseconds; 0 for as long as it likes. A page that
    /// connects in its lobby notices nothing: protoo's clients come again by themselves.
    pub join_timeout_ms: u64,
    /// Sessions from one IPv4 address or one /64 of IPv6; 0 for any number. This machine's own are not counted.
    pub sessions_per_address: usize,
    /// Proxies whose `X-Forwarded-For` is believed, as addresses or networks (`10.0.0.0/8`). Without them, all who come by
    /// a proxy count as one address.
    pub trusted_proxies: Vec<Network>,
    /// How long a client may take to answer the server, and the server to answer a client, in milliseconds.
    pub request_timeout_ms: u64,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            messages_per_second: 50,
            message_burst: 400,
            requests_in_flight: 64,
            allowed_origins: Vec::new(),
            malformed_frames: 10,
            ping_interval_ms: 5000,
            silence_ms: 15_000,
            broadcaster_silence_ms: 60_000,
            join_timeout_ms: 60_000,
            sessions_per_address: 1000,
            trusted_proxies: Vec::new(),
            request_timeout_ms: 30_000,
        }
    }
}

impl GatewayLimits {
    pub(crate) fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval_ms)
    }

    pub(crate) fn silence(&self) -> Duration {
        Duration::from_millis(self.silence_ms)
    }

    pub(crate) fn broadcaster_silence(&self) -> Duration {
        Duration::from_millis(self.broadcaster_silence_ms)
    }

    /// `None` where nobody need join.
    pub(crate) fn join_timeout(&self) -> Option<Duration> {
        (self.join_timeout_ms > 0).then(|| Duration::from_millis(self.join_timeout_ms))
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(limits: &GatewayLimits, now: Instant) -> Self {
        let burst = f64::from(limits.message_burst.max(1));
        Self { tokens: burst, burst, per_second: f64::from(limits.messages_per_second), filled: now }
    }

    /// Whether one more message is within the rate.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let limits = GatewayLimits { messages_per_second: 10, message_burst: 3, ..GatewayLimits::default() };
        let start = Instant::now();
        let mut bucket = Bucket::new(&limits, start);
        assert_eq!((0..5).filter(|_| bucket.take(start)).count(), 3);
        let later = start + Duration::from_millis(210);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 2);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..9).filter(|_| bucket.take(much_later)).count(), 3);
    }
}
