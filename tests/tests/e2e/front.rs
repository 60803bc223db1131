//! nginx before servers, as `tureen config nginx` configures it: a room's clients stay together, a server that died is passed
//! over, quiet calls keep their sockets.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{Certificate, Cluster, Nginx, Scenario, Server, kill, nginx_configuration};

const WITHIN: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);
const ROOMS: usize = 16;

/// What the clients of each dialect write: the classic web application says `undefined` for what it was not given.
const DIALECTS: [(&str, &str); 2] =
    [("ann", "&consumerReplicas=undefined"), ("bob", "&consumerReplicas=0&usePipeTransports=false")];

#[test]
fn nginx_keeps_a_room_together_and_passes_over_a_server_that_died() -> Result<()> {
    let (first, second) = (Server::start()?, Server::start()?);
    let (at_first, at_second) = (address(&first)?, address(&second)?);
    let nginx = Nginx::start(&[at_first, at_second])?;
    ensure!(get(nginx.address(), "/health")?.starts_with("HTTP/1.1 200"), "no health through nginx");
    ensure!(get(nginx.address(), "/metrics")?.starts_with("HTTP/1.1 404"), "metrics are not for everyone");

    let mut callers = Vec::new();
    for room in 0..ROOMS {
        for dialect in DIALECTS {
            callers.push(upgrade(nginx.address(), room, dialect)?);
        }
    }
    let (rooms_at_first, rooms_at_second) = (rooms(&first)?, rooms(&second)?);
    println!("{rooms_at_first} rooms at the first, {rooms_at_second} at the second");
    ensure!(rooms_at_first + rooms_at_second == ROOMS, "a room is on both");
    ensure!(rooms_at_first > 0 && rooms_at_second > 0, "one server has all rooms");
    // The API for broadcasters names the room in its path, and finds it.
    for room in 0..ROOMS {
        let answer = get(nginx.address(), &format!("/rooms/room-{room}"))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "room {room}: {answer:.200}");
    }

    drop(callers);
    kill(first.pid(), "KILL")?;
    drop(first);
    let died = Instant::now();
    let mut callers = Vec::new();
    for room in 0..ROOMS {
        callers.push(upgrade(nginx.address(), room, DIALECTS[0])?);
    }
    println!("all {ROOMS} rooms again in {:?} after the first server's death", died.elapsed());
    ensure!(rooms(&second)? >= ROOMS, "not all rooms are at the server that is left");
    drop(callers);

    let first = Server::options().set("--listen", at_first.to_string()).start()?;
    // The upstream's time of grace passes, then it is given its rooms again.
    let back = Instant::now();
    while rooms(&first)? == 0 {
        ensure!(back.elapsed() < WITHIN, "the first server is back, but gets no room");
        let callers: Result<Vec<_>> =
            (0..ROOMS).map(|room| upgrade(nginx.address(), room, DIALECTS[1])).collect();
        drop(callers?);
    }
    println!("the first server has rooms again {:?} after it was back", back.elapsed());
    Ok(())
}

