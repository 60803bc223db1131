//! Puts the built call page into the binary: copies `web/app/dist` and writes a table of its files, each by
//! `include_bytes!`. Without a built page the build still works, and the server says how to make one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const MISSING: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tureen</title>\
<body style=\"font: 1.1rem/1.6 system-ui; max-width: 40rem; margin: 4rem auto; padding: 0 1rem\">\
<h1>The call page is not built</h1><p>This server was compiled without its page. Start it with \
<code>cargo xtask run</code>, which builds the page first, or build it yourself with \
<code>npm ci &amp;&amp; npm run build</code> in <code>web</code>, then compile again.</p>\
<p>Clients that bring their own page can connect as they are.</p></body></html>\n";

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let dist = root.join("../../web/app/dist");
    // Cargo looks at the times of everything below a folder; one that is not there counts as changed when it appears.
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rerun-if-changed=build.rs");

    // A copy, so that a page that is built anew meanwhile does not pull the files from under the compiler.
    let page = out.join("page");
    if page.exists() {
        fs::remove_dir_all(&page)?;
    }
    fs::create_dir_all(&page)?;
    if dist.join("index.html").is_file() {
        copy(&dist, &page)?;
    } else {
        fs::write(page.join("index.html"), MISSING)?;
    }
    let mut names = Vec::new();
    collect(&page, &page, &mut names)?;
    names.sort();
    let mut table = String::from("static FILES: &[(&str, &[u8])] = &[\n");
    for name in &names {
        let path = format!("/page/{name}");
        writeln!(table, "    ({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), {path:?}))),")
            .map_err(io::Error::other)?;
    }
    table.push_str("];\n");
    fs::write(out.join("page.rs"), table)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn collect(root: &Path, folder: &Path, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, names)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            let parts: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
            names.push(parts.join("/"));
        }
    }
    Ok(())
}
