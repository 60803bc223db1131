//! Debian packages: what is missing is installed when that needs no password; else the command to type is printed.
//! apt is asked only when something is really missing.

use std::path::Path;

use anyhow::{Result, bail};

use crate::process;

/// A package, and how to tell whether what it brings is there (from wherever it came).
pub(crate) struct Package {
    name: &'static str,
    present: fn() -> bool,
}

const CXX: Package = Package { name: "g++", present: || process::find("c++").is_some() };
const MAKE: Package = Package { name: "make", present: || process::find("make").is_some() };
const CMAKE: Package = Package { name: "cmake", present: || process::find("cmake").is_some() };
const LIBCLANG: Package = Package { name: "libclang-dev", present: libclang };
const NPM: Package = Package { name: "npm", present: || process::find("npm").is_some() };
const CHROMIUM: Package = Package { name: "chromium", present: || process::find("chromium").is_some() };
const FIREFOX: Package = Package {
    name: "firefox-esr",
    present: || process::find("firefox-esr").or_else(|| process::find("firefox")).is_some(),
};
const FFMPEG: Package = Package {
    name: "ffmpeg",
    present: || process::find("ffmpeg").is_some() && process::find("ffprobe").is_some(),
};
const NFTABLES: Package = Package { name: "nftables", present: || process::find("nft").is_some() };
const IPROUTE: Package = Package { name: "iproute2", present: || process::find("ip").is_some() };
const NGINX: Package = Package { name: "nginx-light", present: || process::find("nginx").is_some() };
const KEEPALIVED: Package = Package { name: "keepalived", present: || process::find("keepalived").is_some() };
/// With which keepalived asks nginx.
const CURL: Package = Package { name: "curl", present: || process::find("curl").is_some() };
const SYSTEMD: Package = Package { name: "systemd", present: || process::find("systemd-analyze").is_some() };
/// The program only: tests start servers of their own.
const REDIS: Package = Package {
    name: "redis-server",
    present: || process::find("redis-server").is_some() && process::find("redis-cli").is_some(),
};
const OPENSSL: Package = Package { name: "openssl", present: || process::find("openssl").is_some() };

const PYTHON_VENV: Package = Package {
    name: "python3-venv",
    present: || process::succeeds(process::command("python3").args(["-c", "import ensurepip, venv"])),
};

/// What building the server, the worker and the page needs (BoringSSL: a C++ compiler, cmake, libclang for its bindings).
pub(crate) const TO_BUILD: &[Package] = &[CXX, MAKE, CMAKE, LIBCLANG, NPM];
/// What mediasoup's Node tests need.
pub(crate) const TO_NODE_TEST: &[Package] = &[CXX, MAKE, CMAKE, LIBCLANG, NPM, OPENSSL];
/// What all tests need: browsers, an encoder and recorder, namespaces whose traffic can be dropped, certificates, Python, Redis,
/// and what stands before servers in production.
pub(crate) const TO_TEST: &[Package] = &[
    CXX,
    MAKE,
    CMAKE,
    LIBCLANG,
    NPM,
    CHROMIUM,
    FIREFOX,
    FFMPEG,
    NFTABLES,
    IPROUTE,
    OPENSSL,
    PYTHON_VENV,
    NGINX,
    KEEPALIVED,
    CURL,
    SYSTEMD,
    REDIS,
];

/// Sees to it that the packages' programs are there.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !(package.present)()).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if process::find("apt-get").is_none() {
        bail!(
            "missing: {list} (Debian's names); install them with this system's package manager, then run again"
        );
    }
    let Some(prefix) = privilege() else {
        bail!(
            "missing: {list}; type this, then run again:\n    sudo apt-get update && sudo apt-get install --yes {list}"
        );
    };
    eprintln!("    installing Debian packages: {list}");
    process::run(apt(prefix).arg("update").arg("--quiet=2"))?;
    process::run(
        apt(prefix).args(["install", "--yes", "--no-install-recommends", "--quiet=2"]).args(&missing),
    )?;
    for package in packages {
        if !(package.present)() {
            bail!("{} is installed, but what it should bring is not found", package.name);
        }
    }
    Ok(())
}

/// The words before `apt-get` that let it install, or None when that would take a password.
fn privilege() -> Option<&'static [&'static str]> {
    let root = process::read(process::command("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if root {
        return Some(&[]);
    }
    process::succeeds(process::command("sudo").args(["-n", "true"])).then_some(&["sudo", "-n"])
}

fn apt(prefix: &[&str]) -> std::process::Command {
    let words = [prefix, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]].concat();
    let mut command = process::command(words[0]);
    command.args(&words[1..]);
    command
}

/// libclang lies in a folder of its version; bindgen looks there, or where LIBCLANG_PATH says.
fn libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let versions = llvm
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"))
        .map(|entry| entry.path().join("lib"));
    let fixed = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
    ];
    versions.chain(fixed.map(Into::into)).any(|folder| has_libclang(&folder))
}

fn has_libclang(folder: &Path) -> bool {
    let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
}

/// As bindgen takes them: with or without a version, but not libclang-cpp, clang's other library, which other packages bring.
fn is_libclang(name: &str) -> bool {
    !name.starts_with("libclang-cpp")
        && (name == "libclang.so"
            || name.starts_with("libclang.so.")
            || name.starts_with("libclang-") && name.contains(".so"))
}

#[cfg(test)]
mod tests {
    use super::is_libclang;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.14.0.6"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang-cpp.so", "libclang.a", "libclang_rt.so", "clang"] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
