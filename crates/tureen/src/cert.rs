//! `tureen cert`: an authority for a cluster that has none, and its nodes' certificates, as files.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cluster::node::NodeId;
use links::authority::{Pair, make_authority, make_node};
use tempfile::NamedTempFile;

use crate::cli::CertCommand;

/// The authority's certificate: every node has it.
pub(crate) const CA: &str = "ca.pem";
/// The authority's key: no node has it.
const CA_KEY: &str = "ca-key.pem";
/// Whoever runs the server, and nobody else.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// The file of a node's certificate.
pub(crate) fn certificate(node: &NodeId) -> String {
    format!("{node}.pem")
}

/// The file of its private key.
pub(crate) fn key(node: &NodeId) -> String {
    format!("{node}-key.pem")
}

/// Makes what is asked for. The paths go to stdout, one a line.
pub(crate) fn make(command: CertCommand) -> Result<()> {
    match command {
        CertCommand::Ca { out, force } => {
            let Pair { cert, key } = make_authority()?;
            write(&out, &[(CA.to_owned(), &cert, PUBLIC), (CA_KEY.to_owned(), &key, SECRET)], force)?;
            let out = out.display();
            eprintln!("Next, once for each node: tureen cert node NAME --ca {out} --out FOLDER");
            eprintln!("Whoever has {out}/{CA_KEY} can make nodes of this cluster: keep it off the nodes.");
            Ok(())
        }
        CertCommand::Node { name, ca, sans, days, out, force } => {
            let read = |file: &str| {
                let path = ca.join(file);
                fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}: tureen cert ca makes it", path.display()))
            };
            let authority = Pair { cert: read(CA)?, key: read(CA_KEY)? };
            let Pair { cert, key } = make_node(&authority, &name, &sans, days)?;
            // Beside the authority's own file, it is the same one.
            let same = fs::read_to_string(out.join(CA)).is_ok_and(|there| there == authority.cert);
            let mut files = vec![(certificate(&name), &cert, PUBLIC), (self::key(&name), &key, SECRET)];
            if !same {
                files.push((CA.to_owned(), &authority.cert, PUBLIC));
            }
            write(&out, &files, force)?;
            eprintln!(
                "Next: give node {name} these files and {CA}. They are read again when they change: make new ones"
            );
            eprintln!("with --force within {days} days. Nodes beyond loopback are refused without.");
            Ok(())
        }
    }
}

/// Writes all of these files or, where one is there already, none.
fn write(folder: &Path, files: &[(String, &String, u32)], force: bool) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let paths: Vec<PathBuf> = files.iter().map(|(name, ..)| folder.join(name)).collect();
    if let Some(there) = paths.iter().find(|path| path.exists())
        && !force
    {
        bail!("{} is there already: write over it with --force, or name another folder", there.display());
    }
    for ((_, text, mode), path) in files.iter().zip(&paths) {
        let failed = || format!("cannot write {}", path.display());
        // Whole or not at all, so that a running node never reads half of it; secret from the first byte on.
        let mut file = NamedTempFile::new_in(folder).with_context(failed)?;
        file.write_all(text.as_bytes()).with_context(failed)?;
        file.as_file().set_permissions(Permissions::from_mode(*mode)).with_context(failed)?;
        if force {
            file.persist(path).map_err(|error| error.error).with_context(failed)?;
        } else {
            file.persist_noclobber(path).map_err(|error| error.error).with_context(failed)?;
        }
        println!("{}", path.display());
    }
    Ok(())
}
