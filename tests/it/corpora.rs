//! The corpora of the fuzz targets, replayed: seeds, and inputs that once broke a guarantee.

#[allow(dead_code, unreachable_pub, reason = "the fuzz targets are another crate, which needs them")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names in a folder of `fuzz/`, without extensions.
fn names(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let name = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
    fs::read_dir(folder).unwrap().map(|entry| name(entry.unwrap())).collect()
}

#[test]
fn every_input_of_every_corpus_keeps_the_guarantees_of_its_target() {
    for (name, target) in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        for path in inputs {
            let input = fs::read(&path).unwrap();
            // The input, and each of its halves: a parser meets truncated files, too.
            for part in [&input[..], &input[..input.len() / 2], &input[input.len() / 2..]] {
                let kept = std::panic::catch_unwind(|| target(part));
                assert!(kept.is_ok(), "{}, {} of {} bytes", path.display(), part.len(), input.len());
            }
        }
    }
}

#[test]
fn each_target_has_a_corpus_and_a_fuzzer() {
    let targets: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
    }
}
