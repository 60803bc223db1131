//! The worker's flags: mediasoup's names and meanings, parsed and checked before anything is opened.
//!
//! Besides the flags, two environment variables matter: `MEDIASOUP_VERSION` must be set (the driver does), and
//! `TUREEN_WORKER_COUNTERS` may name a file that receives the worker's counters (see [`crate::counters`]).

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

/// How much is logged. The order is from quiet to talkative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    None,
    #[default]
    Error,
    Warn,
    Debug,
}

impl LogLevel {
    /// Parses mediasoup's name of a level, in any case.
    ///
    /// # Errors
    /// [`SettingsError::LogLevel`] for another word.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "none" => Ok(Self::None),
            _ => Err(SettingsError::LogLevel(text.to_owned())),
        }
    }
}

/// What a log line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "mediasoup's names")]
pub enum LogTag {
    Info,
    Ice,
    Dtls,
    Rtp,
    Srtp,
    Rtcp,
    Rtx,
    Bwe,
    Score,
    Simulcast,
    Svc,
    Sctp,
    Message,
}

/// The tags that are switched on. Unknown tags are ignored, as mediasoup does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogTags(u16);

impl LogTags {
    /// The set that these names give.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut tags = Self::default();
        for name in names {
            let tag = match name {
                "info" => LogTag::Info,
                "ice" => LogTag::Ice,
                "dtls" => LogTag::Dtls,
                "rtp" => LogTag::Rtp,
                "srtp" => LogTag::Srtp,
                "rtcp" => LogTag::Rtcp,
                "rtx" => LogTag::Rtx,
                "bwe" => LogTag::Bwe,
                "score" => LogTag::Score,
                "simulcast" => LogTag::Simulcast,
                "svc" => LogTag::Svc,
                "sctp" => LogTag::Sctp,
                "message" => LogTag::Message,
                _ => continue,
            };
            tags.0 |= 1 << tag as u8;
        }
        tags
    }

    /// Whether lines of this tag are wanted.
    pub fn contains(self, tag: LogTag) -> bool {
        self.0 & (1 << tag as u8) != 0
    }
}

/// What the command line said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `--logLevel`.
    pub log_level: LogLevel,
    /// `--logTag`, any number of times.
    pub log_tags: LogTags,
    /// `--rtcMinPort`: the lowest port of listeners that name none.
    pub rtc_min_port: u16,
    /// `--rtcMaxPort`: the highest.
    pub rtc_max_port: u16,
    /// `--dtlsCertificateFile` and `--dtlsPrivateKeyFile`, PEM; a pair is made at start where they are absent.
    pub dtls_files: Option<(PathBuf, PathBuf)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log_level: LogLevel::default(),
            log_tags: LogTags::default(),
            rtc_min_port: 10_000,
            rtc_max_port: 59_999,
            dtls_files: None,
        }
    }
}