#[test]
fn nginx_takes_the_configuration_with_tls_and_tells_servers_who_calls() -> Result<()> {
    let certificate = Certificate::new()?;
    let (chain, key) = (certificate.path(), certificate.key());
    let (chain, key) = (chain.to_str().context("UTF-8")?, key.to_str().context("UTF-8")?);
    let server = Server::start()?;
    let upstream = server.authority().to_owned();
    let with_tls = ["--upstream", &upstream, "--tls-cert", chain, "--tls-key", key];
    let named = ["--server-name", "localhost"];
    let nginx = Nginx::start_with(|port| {
        nginx_configuration(with_tls.into_iter().chain(named).chain(["--port", port]))
    })?;
    let page = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--cacert", chain])
        .arg(format!("https://localhost:{}/health", nginx.address().port()))
        .output()
        .context("no curl: apt-get install curl")?;
    let said = String::from_utf8_lossy(&page.stderr);
    ensure!(page.status.success() && page.stdout.starts_with(b"{"), "by HTTPS: {said}");

    // What reaches a server behind it, as it is.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let nginx = Nginx::start(&[listener.local_addr()?])?;
    let mut caller = TcpStream::connect(nginx.address())?;
    let head = "GET /?roomId=r HTTP/1.1\r\nHost: call.example.org\r\nX-Forwarded-For: 203.0.113.9\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\n\r\n";
    caller.write_all(head.as_bytes())?;
    let (mut behind, _) = listener.accept()?;
    behind.set_read_timeout(Some(WITHIN))?;
    let received = head_of(&mut behind)?.to_lowercase();
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

/// nginx' patience and the servers' pings, both much shorter than they are: pings keep a call open on which nothing is said.
#[test]
fn a_quiet_call_keeps_its_socket_through_nginx() -> Result<()> {
    const PINGS: usize = 8;
    let folder = tempfile::tempdir()?;
    let settings = folder.path().join("tureen.toml");
    std::fs::write(&settings, "[limits.session]\nping_interval_ms = 500\n")?;
    let server = Server::options().set("--config", &settings).start()?;
    let upstream = server.authority().to_owned();
    let nginx = Nginx::start_with(|port| {
        let whole = nginx_configuration(["--upstream", &upstream, "--port", port])?;
        let short = whole
            .replace("proxy_read_timeout 60s", "proxy_read_timeout 2s")
            .replace("proxy_send_timeout 60s", "proxy_send_timeout 2s");
        ensure!(
            short.matches(" 2s;").count() > whole.matches(" 2s;").count() + 1,
            "no timeouts in:\n{whole}"
        );
        Ok(short)
    })?;
    let mut caller = upgrade(nginx.address(), 0, DIALECTS[1])?;
    let opened = Instant::now();
    let mut pings = 0;
    while pings < PINGS {
        let mut head = [0; 2];
        caller.read_exact(&mut head).with_context(|| format!("after {pings} pings"))?;
        let mut payload = match head[1] {
            126 => {
                let mut length = [0; 2];
                caller.read_exact(&mut length)?;
                vec![0; u16::from_be_bytes(length).into()]
            }
            length => vec![0; length.into()],
        };
        caller.read_exact(&mut payload)?;
        const PING: u8 = 0x89;
        if head[0] == PING {
            pings += 1;
            // A pong, masked with zeros (RFC 6455 section 5.5.3).
            let length = u8::try_from(payload.len()).context("a ping is short")?;
            let mut pong = vec![0x8a, 0x80 | length, 0, 0, 0, 0];
            pong.append(&mut payload);
            caller.write_all(&pong)?;
        }
    }
    ensure!(opened.elapsed() > Duration::from_secs(3), "{PINGS} pings in {:?}", opened.elapsed());
    Ok(())
}

/// Affinity would lead both to one node, so nginx is reloaded between them, as when a node is taken out for an upgrade: who is
/// in stays in.
#[test]
fn chromium_peers_of_different_signal_nodes_share_a_room_through_nginx() -> Result<()> {
    let mut cluster = Cluster::start_with(2, 3, |_, options| options.set("--log", "info,signaling=debug"))?;
    let (s1, s2) = (address(cluster.node("s1"))?, address(cluster.node("s2"))?);
    let nginx = Nginx::start(&[s1, s2])?;
    let args = json!({ "room": "shared" });
    let mut scenario = Scenario::start("nodes", &format!("http://{}", nginx.address()), &args)?;
    scenario.heard(MINUTE).context("the first joins")?;
    let has = |cluster: &Cluster, name: &str| {
        cluster.node(name).log().iter().any(|line| line.contains("session opened"))
    };
    let (first, second, left) = if has(&cluster, "s1") { ("s1", "s2", s2) } else { ("s2", "s1", s1) };
    ensure!(has(&cluster, first) && !has(&cluster, second), "one of the nodes has the first");
    let port = nginx.address().port().to_string();
    nginx.reload(&nginx_configuration(["--upstream", &left.to_string(), "--port", &port])?)?;
    scenario.tell(&json!({}))?;
    scenario.heard(MINUTE).context("the second joins")?;
    ensure!(has(&cluster, second), "{second} has nobody");
    println!(
        "{} has the room, red came by {first}, blue by {second}",
        cluster.owner("shared")?.context("an owner")?
    );

    let both = ["--upstream", &s1.to_string(), "--upstream", &s2.to_string(), "--port", &port];
    nginx.reload(&nginx_configuration(both)?)?;
    let (killed, sessions) = (Instant::now(), Cell::new(0));
    cluster.kill(second)?;
    cluster.node(first).wait_for_log(WITHIN, |line| {
        sessions.set(sessions.get() + usize::from(line.contains("session opened")));
        (sessions.get() == 2).then_some(())
    })?;
    println!("blue came to {first} {:.2} s after {second}'s death", killed.elapsed().as_secs_f64());
    scenario.tell(&json!({}))?;
    scenario.finish(MINUTE)?;
    Ok(())
}

fn address(server: &Server) -> Result<SocketAddr> {
    Ok(server.authority().parse()?)
}

pub(super) fn get(address: SocketAddr, path: &str) -> Result<String> {
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
fn rooms(server: &Server) -> Result<usize> {
    Ok(server.metric("tureen_rooms")?.context("no tureen_rooms among the metrics")? as usize)
}

/// A WebSocket as far as its handshake: enough to be in the room.
fn upgrade(address: SocketAddr, room: usize, (peer, more): (&str, &str)) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(WITHIN))?;
    let head = format!(
        "GET /?roomId=room-{room}&peerId={peer}{more} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: protoo\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    let answer = head_of(&mut connection)?;
    ensure!(answer.starts_with("HTTP/1.1 101"), "room {room}: {answer}");
    Ok(connection)
}

/// A request's or an answer's head, and nothing of what follows it.
fn head_of(connection: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(connection.read(&mut byte)? == 1, "hung up: {}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}
