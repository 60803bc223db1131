//! Key frame requests of one producer stream: however many consumers ask, one PLI per interval goes out.
//!
//! The first request goes out at once. While its key frame is awaited, further requests only cause a repeat
//! when the wait ends in vain. With a request delay (`keyFrameRequestDelay` of a producer), a request that
//! comes within the delay after the previous one is held back until it ends.
//!
//! A publisher answers within a frame or two, so that awaiting alone would let one receiver turn every frame
//! into a key frame. Hence a pace as well: a few at once, for those who join together, then one per interval.

use std::time::{Duration, Instant};

/// How long a key frame is waited for before it is asked for again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// After a request that it obeys, libwebrtc ignores others for 300 ms, and says nothing. One that falls into this time
/// is repeated at its end (a little later, for the jitter of the way): its key frame would come a second late.
const DEAF_TIME: Duration = Duration::from_millis(350);
/// Requests that may follow each other as fast as they are answered, before they are paced.
const BURST: u32 = 3;
/// The pace after a burst. What comes faster is held back, not lost.
const PACE_INTERVAL: Duration = Duration::from_secs(1);
/// Repeats for one request that nobody renews: a sender that answers none of them is paused or gone, and its
/// consumers ask again when it comes back.
const MAX_RETRIES: u8 = 5;

/// When to ask a publisher for a key frame. Call [`KeyFrameRequests::poll`] after each request and when
/// [`KeyFrameRequests::next_timeout`] is reached.
#[derive(Clone, Debug)]
pub struct KeyFrameRequests {
    delay: Duration,
    /// Somebody asked and nothing went out yet for it.
    requested: bool,
    /// When somebody will ask.
    announced: Option<Instant>,
    /// No request goes out before this.
    held_until: Option<Instant>,
    /// When requests at the pace would have caught up with those that went out.
    paced_until: Option<Instant>,
    /// Until when the sender may ignore requests, having obeyed one.
    deaf_until: Option<Instant>,
    awaited: Option<Awaited>,
}

/// A request that went out.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    retry_at: Instant,
    retries: u8,
}

impl KeyFrameRequests {
    /// `delay`: the least time between two requests, zero for none.
    #[must_use]
    pub const fn new(delay: Duration) -> Self {
        Self {
            delay,
            requested: false,
            announced: None,
            held_until: None,
            paced_until: None,
            deaf_until: None,
            awaited: None,
        }
    }

    /// A consumer needs a key frame.
    pub fn request(&mut self, now: Instant) {
        match &mut self.awaited {
            // The one on its way serves this consumer too; the retries start anew for it.
            Some(awaited) if now < awaited.retry_at => awaited.retries = 0,
            _ => self.requested = true,
        }
    }

    /// A consumer needs a key frame that comes no sooner than what is asked for then. One that comes earlier, because others
    /// asked, does as well.
    pub fn request_at(&mut self, at: Instant) {
        self.announced = Some(self.announced.map_or(at, |announced| announced.min(at)));
    }

    /// A key frame is needed whatever is on its way (the stream has just been resumed or restarted).
    pub fn force(&mut self) {
        self.awaited = None;
        self.held_until = None;
        self.requested = true;
    }

    /// A key frame came: what was asked for is fulfilled.
    pub fn key_frame_received(&mut self, _now: Instant) {
        self.cancel();
    }

    /// Forgets everything: nobody wants the stream any more, or it is paused.
    pub fn cancel(&mut self) {
        self.awaited = None;
        self.announced = None;
        self.requested = false;
    }