/// What is wrong with the flags.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SettingsError {
    #[error("invalid value '{0}' for logLevel (one of debug, warn, error, none)")]
    LogLevel(String),
    #[error("missing value of --{0} (write --{0}=value)")]
    MissingValue(&'static str),
    #[error("invalid value of --{0}: {1}")]
    Port(&'static str, String),
    #[error("rtcMaxPort cannot be less than rtcMinPort")]
    PortOrder,
    #[error("missing dtlsPrivateKeyFile")]
    MissingPrivateKeyFile,
    #[error("missing dtlsCertificateFile")]
    MissingCertificateFile,
    #[error("{0}: {1}")]
    File(&'static str, std::io::Error),
    #[error(transparent)]
    Arguments(#[from] lexopt::Error),
}

impl Settings {
    /// Parses the flags that follow the program's name.
    ///
    /// # Errors
    /// [`SettingsError`] for the first flag that is wrong.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let mut tags: Vec<String> = Vec::new();
        let mut certificate = None;
        let mut private_key = None;
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("logLevel") => settings.log_level = LogLevel::parse(&text(&mut parser, "logLevel")?)?,
                Long("logTag" | "logTags") => tags.push(text(&mut parser, "logTag")?),
                Long("rtcMinPort") => settings.rtc_min_port = port(&mut parser, "rtcMinPort")?,
                Long("rtcMaxPort") => settings.rtc_max_port = port(&mut parser, "rtcMaxPort")?,
                Long("dtlsCertificateFile") => {
                    certificate = Some(PathBuf::from(value(&mut parser, "dtlsCertificateFile")?));
                }
                Long("dtlsPrivateKeyFile") => {
                    private_key = Some(PathBuf::from(value(&mut parser, "dtlsPrivateKeyFile")?));
                }
                // There is no libwebrtc here whose trials could be set; the flag is accepted for the driver's sake.
                Long("libwebrtcFieldTrials") => {
                    value(&mut parser, "libwebrtcFieldTrials")?;
                }
                other => return Err(other.unexpected().into()),
            }
        }
        settings.log_tags = LogTags::parse(tags.iter().map(String::as_str));
        if settings.rtc_max_port < settings.rtc_min_port {
            return Err(SettingsError::PortOrder);
        }
        settings.dtls_files = match (certificate, private_key) {
            (None, None) => None,
            (Some(_), None) => return Err(SettingsError::MissingPrivateKeyFile),
            (None, Some(_)) => return Err(SettingsError::MissingCertificateFile),
            (Some(certificate), Some(private_key)) => {
                std::fs::File::open(&certificate)
                    .map_err(|error| SettingsError::File("dtlsCertificateFile", error))?;
                std::fs::File::open(&private_key)
                    .map_err(|error| SettingsError::File("dtlsPrivateKeyFile", error))?;
                Some((certificate, private_key))
            }
        };
        Ok(settings)
    }
}

fn value(parser: &mut lexopt::Parser, flag: &'static str) -> Result<OsString, SettingsError> {
    parser.optional_value().ok_or(SettingsError::MissingValue(flag))
}

fn text(parser: &mut lexopt::Parser, flag: &'static str) -> Result<String, SettingsError> {
    Ok(value(parser, flag)?.to_string_lossy().into_owned())
}

fn port(parser: &mut lexopt::Parser, flag: &'static str) -> Result<u16, SettingsError> {
    let text = text(parser, flag)?;
    text.parse().map_err(|_| SettingsError::Port(flag, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Settings, SettingsError> {
        Settings::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn flags_are_read_as_the_driver_writes_them() {
        let settings = parse(&[
            "--logLevel=DEBUG",
            "--logTag=ice",
            "--logTag=rtp",
            "--logTag=nonsense",
            "--rtcMinPort=4000",
        ])
        .unwrap();
        assert_eq!(settings.log_level, LogLevel::Debug);
        assert!(settings.log_tags.contains(LogTag::Ice) && settings.log_tags.contains(LogTag::Rtp));
        assert!(!settings.log_tags.contains(LogTag::Dtls));
        assert_eq!((settings.rtc_min_port, settings.rtc_max_port), (4000, 59_999));
    }

    #[test]
    fn wrong_flags_are_named() {
        for (arguments, expected) in [
            (&["--logLevel=chicken"][..], "invalid value 'chicken' for logLevel"),
            (&["--logLevel"], "missing value of --logLevel"),
            (&["--rtcMinPort=1000", "--rtcMaxPort=999"], "rtcMaxPort cannot be less"),
            (&["--rtcMinPort=70000"], "invalid value of --rtcMinPort"),
            (&["--dtlsCertificateFile=/notfound/cert.pem"], "missing dtlsPrivateKeyFile"),
            (
                &["--dtlsCertificateFile=/notfound/c", "--dtlsPrivateKeyFile=/notfound/k"],
                "dtlsCertificateFile: ",
            ),
            (&["--chicken=1"], "chicken"),
        ] {
            let error = parse(arguments).unwrap_err().to_string();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
