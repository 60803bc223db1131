//! An nginx of a test's own, with what `tureen config nginx` prints as its configuration: in a folder of its own, ended with
//! its owner.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{Namespace, binaries, proc};

/// From start to the first connection that is taken.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// A port that was free may be taken before nginx comes to it.
const START_ATTEMPTS: usize = 5;

/// What `tureen config nginx` prints with these arguments.
pub fn nginx_configuration<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let printed = Command::new(binaries::tureen()?).args(["config", "nginx"]).args(arguments).output()?;
    ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    Ok(String::from_utf8(printed.stdout)?)
}

/// A folder with an nginx.conf around what belongs into its `http` block, as distributions have it around conf.d.
#[derive(Debug)]
pub struct NginxFolder(TempDir);

impl NginxFolder {
    /// Writes it, and lets nginx itself say whether it is right.
    pub fn new(http: &str) -> Result<Self> {
        Self::made(http, None)
    }

    /// The same for an nginx in a namespace, where servers may have names.
    pub fn in_namespace(http: &str, namespace: &Namespace) -> Result<Self> {
        Self::made(http, Some(namespace))
    }

    fn made(http: &str, namespace: Option<&Namespace>) -> Result<Self> {
        let folder = Self(tempfile::tempdir()?);
        // nginx's own processes run as somebody who may not look into others' folders.
        fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o755))?;
        folder.write_for(http, namespace)?;
        Ok(folder)
    }

    /// Writes another configuration into it, which is checked, too.
    pub fn write(&self, http: &str) -> Result<()> {
        self.write_for(http, None)
    }

    fn write_for(&self, http: &str, namespace: Option<&Namespace>) -> Result<()> {
        fs::write(self.path().join("tureen.conf"), http)?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {kind};\n"))
            .concat();
        let whole = format!(
            "pid nginx.pid;\nerror_log stderr;\nworker_processes 1;\nworker_rlimit_nofile 16384;\nevents {{ worker_connections \
             8192; }}\nhttp {{\n    access_log off;\n{temporary}    include tureen.conf;\n}}\n"
        );
        fs::write(self.path().join("nginx.conf"), whole)?;
        let checked = self.arguments(&mut nginx(namespace)).arg("-t").output();
        let checked = checked.context("no nginx: `cargo xtask test` installs it")?;
        let said = String::from_utf8_lossy(&checked.stderr);
        ensure!(checked.status.success(), "nginx -t: {said}");
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Starts nginx on it, here or in a namespace.
    pub fn start(&self, namespace: Option<&Namespace>) -> Result<Child> {
        self.arguments(&mut nginx(namespace))
            .args(["-g", "daemon off;"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start nginx: `cargo xtask test` installs it")
    }

    fn arguments<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("-p").arg(self.path()).arg("-c").arg(self.path().join("nginx.conf"))
    }
}

fn nginx(namespace: Option<&Namespace>) -> Command {
    namespace.map_or_else(|| Command::new("nginx"), |at| at.command("nginx"))
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: NginxFolder,
}

impl Nginx {
    /// Starts one on a free port before these servers.
    pub fn start(upstreams: &[SocketAddr]) -> Result<Self> {
        let upstreams: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
        Self::start_with(|port| {
            let named = upstreams.iter().flat_map(|upstream| ["--upstream", upstream]);
            nginx_configuration(named.chain(["--port", port]))
        })
    }

    /// Starts one whose configuration is made for a port.
    pub fn start_with(configuration: impl Fn(&str) -> Result<String>) -> Result<Self> {
        for _ in 0..START_ATTEMPTS {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let folder = NginxFolder::new(&configuration(&address.port().to_string())?)?;
            let mut child = folder.start(None)?;
            let begun = Instant::now();
            while begun.elapsed() < READY_WITHIN && child.try_wait()?.is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Ok(Self { child, address, folder });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            child.wait()?;
        }
        bail!("nginx does not listen")
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id; those who serve are its children.
    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Those of its processes that serve.
    pub fn processes(&self) -> Result<BTreeSet<u32>> {
        proc::children(self.pid())
    }

    /// Gives it another configuration, as `systemctl reload nginx` does, and waits until all new connections are served by it.
    pub fn reload(&self, configuration: &str) -> Result<()> {
        self.folder.write(configuration)?;
        let before = proc::children(self.pid())?;
        proc::kill(self.pid(), "HUP")?;
        let begun = Instant::now();
        loop {
            let now = proc::children(self.pid())?;
            // Those from before serve what they have, and listen no more.
            let retired = |pid: &u32| {
                now.contains(pid) && proc::listening(*pid).is_ok_and(|sockets| sockets.is_empty())
            };
            if now.difference(&before).next().is_some()
                && before.iter().all(|pid| !proc::alive(*pid) || retired(pid))
            {
                return Ok(());
            }
            ensure!(begun.elapsed() < READY_WITHIN, "nginx does not take the new configuration");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        proc::end(&mut self.child);
    }
}