    /// Whether to send a PLI (or FIR) now.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.announced.is_some_and(|at| now >= at) {
            self.announced = None;
            self.request(now);
        }
        if let Some(awaited) = self.awaited
            && now >= awaited.retry_at
        {
            if awaited.retries < MAX_RETRIES || self.requested {
                let retries = if self.requested { 0 } else { awaited.retries + 1 };
                self.send(now, retries);
                return true;
            }
            self.awaited = None;
        }
        if !self.requested || self.held_until.is_some_and(|until| now < until) {
            return false;
        }
        self.send(now, 0);
        true
    }

    /// When to poll next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let retry = self.awaited.map(|awaited| awaited.retry_at);
        let held = if self.requested { self.held_until } else { None };
        [retry, held, self.announced].into_iter().flatten().min()
    }

    /// Whether a key frame was asked for and has not come.
    #[must_use]
    pub const fn is_awaiting(&self) -> bool {
        self.awaited.is_some() || self.requested || self.announced.is_some()
    }

    fn send(&mut self, now: Instant, retries: u8) {
        self.requested = false;
        self.announced = None;
        let retry_at = match self.deaf_until {
            Some(until) if now < until => until,
            _ => {
                self.deaf_until = Some(now + DEAF_TIME);
                now + RETRY_INTERVAL
            }
        };
        self.awaited = Some(Awaited { retry_at, retries });
        let paced_until = self.paced_until.map_or(now, |until| until.max(now)) + PACE_INTERVAL;
        self.paced_until = Some(paced_until);
        let delayed = (!self.delay.is_zero()).then(|| now + self.delay);
        let paced = paced_until.checked_sub(PACE_INTERVAL * (BURST - 1)).filter(|until| *until > now);
        self.held_until = delayed.max(paced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn what_is_announced_is_asked_for_then_unless_others_were_first() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::new(Duration::ZERO);
        requests.request_at(start + ms(100));
        assert!(!requests.poll(start + ms(99)));
        assert_eq!(requests.next_timeout(), Some(start + ms(100)));
        assert!(requests.poll(start + ms(100)));
        requests.key_frame_received(start + ms(150));

        let start = start + ms(20_000);
        requests.request_at(start + ms(100));
        requests.request(start + ms(10));
        assert!(requests.poll(start + ms(10)), "others need not wait");
        requests.key_frame_received(start + ms(50));
        assert_eq!(requests.next_timeout(), None, "theirs will do");
        assert!(!requests.poll(start + ms(100)));
    }

    #[test]
    fn a_thousand_consumers_cause_one_request() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::new(Duration::ZERO);
        let mut sent = 0;
        for consumer in 0..1000 {
            let now = start + Duration::from_micros(consumer * 500);
            requests.request(now);
            sent += u32::from(requests.poll(now));
        }
        assert_eq!(sent, 1);
        requests.key_frame_received(start + ms(600));
        assert_eq!(requests.next_timeout(), None);
        requests.request(start + ms(700));
        assert!(requests.poll(start + ms(700)), "the next need is a new request");
    }

    #[test]
    fn asks_again_until_the_key_frame_comes() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::new(Duration::ZERO);
        requests.request(start);
        assert!(requests.poll(start));
        let mut now = start;
        for _ in 0..3 {
            assert!(!requests.poll(now + ms(999)));
            now = requests.next_timeout().unwrap();
            assert!(requests.poll(now));
        }
        assert_eq!(now, start + ms(3000));
        requests.key_frame_received(now);
        assert!(!requests.poll(now + ms(5000)));
    }

    /// Two people join within a third of a second: the second one's request is not heard.
    #[test]
    fn a_request_soon_after_an_answered_one_is_repeated_once_the_sender_listens_again() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::new(Duration::ZERO);
        requests.request(start);
        assert!(requests.poll(start));
        requests.key_frame_received(start + ms(60));
        requests.request(start + ms(230));
        assert!(requests.poll(start + ms(230)), "at once, for senders that do listen");
        let again = requests.next_timeout().unwrap();
        assert_eq!(again, start + ms(350));
        assert!(!requests.poll(again - ms(1)));
        assert!(requests.poll(again));
        assert_eq!(requests.next_timeout(), Some(again + ms(1000)), "from then on as ever");
    }

    #[test]
    fn gives_up_on_a_dead_sender() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::new(Duration::ZERO);
        requests.request(start);
        let mut sent = u32::from(requests.poll(start));
        while let Some(next) = requests.next_timeout() {
            sent += u32::from(requests.poll(next));
        }
        assert_eq!(sent, 1 + u32::from(MAX_RETRIES));
    }

    #[test]
    fn a_storm_of_requests_is_paced_however_fast_the_publisher_answers() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::new(Duration::ZERO);
        let mut sent = Vec::new();
        for at in 0..10_000 {
            let now = start + ms(at);
            requests.request(now);
            if requests.poll(now) {
                sent.push(at);
            }
            // A publisher of 50 frames a second.
            if at % 20 == 19 {
                requests.key_frame_received(now);
            }
        }
        assert_eq!(sent.len(), 12, "three at once, then one a second: {sent:?}");
        let later = start + ms(20_000);
        requests.request(later);
        assert!(requests.poll(later), "who asks after a while is served at once");
    }

    #[test]
    fn delay_holds_back_the_next_request_and_does_not_lose_it() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::new(ms(3000));
        requests.request(start);
        assert!(requests.poll(start));
        requests.key_frame_received(start + ms(100));
        requests.request(start + ms(200));
        assert!(!requests.poll(start + ms(200)));
        assert_eq!(requests.next_timeout(), Some(start + ms(3000)));
        assert!(requests.poll(start + ms(3000)));
    }
}
