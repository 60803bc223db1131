//! How long things take that nodes must agree about. The relations between them are what the proof in
//! [`crate::keeper`] rests on; [`Timing::check`] holds them.

use std::time::Duration;

/// The clocks of the control plane. Every node of a cluster has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two pings on a link.
    pub ping: Duration,
    /// A node counts another as linked to it for this long after it heard from it that it hears.
    pub fresh: Duration,
    /// A link counts only after both ends have heard each other for this long: longer than anybody can hold an older word
    /// of theirs for true.
    pub settle: Duration,
    /// A node that was silent for this long is suspected.
    pub suspect: Duration,
    /// How long enough nodes must suspect an owner before another may claim its rooms.
    pub grace: Duration,
    /// Between two beats: a node registers anew, and confirms the leases of its rooms.
    pub beat: Duration,
    /// How long a confirmed lease counts without another look at the store.
    pub confirmed: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping: Duration::from_millis(250),
            fresh: Duration::from_millis(500),
            settle: Duration::from_millis(1_000),
            suspect: Duration::from_millis(1_000),
            grace: Duration::from_millis(750),
            beat: Duration::from_secs(2),
            confirmed: Duration::from_secs(4),
        }
    }
}

/// Clocks that do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// A ping that is lost must not cut a link.
    #[error("fresh must be at least two pings")]
    Fresh,
    /// A vote must not be counted on both sides.
    #[error("settle must be at least fresh and a ping")]
    Settle,
    /// An owner must know that it is cut off before anybody takes its rooms.
    #[error("grace must be at least fresh and a ping, which stands for what a message takes on its way")]
    Grace,
    /// A beat that is lost must not take an owner's authority.
    #[error("confirmed must be at least two beats")]
    Confirmed,
}

impl Timing {
    /// Whether the clocks fit together.
    ///
    /// # Errors
    /// The relation that does not hold.
    pub fn check(&self) -> Result<(), TimingError> {
        if self.fresh < self.ping * 2 {
            return Err(TimingError::Fresh);
        }
        if self.settle < self.fresh + self.ping {
            return Err(TimingError::Settle);
        }
        if self.grace < self.fresh + self.ping {
            return Err(TimingError::Grace);
        }
        if self.confirmed < self.beat * 2 {
            return Err(TimingError::Confirmed);
        }
        Ok(())
    }

    /// The longest that a cut-off owner and its successor can both take peers in. Seldom more than what was on its way
    /// when the successor claimed; this long only where a store forgot the owner's claim in a failover and the owner,
    /// who cannot reach it any more, trusts the last confirmation.
    pub fn overlap(&self) -> Duration {
        self.confirmed + self.ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together_and_others_are_refused() {
        assert_eq!(Timing::default().check(), Ok(()));
        let hasty = Timing { grace: Duration::from_millis(700), ..Timing::default() };
        assert_eq!(hasty.check(), Err(TimingError::Grace));
        let trusting = Timing { settle: Duration::from_millis(700), ..Timing::default() };
        assert_eq!(trusting.check(), Err(TimingError::Settle));
        let nervous = Timing { fresh: Duration::from_millis(400), ..Timing::default() };
        assert_eq!(nervous.check(), Err(TimingError::Fresh));
        let forgetful = Timing { confirmed: Duration::from_secs(3), ..Timing::default() };
        assert_eq!(forgetful.check(), Err(TimingError::Confirmed));
    }
}
