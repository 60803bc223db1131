//! A link between two network namespaces that loses, delays, reorders, duplicates and throttles as testkit's
//! [`LossyLink`] does, each direction by itself and by seed, with profiles that change while it carries a call.
//!
//! Two TUN devices, one in each namespace, pumped by this process. The kernel has no netem here, and of what it has,
//! nft loses but knows neither bursts nor delay, tbf throttles but cannot be seeded, and NFQUEUE can delay but not
//! duplicate; a TUN pair leaves every decision to the model that the simulations use. A packet costs two system calls
//! and a thread's wake-up, which at a call's few hundred packets a second is under 2% of a core.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use testkit::link::{LinkCounters, LinkProfile, LossyLink};
use tun_tap::{Iface, Mode};

/// Packets that may wait for the pump before the kernel has to keep them.
const BACKLOG: usize = 1024;
/// Larger than any packet of a device with the usual MTU.
const LARGEST: usize = 2048;

/// The profiles of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkProfiles {
    /// From the first namespace (the client) to the second.
    pub up: LinkProfile,
    /// From the second to the first.
    pub down: LinkProfile,
}

impl LinkProfiles {
    /// The same in both directions.
    #[must_use]
    pub const fn both(profile: LinkProfile) -> Self {
        Self { up: profile, down: profile }
    }
}

enum Event {
    Packet { direction: usize, bytes: Vec<u8>, came: Instant },
    Profiles(LinkProfiles),
    Counters(mpsc::Sender<[LinkCounters; 2]>),
    End,
}

/// The pump of a link. Both devices vanish with it.
#[derive(Debug)]
pub struct Link {
    events: SyncSender<Event>,
    threads: Vec<JoinHandle<()>>,
    pump: Option<JoinHandle<()>>,
    devices: [(String, String); 2],
}

impl Link {
    /// Joins two namespaces by a new link that does nothing yet. `ends` are the namespaces' names and what their device
    /// shall be called; addresses and routes are the caller's.
    pub fn new(ends: [(&str, &str); 2], seed: u64) -> Result<Self> {
        let mut ifaces = Vec::new();
        for (side, (namespace, device)) in ends.into_iter().enumerate() {
            // Made where this process is, under a name that nothing else has, and moved from there.
            let made = format!("tl{}{}", std::process::id(), ["a", "b"][side]);
            let iface = Iface::without_packet_info(&made, Mode::Tun).context(
                "cannot make a TUN device: /dev/net/tun and root are needed (CAP_NET_ADMIN in a container)",
            )?;
            ip(&["link", "set", &made, "netns", namespace, "name", device])?;
            // No IPv6: its router solicitations would be among what is counted.
            let mute = format!("echo 1 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6");
            ip(&["netns", "exec", namespace, "sh", "-c", &mute])?;
            ip(&["-n", namespace, "link", "set", device, "up"])?;
            ifaces.push(Arc::new(iface));
        }
        let (events, inbox) = mpsc::sync_channel(BACKLOG);
        let mut threads = Vec::new();
        for (direction, iface) in ifaces.iter().enumerate() {
            let (iface, events) = (Arc::clone(iface), events.clone());
            threads.push(thread("link-reader", move || read(&iface, direction, &events))?);
        }
        // What comes from one end leaves at the other.
        let exits = [Arc::clone(&ifaces[1]), Arc::clone(&ifaces[0])];
        let pump = Some(thread("link-pump", move || pump(&inbox, &exits, seed))?);
        let devices = ends.map(|(namespace, device)| (namespace.to_owned(), device.to_owned()));
        Ok(Self { events, threads, pump, devices })
    }

    /// Changes what it does from now on.
    pub fn set(&self, profiles: LinkProfiles) {
        let _ = self.events.send(Event::Profiles(profiles));
    }

    /// What became of the packets so far: up, then down.
    pub fn counters(&self) -> Result<[LinkCounters; 2]> {
        counters(&self.events)
    }

