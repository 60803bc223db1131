//! The address that two nginx machines share by keepalived, as `tureen config keepalived` configures them. The machines are
//! namespaces, joined by one cable.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::{Namespace, NginxFolder, children, kill, nginx_configuration, tureen};

const WITHIN: Duration = Duration::from_secs(20);
const FIRST: &str = "10.77.0.2";
const SECOND: &str = "10.77.0.3";
const SHARED: &str = "10.77.0.10";
/// nginx' port in each of the two namespaces, where nobody else is.
const FRONT_PORT: &str = "80";

#[test]
fn the_shared_address_follows_a_machine_whose_nginx_runs() -> Result<()> {
    let (first, second) = (Namespace::new()?, Namespace::new()?);
    // Each end is in its own namespace, and goes with it.
    let (near, far) = ("vrrp0", "vrrp1");
    let cable = ["link", "add", near, "netns", first.name(), "type", "veth", "peer", "name", far];
    ip(&[&cable[..], &["netns", second.name()]].concat())?;
    for (namespace, device, address) in [(&first, near, FIRST), (&second, far, SECOND)] {
        ip(&["-n", namespace.name(), "addr", "add", &format!("{address}/24"), "dev", device])?;
        ip(&["-n", namespace.name(), "link", "set", device, "up"])?;
    }
    let mut active = Machine::start(&first, near, [FIRST, SECOND], "150")?;
    let passive = Machine::start(&second, far, [SECOND, FIRST], "100")?;
    active.gains("the first machine has the address")?;
    ensure!(!has_shared(&second)?, "both have the address");

    let died = Instant::now();
    active.kill_nginx()?;
    passive.gains("the second machine has the address")?;
    println!("the address moved {:.2} s after nginx' death", died.elapsed().as_secs_f64());
    active.loses("the first machine has let go of it")?;
    let asked = first
        .command("curl")
        .args(["--silent", "--max-time", "5", "--write-out", "%{http_code}"])
        .arg(format!("http://{SHARED}:{FRONT_PORT}/nginx-health"))
        .output()?;
    let answer = String::from_utf8_lossy(&asked.stdout);
    ensure!(answer == "204", "the second machine's nginx answers {answer:?} at the shared address");

    active.start_nginx(&first)?;
    active.gains("the first machine has it back")?;
    passive.loses("the second machine has let go of it")?;

    // The machine itself goes, with no word to anybody.
    let died = Instant::now();
    active.kill_keepalived()?;
    passive.gains("the second machine has the address of the first, which is gone")?;
    println!("the address moved {:.2} s after keepalived's death", died.elapsed().as_secs_f64());
    Ok(())
}

/// nginx and keepalived, as they would be on one of two machines.
struct Machine {
    nginx: Child,
    keepalived: Child,
    /// The kernel's news of addresses, which come and go by keepalived.
    news: Child,
    lines: mpsc::Receiver<String>,
    folder: NginxFolder,
}

impl Machine {
    fn start(namespace: &Namespace, device: &str, [own, other]: [&str; 2], priority: &str) -> Result<Self> {
        // A server behind it that answers nobody: nothing that the other machine could mend.
        let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let folder = NginxFolder::new(&nginx_configuration(["--upstream", &nobody, "--port", FRONT_PORT])?)?;
        let printed = Command::new(tureen()?)
            .args(["config", "keepalived", "--address", own, "--peer", other, "--interface", device])
            .args(["--virtual-address", &format!("{SHARED}/24"), "--priority", priority])
            .args(["--check", &format!("http://127.0.0.1:{FRONT_PORT}/nginx-health")])
            .output()?;
        ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let printed = String::from_utf8(printed.stdout)?;
        let file = folder.path().join("keepalived.conf");
        // Where scripts run as another user, `--config-test` of keepalived 2.2 takes its parent for a keepalived that died,
        // and ends itself by SIGTERM. So the same is tested with this user, and run as it is.
        ensure!(printed.contains("script_user nobody"), "{printed}");
        fs::write(&file, printed.replace("script_user nobody", "script_user root"))?;
        let tested =
            namespace.command("keepalived").arg("--use-file").arg(&file).arg("--config-test").output();
        let tested = tested.context("no keepalived: `cargo xtask test` installs it")?;
        let said = String::from_utf8_lossy(&tested.stderr);
        ensure!(tested.status.success() && said.is_empty(), "keepalived: {}: {said}", tested.status);
        fs::write(&file, printed)?;

        let mut news = namespace
            .command("ip")
            .args(["-4", "-o", "monitor", "address"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = lines(&mut news)?;
        let nginx = folder.start(Some(namespace))?;
        let mut keepalived = namespace.command("keepalived");
        keepalived.args(["--dont-fork", "--log-console", "--use-file"]).arg(&file);
        for process in ["pid", "vrrp_pid", "checkers_pid"] {
            keepalived.arg(format!("--{process}")).arg(folder.path().join(process));
        }
        let keepalived =
            keepalived.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { nginx, keepalived, news, lines, folder })
    }

    fn start_nginx(&mut self, namespace: &Namespace) -> Result<()> {
        self.nginx = self.folder.start(Some(namespace))?;
        Ok(())
    }

    fn kill_nginx(&mut self) -> Result<()> {
        kill_tree(&mut self.nginx)
    }

    fn kill_keepalived(&mut self) -> Result<()> {
        kill_tree(&mut self.keepalived)
    }

    fn gains(&self, what: &str) -> Result<()> {
        self.hears(what, |line| !line.starts_with("Deleted"))
    }

    fn loses(&self, what: &str) -> Result<()> {
        self.hears(what, |line| line.starts_with("Deleted"))
    }

    /// Waits for the kernel's word.
    fn hears(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).with_context(|| format!("not in time: {what}"))?;
            if line.contains(&format!(" {SHARED}/")) && wanted(&line) {
                return Ok(());
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in [&mut self.nginx, &mut self.keepalived, &mut self.news] {
            let _ = kill_tree(child);
        }
    }
}

/// Ends a process and its children, of which none is asked, and the parent starts no new ones meanwhile.
fn kill_tree(child: &mut Child) -> Result<()> {
    if child.try_wait()?.is_none() {
        kill(child.id(), "STOP")?;
        for below in children(child.id())? {
            kill(below, "KILL")?;
        }
        child.kill()?;
    }
    child.wait()?;
    Ok(())
}

fn lines(child: &mut Child) -> Result<mpsc::Receiver<String>> {
    let stdout = child.stdout.take().context("stdout is piped")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}

fn ip(arguments: &[&str]) -> Result<String> {
    let done = Command::new("ip").args(arguments).output().context("no ip: apt-get install iproute2")?;
    ensure!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

fn has_shared(namespace: &Namespace) -> Result<bool> {
    Ok(ip(&["-n", namespace.name(), "-4", "-o", "addr", "show"])?.contains(&format!(" {SHARED}/")))
}
