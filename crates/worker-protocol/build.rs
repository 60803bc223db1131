//! Compiles the wire schema of the worker channel into Rust at build time, so that no generated code is kept in
//! the repository and the schema cannot drift from it.

use std::path::Path;
use std::{env, fs, process};

fn main() {
    println!("cargo::rerun-if-changed=schema");
    let Some(declarations) = planus_translation::translate_files(&["schema/message.fbs"]) else {
        eprintln!("the schema does not compile; planus said why above");
        process::exit(1);
    };
    let code =
        planus_codegen::generate_rust(&declarations, false).expect("planus renders what it translated");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    fs::write(Path::new(&out).join("wire.rs"), code).expect("OUT_DIR is writable");
}