    /// Lets a browser scenario choose among named profiles by a Unix socket: each line it writes is a name; the answer
    /// is a line of JSON with the counters until then.
    pub fn control(&self, folder: &Path, phases: Vec<(String, LinkProfiles)>) -> Result<LinkControl> {
        let path = folder.join(format!("link-{}", self.devices[0].0));
        let listener = UnixListener::bind(&path)?;
        let events = self.events.clone();
        let log = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&log);
        let server = thread("link-control", move || {
            for stream in listener.incoming().map_while(Result::ok) {
                match serve(&stream, &events, &phases, &noted) {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => eprintln!("link control: {error:#}"),
                }
            }
        })?;
        Ok(LinkControl { path, log, server: Some(server) })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Without its device a reader's call returns.
        for (namespace, device) in &self.devices {
            if let Err(error) = ip(&["-n", namespace, "link", "delete", device]) {
                eprintln!("{device} of {namespace} stays behind: {error:#}");
                return;
            }
        }
        let _ = self.events.send(Event::End);
        for thread in self.threads.drain(..).chain(self.pump.take()) {
            let _ = thread.join();
        }
    }
}

/// The socket by which a scenario controls a link.
#[derive(Debug)]
pub struct LinkControl {
    path: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    server: Option<JoinHandle<()>>,
}

impl LinkControl {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The phases asked for so far.
    pub fn phases(&self) -> Vec<String> {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }
}

impl Drop for LinkControl {
    fn drop(&mut self) {
        if let Ok(mut stream) = UnixStream::connect(&self.path) {
            let _ = stream.write_all(b"end\n");
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Serves one connection to its end; `true` when the server is to end with it.
fn serve(
    stream: &UnixStream,
    events: &SyncSender<Event>,
    phases: &[(String, LinkProfiles)],
    log: &Mutex<Vec<String>>,
) -> Result<bool> {
    let mut answers = stream;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line == "end" {
            return Ok(true);
        }
        if line != "counters" {
            let Some((_, profiles)) = phases.iter().find(|(name, _)| *name == line) else {
                bail!("no phase `{line}`");
            };
            events.send(Event::Profiles(*profiles)).context("the link is gone")?;
            if let Ok(mut log) = log.lock() {
                log.push(line);
            }
        }
        let [up, down] = counters(events)?.map(|counters| {
            json!({ "offered": counters.offered, "lost": counters.lost, "overflowed": counters.overflowed,
                    "duplicated": counters.duplicated, "bytes": counters.bytes })
        });
        writeln!(answers, "{}", json!({ "up": up, "down": down }))?;
    }
    Ok(false)
}

fn counters(events: &SyncSender<Event>) -> Result<[LinkCounters; 2]> {
    let (answer, answered) = mpsc::channel();
    events.send(Event::Counters(answer)).context("the link is gone")?;
    answered.recv().context("the link is gone")
}

fn read(iface: &Iface, direction: usize, events: &SyncSender<Event>) {
    let mut buffer = [0; LARGEST];
    while let Ok(len) = iface.recv(&mut buffer) {
        let packet = Event::Packet { direction, bytes: buffer[..len].to_vec(), came: Instant::now() };
        if events.send(packet).is_err() {
            return;
        }
    }
}

fn pump(inbox: &Receiver<Event>, exits: &[Arc<Iface>; 2], seed: u64) {
    let mut links: [LossyLink<Vec<u8>>; 2] =
        [seed, !seed].map(|seed| LossyLink::new(LinkProfile::default(), seed));
    loop {
        let now = Instant::now();
        for (link, exit) in links.iter_mut().zip(exits) {
            while let Some((_, packet)) = link.receive(now) {
                // An end whose device is gone takes nothing; the readers tell.
                let _: std::io::Result<usize> = exit.send(&packet);
            }
        }
        let event = match links.iter().filter_map(LossyLink::next_delivery).min() {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match event {
            Ok(Event::Packet { direction, bytes, came }) => {
                let len = bytes.len();
                links[direction].send_sized(bytes, len, came);
            }
            Ok(Event::Profiles(profiles)) => {
                links[0].set_profile(profiles.up);
                links[1].set_profile(profiles.down);
            }
            Ok(Event::Counters(answer)) => {
                let _ = answer.send([links[0].counters(), links[1].counters()]);
            }
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(body)?)
}

fn ip(arguments: &[&str]) -> Result<()> {
    crate::namespace::ip(arguments)
}

#[cfg(test)]
mod tests;
