//! nginx before two servers, configured by `tureen config nginx`; and the address that two nginx machines share.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tests::{Certificate, Namespace, Server, children, kill, tureen};

const WITHIN: Duration = Duration::from_secs(20);
const ROOMS: usize = 16;

#[test]
fn nginx_keeps_a_room_together_and_passes_over_a_server_that_died() -> Result<()> {
    let first = Server::start()?;
    let second = Server::start()?;
    let (at_first, at_second) = (address(&first)?, address(&second)?);
    let nginx = Nginx::start(&[at_first, at_second], &[])?;
    ensure!(get(nginx.address, "/health")?.starts_with("HTTP/1.1 200"), "no health through nginx");
    ensure!(get(nginx.address, "/metrics")?.starts_with("HTTP/1.1 404"), "metrics are not for everyone");

    let mut callers = Vec::new();
    for room in 0..ROOMS {
        for peer in ["ann", "bob"] {
            callers.push(upgrade(nginx.address, room, peer)?);
        }
    }
    let (rooms_at_first, rooms_at_second) = (rooms(at_first)?, rooms(at_second)?);
    println!("{rooms_at_first} rooms at the first, {rooms_at_second} at the second");
    ensure!(rooms_at_first + rooms_at_second == ROOMS, "a room is on both");
    ensure!(rooms_at_first > 0 && rooms_at_second > 0, "one server has all rooms");
    // The API for broadcasters names the room in its path, and finds it.
    for room in 0..ROOMS {
        let answer = get(nginx.address, &format!("/rooms/room-{room}"))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "room {room}: {answer:.200}");
    }

    drop(callers);
    kill(first.pid(), "KILL")?;
    drop(first);
    let died = Instant::now();
    let mut callers = Vec::new();
    for room in 0..ROOMS {
        callers.push(upgrade(nginx.address, room, "ann")?);
    }
    println!("all {ROOMS} rooms again in {:?} after the first server's death", died.elapsed());
    ensure!(rooms(at_second)? >= ROOMS, "not all rooms are at the server that is left");

    let first = Server::options().set("--listen", at_first.to_string()).start()?;
    drop(callers);
    // The upstream's time of grace passes, then it is given its rooms again.
    let back = Instant::now();
    while rooms(at_first)? == 0 {
        ensure!(back.elapsed() < WITHIN, "the first server is back, but gets no room");
        let callers: Result<Vec<_>> = (0..ROOMS).map(|room| upgrade(nginx.address, room, "ann")).collect();
        drop(callers?);
    }
    println!("the first server has rooms again {:?} after it was back", back.elapsed());
    drop(first);
    Ok(())
}

#[test]
fn nginx_takes_the_configuration_with_tls_and_tells_servers_who_calls() -> Result<()> {
    let server = Server::start()?;
    let certificate = Certificate::new()?;
    let (chain, key) = (certificate.path(), certificate.key());
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (chain, key) = (path(&chain)?, path(&key)?);
    let with_tls = ["--tls-cert", &chain, "--tls-key", &key, "--server-name", "call.example.org"];
    let folder = tempfile::tempdir()?;
    let upstream = address(&server)?;
    Nginx::check(&folder, &Nginx::configuration(&[upstream], 443, &with_tls)?)?;

    // What reaches a server behind it, as it is.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let nginx = Nginx::start(&[listener.local_addr()?], &[])?;
    let mut caller = TcpStream::connect(nginx.address)?;
    let head = "GET /?roomId=r HTTP/1.1\r\nHost: call.example.org\r\nX-Forwarded-For: 203.0.113.9\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\n\r\n";
    caller.write_all(head.as_bytes())?;
    let (mut behind, _) = listener.accept()?;
    behind.set_read_timeout(Some(WITHIN))?;
    let mut received = vec![0; 4096];
    let length = behind.read(&mut received)?;
    let received = String::from_utf8_lossy(&received[..length]).to_lowercase();
    for line in [
        "get /?roomid=r http/1.1",
        "host: call.example.org",
        "x-forwarded-for: 203.0.113.9, 127.0.0.1",
        "x-forwarded-proto: http",
        "upgrade: websocket",
        "connection: upgrade",
    ] {
        ensure!(received.lines().any(|received| received == line), "no {line:?} in:\n{received}");
    }
    Ok(())
}

#[test]
fn the_shared_address_moves_when_nginx_dies() -> Result<()> {
    let (first, second) = (Namespace::new()?, Namespace::new()?);
    // Each is in its own namespace, and goes with it.
    let (near, far) = ("vrrp0", "vrrp1");
    ip(&[
        "link",
        "add",
        &near,
        "netns",
        first.name(),
        "type",
        "veth",
        "peer",
        "name",
        &far,
        "netns",
        second.name(),
    ])?;
    for (namespace, device, address) in [(&first, near, FIRST), (&second, far, SECOND)] {
        ip(&["-n", namespace.name(), "addr", "add", &format!("{address}/24"), "dev", device])?;
        ip(&["-n", namespace.name(), "link", "set", device, "up"])?;
    }
    let mut machines = vec![
        Machine::start(&first, near, [FIRST, SECOND], "150")?,
        Machine::start(&second, far, [SECOND, FIRST], "100")?,
    ];
    until("the first machine has the address", || has_shared(&first))?;
    ensure!(!has_shared(&second)?, "both have the address");
    kill(machines[0].nginx.id(), "KILL")?;
    machines[0].nginx.wait()?;
    let died = Instant::now();
    until("the second machine has the address", || has_shared(&second))?;
    println!("the address moved {:?} after nginx' death", died.elapsed());
    until("the first machine has let go of it", || Ok(!has_shared(&first)?))?;
    machines.clear();
    Ok(())
}

