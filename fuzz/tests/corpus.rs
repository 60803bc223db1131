//! Every kept input of every target, run once: what the fuzzer found stays found, without the fuzzer.

use std::path::Path;

use fuzz::TARGETS;

#[test]
fn every_kept_input_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, run) in TARGETS {
        let folder = corpus.join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("readable").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).expect("readable");
            println!("{}", file.display());
            run(&bytes);
        }
        // And what is shorter than any of them.
        for len in 0..3 {
            run(&vec![0; len]);
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_name() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
    let mut programs: Vec<String> = std::fs::read_dir(targets)
        .expect("targets")
        .map(|entry| {
            entry.expect("readable").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    programs.sort();
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, names);
}
