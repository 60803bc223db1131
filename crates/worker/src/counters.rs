//! What was dropped or refused, by reason; and the file in which a supervisor or test can read it.
//!
//! The schema has no place for these. Where the environment variable `TUREEN_WORKER_COUNTERS` names a path, the worker
//! writes them there once a second as one JSON object, into a file beside it that is then renamed: a reader never sees
//! half of it. What begins with `now_` is how many objects there are; all else only grows. Where it names a folder, the file in it is called after the process: `PID.json`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs, io};

/// The variable that names the file.
pub const VARIABLE: &str = "TUREEN_WORKER_COUNTERS";

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counts of what was dropped or refused, and of what was done, since the worker started.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Counters {
            /// Names and values, in a stable order.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams received.
    datagrams_received,
    /// RTP packets that consumers were sent.
    rtp_forwarded,
    /// Datagrams from nobody known that were no STUN request for anybody known.
    stray_datagrams,
    /// Datagrams whose first byte names no protocol that belongs there.
    unknown_datagrams,
    /// STUN that could not be parsed.
    stun_malformed,
    /// STUN requests for an unknown username fragment.
    stun_unknown_username,
    /// STUN requests that were refused (integrity, attributes).
    stun_refused,
    /// STUN requests that were granted on a path that is another transport's.
    paths_contested,
    /// DTLS from a path that ICE has not validated.
    dtls_unvalidated_path,
    /// DTLS records that were not accepted.
    dtls_errors,
    /// DTLS handshakes that were not through in time.
    dtls_timeouts,
    /// Media that came before there were keys for it.
    early_media,
    /// Datagrams from another address than the peer's.
    foreign_datagrams,
    /// SRTP that failed authentication.
    srtp_authentication_failed,
    /// SRTP that was a replay or too old.
    srtp_replayed,
    /// SRTP that failed otherwise.
    srtp_errors,
    /// Plaintext that is no RTP.
    rtp_malformed,
    /// RTP for which no Producer was found.
    rtp_no_producer,
    /// RTP for which its Producer has no stream.
    rtp_no_stream,
    /// RTP received twice.
    rtp_duplicates,
    /// RTP too late to be of use.
    rtp_too_old,
    /// RTP whose sequence number fits nowhere.
    rtp_invalid,
    /// RTP of a payload type that is not mapped.
    rtp_unmapped_payload_type,
    /// RTX packets that carry nothing.
    rtx_empty,
    /// RTCP that could not be parsed.
    rtcp_malformed,
    /// RTCP about streams that do not exist.
    rtcp_unknown_ssrc,
    /// Packets that a Consumer could not be sent, for a reason that should not happen.
    egress_errors,
    /// Packets that a Consumer was not sent: it got them before, or they lie before all that it remembers.
    egress_late,
    /// Packets that a WebRtcTransport was not sent, having no keys.
    egress_unprotected,
    /// Streams of simulcast that a Consumer's link had no room for until the lower one's key frame.
    streams_left,
    /// Repeats that were asked for and are no longer stored.
    repeats_gone,
    /// Requests refused.
    requests_refused,
    /// Channel messages that could not be parsed.
    channel_malformed,
    /// SCTP for Transports that have none.
    sctp_ignored,
    /// SCTP packets that could not be parsed, checksum included.
    sctp_malformed,
    /// SCTP packets of another association than the Transport's.
    sctp_wrong_tag,
    /// SCTP handshakes that peers began.
    sctp_inits,
    /// SCTP cookies that were forged, stale or of the past.
    sctp_cookies_refused,
    /// SCTP DATA that there was no room for.
    sctp_data_dropped,
    /// SCTP DATA received twice.
    sctp_data_duplicate,
    /// Data messages given up by the rules of their stream.
    sctp_messages_abandoned,
    /// SCTP packets with repeats.
    sctp_retransmissions,
    /// SCTP associations ended because of what the peer sent.
    sctp_violations,
    /// SCTP packets that nothing could carry.
    sctp_unsent,
    /// Data messages on a stream that is no DataProducer's.
    data_no_producer,
    /// Data messages longer than their DataConsumer's Transport may send.
    data_too_long,
    /// Data messages that an association did not take: buffer full, or closed.
    data_refused,
    /// Times that memory was given back after a crowd had left.
    memory_given_back,
}

/// Where the counters go.
#[derive(Debug)]
pub struct CountersFile {
    path: PathBuf,
    staging: PathBuf,
}

impl CountersFile {
    /// The file that the environment names.
    pub fn from_environment() -> Option<Self> {
        let mut path = PathBuf::from(env::var_os(VARIABLE)?);
        if path.is_dir() {
            path.push(format!("{}.json", std::process::id()));
        }
        let mut staging = path.clone().into_os_string();
        staging.push(".new");
        Some(Self { path, staging: staging.into() })
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// What the file system answered.
    pub fn write(&self, entries: impl Iterator<Item = (&'static str, u64)>) -> io::Result<()> {
        fs::write(&self.staging, to_json(entries))?;
        fs::rename(&self.staging, &self.path)
    }
}

/// The names are identifiers, so that nothing needs escaping.
fn to_json(entries: impl Iterator<Item = (&'static str, u64)>) -> String {
    let mut json = String::from("{");
    for (position, (name, value)) in entries.enumerate() {
        let separator = if position == 0 { "" } else { "," };
        let _ = write!(json, "{separator}\n  \"{name}\": {value}");
    }
    json.push_str("\n}\n");
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_one_json_object() {
        let counters = Counters { rtp_forwarded: 7, ..Counters::default() };
        let json = to_json(counters.entries());
        assert!(json.starts_with("{\n") && json.ends_with("\n}\n"));
        assert!(json.contains("\"rtp_forwarded\": 7,\n"));
    }
}
