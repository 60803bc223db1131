//! ffmpeg at both ends of a PlainTransport: a publisher of a colour and a tone, and a recorder whose file is judged by
//! what it decodes to.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::proc;

/// Frames a second that a publisher sends.
const FPS: u32 = 20;
/// From start to the recorder's sockets.
const BINDS_WITHIN: Duration = Duration::from_secs(10);
/// How long nothing comes before a recorder takes that for the end.
const SILENCE_SECONDS: &str = "4";
/// From the last packet to the file's last byte.
const WRITES_WITHIN: Duration = Duration::from_secs(15);

/// One RTP stream's other end, on loopback.
#[derive(Debug, Clone)]
pub struct RtpEnd {
    /// The port of RTP.
    pub port: u16,
    /// Where a publisher sends RTCP to. A recorder takes it on the port after that of RTP.
    pub rtcp_port: u16,
    /// Of RTP.
    pub payload_type: u8,
    /// Key and salt of AES_CM_128_HMAC_SHA1_80 in base64, where SRTP is wanted.
    pub srtp_key: Option<String>,
}

/// An ffmpeg that sends VP8 of one colour, with a bar that wanders across its upper half, and an Opus tone, in real time.
#[derive(Debug)]
pub struct Publisher {
    child: Child,
}

impl Publisher {
    /// The SSRC of its video.
    pub const VIDEO_SSRC: u32 = 22_220_001;
    /// The SSRC of its audio.
    pub const AUDIO_SSRC: u32 = 22_220_002;

    /// Sends `seconds` of it: 20 frames each, a key frame a second.
    pub fn start(rgb: [u8; 3], hertz: u32, seconds: u32, video: &RtpEnd, audio: &RtpEnd) -> Result<Self> {
        let [red, green, blue] = rgb;
        let picture = format!(
            "color=0x{red:02x}{green:02x}{blue:02x}:size=320x240:rate={FPS}[back];\
             color=white:size=32x120:rate={FPS}[bar];[back][bar]overlay=x='mod(n*9,288)'"
        );
        let mut ffmpeg = ffmpeg();
        ffmpeg
            .args(["-re", "-f", "lavfi", "-i", &picture])
            .args(["-re", "-f", "lavfi", "-i", &format!("sine=frequency={hertz}:sample_rate=48000")])
            .args(["-t", &seconds.to_string(), "-map", "0:v", "-c:v", "libvpx", "-pix_fmt", "yuv420p"])
            .args(["-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k", "-g", &FPS.to_string()]);
        send_to(&mut ffmpeg, video, Self::VIDEO_SSRC);
        ffmpeg.args(["-t", &seconds.to_string(), "-map", "1:a", "-c:a", "libopus", "-ac", "2"]);
        send_to(&mut ffmpeg, audio, Self::AUDIO_SSRC);
        Ok(Self { child: spawn(&mut ffmpeg)? })
    }

    /// How many frames this many seconds are.
    pub const fn frames(seconds: u32) -> u64 {
        seconds as u64 * FPS as u64
    }

    /// Waits until everything is sent.
    pub fn sent(mut self, within: Duration) -> Result<()> {
        let status = ended(&mut self.child, within)?;
        ensure!(status.success(), "the publishing ffmpeg ended with {status}");
        Ok(())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An ffmpeg that writes what it receives into a WebM file, untouched.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    folder: TempDir,
}

impl Recorder {
    /// Starts one that listens at these ends (see [`Recorder::free_port`]), and waits until it does.
    pub fn start(video: &RtpEnd, audio: &RtpEnd) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let description = folder.path().join("streams.sdp");
        fs::write(&description, sdp(video, audio))?;
        let child = spawn(
            ffmpeg()
                .args(["-protocol_whitelist", "file,crypto,data,rtp,udp,srtp"])
                .args(["-listen_timeout", SILENCE_SECONDS, "-i"])
                .arg(&description)
                .args(["-map", "0:v", "-map", "0:a", "-c", "copy"])
                .arg(Self::file_in(&folder)),
        )?;
        let recorder = Self { child, folder };
        let wanted = [video.port, audio.port];
        let deadline = Instant::now() + BINDS_WITHIN;
        loop {
            let bound = proc::listening(recorder.child.id())?;
            if wanted.iter().all(|port| bound.iter().any(|socket| socket.address.port() == *port)) {
                return Ok(recorder);
            }
            ensure!(Instant::now() < deadline, "the recording ffmpeg does not listen");
            std::thread::yield_now();
        }
    }

    /// A port that is free, and so is the one after it.
    pub fn free_port() -> Result<u16> {
        for _ in 0..100 {
            let first = UdpSocket::bind("127.0.0.1:0")?;
            let port = first.local_addr()?.port();
            let next = port.checked_add(1).map(|next| UdpSocket::bind(("127.0.0.1", next)));
            if port.is_multiple_of(2) && matches!(next, Some(Ok(_))) {
                return Ok(port);
            }
        }
        bail!("no two free ports in a row")
    }