const FIRST: &str = "10.77.0.2";
const SECOND: &str = "10.77.0.3";
const SHARED: &str = "10.77.0.10";
/// nginx' port in each of the two namespaces, where nobody else is.
const FRONT_PORT: u16 = 80;

fn ip(arguments: &[&str]) -> Result<String> {
    let done = Command::new("ip").args(arguments).output().context("no ip: apt-get install iproute2")?;
    ensure!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

fn has_shared(namespace: &Namespace) -> Result<bool> {
    Ok(ip(&["-n", namespace.name(), "-4", "-o", "addr", "show"])?.contains(&format!(" {SHARED}/")))
}

fn until(what: &str, so: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !so()? {
        ensure!(begun.elapsed() < WITHIN, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// nginx and keepalived, as they would be on one of two machines.
struct Machine {
    nginx: Child,
    keepalived: Child,
    _folder: TempDir,
}

impl Machine {
    fn start(namespace: &Namespace, device: &str, [own, other]: [&str; 2], priority: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // No server behind it: that is nothing that another machine could mend.
        Nginx::check(&folder, &Nginx::configuration(&["127.0.0.1:9".parse()?], FRONT_PORT, &[])?)?;
        let printed = Command::new(tureen()?)
            .args(["config", "keepalived", "--address", own, "--peer", other, "--interface", device])
            .args(["--virtual-address", &format!("{SHARED}/24"), "--priority", priority])
            .args(["--check", &format!("http://127.0.0.1:{FRONT_PORT}/nginx-health")])
            .output()?;
        ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let file = folder.path().join("keepalived.conf");
        fs::write(&file, printed.stdout)?;
        let said = folder.path().join("said");
        let check = format!("--config-test={}", said.display());
        let checked = namespace.command("keepalived").arg("--use-file").arg(&file).arg(check).status()?;
        ensure!(checked.success(), "{}", fs::read_to_string(&said).unwrap_or_default());

        let nginx = namespace
            .command("nginx")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .args(["-g", "daemon off; master_process off;"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start nginx: apt-get install nginx-light")?;
        let keepalived = namespace
            .command("keepalived")
            .args(["--dont-fork", "--log-console", "--use-file"])
            .arg(&file)
            .args(
                ["--pid", "--vrrp_pid", "--checkers_pid"]
                    .iter()
                    .flat_map(|option| [(*option).into(), folder.path().join(&option[2..]).into_os_string()]),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start keepalived: apt-get install keepalived")?;
        Ok(Self { nginx, keepalived, _folder: folder })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
        // It takes its own child and the address along.
        let _ = kill(self.keepalived.id(), "TERM");
        let _ = self.keepalived.wait();
    }
}

/// A running nginx, in a folder of its own.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// Before these servers.
    fn start(upstreams: &[SocketAddr], more: &[&str]) -> Result<Self> {
        // The port is free now; should somebody take it before nginx does, another is tried.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let folder = tempfile::tempdir()?;
            Self::check(&folder, &Self::configuration(upstreams, address.port(), more)?)?;
            let mut child = Self::command(&folder)
                .args(["-g", "daemon off;"])
                .stdout(Stdio::null())
                .stderr(Stdio::inherit())
                .spawn()
                .context("cannot start nginx: apt-get install nginx-light")?;
            let begun = Instant::now();
            while begun.elapsed() < WITHIN && child.try_wait()?.is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Ok(Self { child, address, _folder: folder });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            child.wait()?;
        }
        bail!("nginx does not listen")
    }

    fn configuration(upstreams: &[SocketAddr], port: u16, more: &[&str]) -> Result<String> {
        let mut command = Command::new(tureen()?);
        command.args(["config", "nginx", "--port", &port.to_string()]).args(more);
        for upstream in upstreams {
            command.args(["--upstream", &upstream.to_string()]);
        }
        let printed = command.output()?;
        ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        Ok(String::from_utf8(printed.stdout)?)
    }

    fn command(folder: &TempDir) -> Command {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        command
    }

    /// What the distribution's nginx.conf is to the file in conf.d; nginx itself says whether both are right.
    fn check(folder: &TempDir, configuration: &str) -> Result<()> {
        fs::write(folder.path().join("tureen.conf"), configuration)?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {kind};\n"))
            .concat();
        let whole = format!(
            "pid nginx.pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\nhttp {{\n    access_log off;\n{temporary}    \
             include tureen.conf;\n}}\n"
        );
        fs::write(folder.path().join("nginx.conf"), whole)?;
        let checked =
            Self::command(folder).arg("-t").output().context("no nginx: apt-get install nginx-light")?;
        ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let children: BTreeSet<u32> = children(self.child.id()).unwrap_or_default();
        let _ = kill(self.child.id(), "TERM");
        let _ = self.child.wait();
        for child in children {
            let _ = kill(child, "KILL");
        }
    }
}

fn address(server: &Server) -> Result<SocketAddr> {
    Ok(server.authority().parse()?)
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(WITHIN))?;
    connection.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// How many rooms a server has.
fn rooms(address: SocketAddr) -> Result<usize> {
    let metrics = get(address, "/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("tureen_rooms "));
    Ok(line.context("no tureen_rooms among the metrics")?.trim().parse()?)
}

/// A WebSocket as far as its handshake: enough to be in the room.
fn upgrade(address: SocketAddr, room: usize, peer: &str) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(WITHIN))?;
    let head = format!(
        "GET /?roomId=room-{room}&peerId={peer} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: protoo\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(connection.read(&mut byte)? == 1, "hung up: {}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 101"), "room {room}: {answer}");
    Ok(connection)
}
