//! The cluster of deploy/compose as it stands there, each service in a namespace instead of a container: certificates, secret
//! and nginx's configuration are made as the file's head says, peers with tokens come in by nginx.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::endpoint::Identity;
use bench::peer::{Peer, Seat};
use bench::source::Shape;
use rtc::srtp::Profile;
use serde_json::Value;
use tests::{Namespace, Network, NginxFolder, end, nginx_configuration, python, root, runtime, tureen};

const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
/// How long services may take to find each other.
const ASSEMBLED_WITHIN: Duration = Duration::from_secs(30);
/// How long streams may take to move once everybody is in.
const MEDIA: Duration = Duration::from_secs(10);

/// A service's process, ended with its owner.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// The services by name, each with the words of its command.
fn services() -> Result<BTreeMap<String, Vec<String>>> {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let file = root().join("deploy/compose/compose.yaml");
    let read = Command::new(python()?).args(["-c", script]).arg(file).output()?;
    ensure!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let compose: Value = serde_json::from_slice(&read.stdout)?;
    let services = compose["services"].as_object().context("no services")?;
    let words = |service: &Value| {
        let words = service["command"].as_array().into_iter().flatten();
        words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    Ok(services.iter().map(|(name, service)| (name.clone(), words(service))).collect())
}

/// Runs `tureen` in a folder and returns what it printed on stdout.
fn run(folder: &Path, words: &[&str]) -> Result<String> {
    let ran = Command::new(tureen()?).args(words).current_dir(folder).output()?;
    ensure!(ran.status.success(), "tureen {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(String::from_utf8(ran.stdout)?)
}

fn start(namespace: &Namespace, program: &Path, words: &[String]) -> Result<Service> {
    let mut command = namespace.command(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Service(command.spawn().with_context(|| format!("cannot start {}", program.display()))?))
}

#[test]
fn the_compose_files_cluster_carries_calls() -> Result<()> {
    let services = services()?;
    let nodes: Vec<&String> =
        services.keys().filter(|name| !["redis", "nginx"].contains(&name.as_str())).collect();
    let names: Vec<&String> = services.keys().collect();
    let network = Network::new(u8::try_from(names.len() + 1)?)?;
    let (visitors, hosts) = network.clients().split_last().context("no namespaces")?;
    let address = |name: &str| -> Result<_> {
        let at = names.iter().position(|there| *there == name).with_context(|| format!("no {name}"))?;
        Ok(Network::client_address(u8::try_from(at)?))
    };
    for host in hosts {
        let known: Vec<_> =
            names.iter().map(|name| Ok((name.as_str(), address(name)?))).collect::<Result<_>>()?;
        host.name_hosts(known)?;
    }

    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    run(folder, &["cert", "ca", "--out", "authority"])?;
    for node in &nodes {
        run(folder, &["cert", "node", node, "--ca", "authority", "--out", "link-tls"])?;
    }
    fs::write(folder.join("secret"), "a secret that is long enough for HS256, at least in a test\n")?;
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (link, secret) = (path("link-tls"), path("secret"));

    let mut running = Vec::new();
    for (host, (name, words)) in hosts.iter().zip(&services) {
        let own = address(name)?.to_string();
        let word = |word: &String| {
            let word = word.replace("/etc/tureen/link", &link).replace("/etc/tureen/secret", &secret);
            word.replace("${PUBLIC_IP:-127.0.0.1}", &own)
        };
        let words: Vec<String> = words.iter().map(word).collect();
        match name.as_str() {
            "nginx" => {}
            "redis" => {
                // The image's own build has no protected mode.
                let mut words = words[1..].to_vec();
                words.extend(["--protected-mode".to_owned(), "no".to_owned()]);
                running.push(start(host, Path::new("redis-server"), &words)?);
            }
            _ => running.push(start(host, &tureen()?, &words)?),
        }
    }
    let configuration =
        nginx_configuration(["s1:4443", "s2:4443", "s3:4443"].into_iter().flat_map(|s| ["--upstream", s]))?;
    let gate = &hosts[names.iter().position(|name| *name == "nginx").context("no nginx")?];
    let nginx = NginxFolder::in_namespace(&configuration, gate)?;
    running.push(Service(nginx.start(Some(gate))?));

    let gate = address("nginx")?;
    visitors.within(|| {
        let runtime = runtime()?;
        let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
        let seat = |room: &str, peer: &str, secret: &str| -> Result<Seat> {
            let words = ["token", "--secret-file", secret, "--room", room, "--peer", peer, "--expires", "1h"];
            let token = run(folder, &words)?;
            let url = format!("ws://{gate}/?token={}", token.trim());
            Ok(Seat { url, room_id: room.to_owned(), peer_id: peer.to_owned() })
        };
        runtime.block_on(async {
            let begun = Instant::now();
            // Until nginx, signal nodes and media nodes are all there, joins fail; each answer is a reason to try again.
            let mut first = loop {
                match Peer::join(&seat("stage", "ann", &secret)?, &identity, &SHAPES).await {
                    Ok(peer) => break peer,
                    Err(error) if begun.elapsed() > ASSEMBLED_WITHIN => {
                        bail!("nobody is let in after {ASSEMBLED_WITHIN:?}: {error:#}")
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            };
            let mut second = Peer::join(&seat("stage", "bob", &secret)?, &identity, &SHAPES).await?;
            first.wait_for_media(2, 5, MEDIA).await.context("ann receives bob")?;
            second.wait_for_media(2, 5, MEDIA).await.context("bob receives ann")?;

            fs::write(
                folder.join("other"),
                "another secret that is long enough for HS256, but not this cluster's\n",
            )?;
            let forged = Peer::join(&seat("stage", "eve", &path("other"))?, &identity, &SHAPES).await;
            ensure!(forged.is_err(), "a token signed with another secret is let in");
            first.leave().await;
            second.leave().await;
            Ok(())
        })
    })
}