    /// Waits for the recording's end, which is when nothing has come for a while, and looks at it.
    pub fn finish(mut self) -> Result<Recording> {
        ended(&mut self.child, WRITES_WITHIN)?;
        Recording::of(&Self::file_in(&self.folder))
    }

    fn file_in(folder: &TempDir) -> PathBuf {
        folder.path().join("recording.webm")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a file decodes to.
#[derive(Debug)]
pub struct Recording {
    /// Video frames that decode.
    pub frames: u64,
    /// The mean of a patch in the lower half of the last frame.
    pub rgb: [u8; 3],
    /// The tone, by its zero crossings, in Hz.
    pub hertz: f64,
    /// How long the sound is, in seconds.
    pub sound_seconds: f64,
}

impl Recording {
    const SIZE: usize = 64;
    const SAMPLE_RATE: usize = 48_000;

    fn of(file: &Path) -> Result<Self> {
        let size = format!("{0}x{0}", Self::SIZE);
        let video =
            decode(file, &["-map", "0:v", "-s", &size, "-pix_fmt", "rgb24", "-fps_mode", "passthrough"])?;
        let frame_bytes = Self::SIZE * Self::SIZE * 3;
        let last = video.chunks_exact(frame_bytes).next_back().context("no frame decodes")?;
        let rate = Self::SAMPLE_RATE.to_string();
        let audio = decode(file, &["-map", "0:a", "-f", "s16le", "-ac", "1", "-ar", &rate])?;
        let samples: Vec<i16> =
            audio.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        let rises = samples.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
        ensure!(!samples.is_empty(), "no sound decodes");
        let sound_seconds = samples.len() as f64 / Self::SAMPLE_RATE as f64;
        Ok(Self {
            frames: (video.len() / frame_bytes) as u64,
            rgb: patch(last),
            hertz: rises as f64 / sound_seconds,
            sound_seconds,
        })
    }
}

fn patch(frame: &[u8]) -> [u8; 3] {
    let mut sums = [0_u32; 3];
    for y in 44..52 {
        for x in 28..36 {
            let at = (y * Recording::SIZE + x) * 3;
            for (sum, value) in sums.iter_mut().zip(&frame[at..at + 3]) {
                *sum += u32::from(*value);
            }
        }
    }
    sums.map(|sum| (sum / 64) as u8)
}

/// Decodes a file to raw bytes.
fn decode(file: &Path, output: &[&str]) -> Result<Vec<u8>> {
    let raw = if output.contains(&"-f") { &[][..] } else { &["-f", "rawvideo"][..] };
    let decoded = ffmpeg().arg("-i").arg(file).args(output).args(raw).arg("-").output()?;
    let talk = String::from_utf8_lossy(&decoded.stderr);
    ensure!(decoded.status.success(), "{} does not decode: {talk}", file.display());
    Ok(decoded.stdout)
}

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "warning", "-nostdin", "-y"]);
    command
}

fn spawn(ffmpeg: &mut Command) -> Result<Child> {
    ffmpeg
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start ffmpeg: apt-get install ffmpeg")
}

fn send_to(ffmpeg: &mut Command, end: &RtpEnd, ssrc: u32) {
    let RtpEnd { port, rtcp_port, payload_type, srtp_key } = end;
    ffmpeg.args(["-ssrc", &ssrc.to_string(), "-payload_type", &payload_type.to_string(), "-f", "rtp"]);
    let scheme = match srtp_key {
        Some(key) => {
            ffmpeg.args(["-srtp_out_suite", "AES_CM_128_HMAC_SHA1_80", "-srtp_out_params", key]);
            "srtp"
        }
        None => "rtp",
    };
    ffmpeg.arg(format!("{scheme}://127.0.0.1:{port}?rtcpport={rtcp_port}"));
}

/// What a recorder is told that it will receive (RFC 4566; keys as in RFC 4568).
fn sdp(video: &RtpEnd, audio: &RtpEnd) -> String {
    let section = |kind: &str, end: &RtpEnd, codec: &str| {
        let RtpEnd { port, payload_type, srtp_key, .. } = end;
        let (profile, crypto) = match srtp_key {
            Some(key) => ("RTP/SAVP", format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n")),
            None => ("RTP/AVP", String::new()),
        };
        format!("m={kind} {port} {profile} {payload_type}\r\na=rtpmap:{payload_type} {codec}\r\n{crypto}")
    };
    format!(
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{}{}",
        section("video", video, "VP8/90000"),
        section("audio", audio, "opus/48000/2"),
    )
}

/// Waits for a process' end, and kills it when that does not come.
fn ended(child: &mut Child, within: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            bail!("ffmpeg did not end within {} s", within.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
