//! Either side of the worker channel can be exchanged: the server runs any worker that speaks it, and mediasoup's npm
//! package runs ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{Scenario, Server, mediasoup_packages, node_22, run_scenario, tureen_worker};

/// Stands in for a stock worker: our own, which is given nothing but what mediasoup's documentation names.
struct Shim {
    folder: tempfile::TempDir,
}

impl Shim {
    /// It refuses to start, and says why, when it is handed an open file, a flag or an argument that stock would not
    /// know; and it hides the environment, but for what mediasoup sets.
    fn new() -> Result<Self> {
        let shim = Self { folder: tempfile::tempdir()? };
        let script = format!(
            r#"#!/bin/bash
refuse() {{ echo "$*" >> '{refusals}'; exit 1; }}
for fd in /proc/$$/fd/*; do
    case " 0 1 2 3 4 {inherited} " in
    *" ${{fd##*/}} "*) ;;
    # One is gone by now: the one that listed them.
    *) [ ! -e "$fd" ] || refuse "descriptor ${{fd##*/}}: $(readlink "$fd")" ;;
    esac
done
for argument; do
    case "$argument" in
    --logLevel=* | --logTag=* | --rtcMinPort=* | --rtcMaxPort=*) ;;
    --dtlsCertificateFile=* | --dtlsPrivateKeyFile=* | --libwebrtcFieldTrials=*) ;;
    *) refuse "argument $argument" ;;
    esac
done
[ -n "$MEDIASOUP_VERSION" ] || refuse "MEDIASOUP_VERSION is not set"
echo "$$" >> '{starts}'
exec env -i MEDIASOUP_VERSION="$MEDIASOUP_VERSION" '{worker}' "$@"
"#,
            refusals = shim.file("refusals").display(),
            inherited = inherited_descriptors()?,
            starts = shim.file("starts").display(),
            worker = tureen_worker()?.display(),
        );
        fs::write(shim.path(), script)?;
        fs::set_permissions(shim.path(), fs::Permissions::from_mode(0o755))?;
        Ok(shim)
    }

    fn path(&self) -> PathBuf {
        self.file("mediasoup-worker")
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }

    fn refusals(&self) -> String {
        fs::read_to_string(self.file("refusals")).unwrap_or_default()
    }
}

/// Descriptors that any shell has that this test starts: what its own caller left open, and the shell's script.
fn inherited_descriptors() -> Result<String> {
    let script = tempfile::NamedTempFile::new()?;
    fs::write(script.path(), "for fd in /proc/$$/fd/*; do echo -n \"${fd##*/} \"; done")?;
    let output = Command::new("bash").arg(script.path()).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn the_server_runs_any_worker_that_speaks_the_channel() -> Result<()> {
    let shim = Shim::new()?;
    let server = Server::options()
        .set("--workers", "1")
        .worker(shim.path())
        .start()
        .with_context(|| format!("the shim refused: {}", shim.refusals()))?;
    let workers = server.workers()?;
    let started = fs::read_to_string(shim.file("starts"))?;
    ensure!(workers.iter().map(u32::to_string).eq(started.lines().map(str::to_owned)), "{started}");
    run_scenario("call", &server, &json!({ "seconds": 4 }), Duration::from_secs(180))?;
    ensure!(server.workers()? == workers, "the worker was replaced on the way");
    ensure!(shim.refusals().is_empty(), "{}", shim.refusals());
    ensure!(server.stop()?.success(), "the server ends in good order");
    Ok(())
}

#[test]
fn mediasoup_s_npm_package_runs_our_worker_in_a_call() -> Result<()> {
    let args = json!({ "workerBin": tureen_worker()?.canonicalize()?, "packages": mediasoup_packages()? });
    let mut scenario = Scenario::start_with(&node_22()?, "mediasoup", "http://127.0.0.1:9", &args)?;
    scenario.finish(Duration::from_secs(180))?;
    Ok(())
}
