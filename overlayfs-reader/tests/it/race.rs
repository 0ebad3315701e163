//! Renames and exchanges by other threads during a walk never make the reader read outside of the layer roots.

use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use overlayfs_reader::{Layer, LayerReader, MarkNamespace, Options, Stack};
use rustix::fs::{CWD, FileType, Mode, RenameFlags};

const INSIDE: &[u8] = b"inside";
const OUTSIDE: &[u8] = b"OUTSIDE";

/// Number of walks and lookups.
const ROUNDS: usize = 3000;

fn exchange(a: &Path, b: &Path) {
    rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

fn tree(root: &Path, dir: &str, content: &[u8]) {
    let dir = root.join(dir);
    fs::create_dir_all(dir.join("deep")).unwrap();
    fs::write(dir.join("f"), content).unwrap();
    fs::write(dir.join("deep/f"), content).unwrap();
    symlink(std::str::from_utf8(content).unwrap(), dir.join("link")).unwrap();
}

/// Counts of reads and of refused reads.
#[derive(Debug, Default)]
struct Met {
    read: u64,
    refused: u64,
}

impl Met {
    fn content(&mut self, path: &[u8], read: Result<Vec<u8>, overlayfs_reader::Error>) {
        match read {
            Ok(content) => {
                assert_ne!(content, OUTSIDE, "{} was read from outside", path.escape_ascii());
                assert!(content == INSIDE, "{}: {}", path.escape_ascii(), content.escape_ascii());
                self.read += 1;
            }
            Err(_) => self.refused += 1,
        }
    }
}

fn read(mut file: fs::File) -> Vec<u8> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    content
}

#[test]
fn nothing_outside_of_the_layers_is_ever_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["layer", "base", "outside"] {
        fs::create_dir(at(name)).unwrap();
    }
    for name in ["swapped", "moved", "kept"] {
        tree(&at("layer"), name, INSIDE);
        tree(&at("base"), name, INSIDE);
    }
    tree(&at("outside"), "swapped", OUTSIDE);
    tree(&at("outside"), "bait", OUTSIDE);
    fs::write(at("layer/file"), INSIDE).unwrap();
    fs::write(at("layer/kind"), INSIDE).unwrap();
    // Each path is exchanged with a different kind of entry.
    symlink(at("outside/swapped"), at("layer/to-dir")).unwrap();
    symlink(at("outside/swapped/f"), at("layer/to-file")).unwrap();
    symlink("../../outside/swapped", at("layer/kept/to-dir")).unwrap();
    rustix::fs::mknodat(CWD, at("layer/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();

    let (done, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let swap = |turn: &(dyn Fn() + Sync)| {
        while !done.load(Ordering::Relaxed) {
            turn();
            swaps.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut met = Met::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            swap(&|| {
                for _ in 0..2 {
                    exchange(&at("layer/swapped"), &at("layer/to-dir"));
                    exchange(&at("layer/file"), &at("layer/to-file"));
                    exchange(&at("layer/kind"), &at("layer/fifo"));
                    exchange(&at("layer/kept/deep"), &at("layer/kept/to-dir"));
                }
            });
        });
        scope.spawn(|| {
            swap(&|| {
                // A directory that the reader may be walking is moved out of the layer, gets other content, and is moved back.
                fs::rename(at("layer/moved"), at("outside/moved")).unwrap();
                let swap = || {
                    for name in ["f", "deep", "link"] {
                        exchange(&at("outside/moved").join(name), &at("outside/bait").join(name));
                    }
                };
                swap();
                swap();
                fs::rename(at("outside/moved"), at("layer/moved")).unwrap();
            });
        });
        // If an assertion ended only the reader, the scope would wait for the other threads forever.
        let outcome = std::panic::catch_unwind(|| {
            let mut met = Met::default();
            let open = |name: &str| Layer::open(&at(name)).unwrap();
            let options = Options::detect(MarkNamespace::User);
            let layer = LayerReader::new(open("layer"), options);
            let stack = Stack::new(vec![open("layer"), open("base")], None, options);
            for _ in 0..ROUNDS {
                let _ = layer.walk(&mut |entry| {
                    let path = entry.path();
                    match path.rsplit(|byte| *byte == b'/').next() {
                        Some(b"f" | b"file" | b"kind") => met.content(path, layer.open(path).map(read)),
                        Some(b"link") => met.content(path, entry.read_link()),
                        _ => {}
                    }
                    ControlFlow::Continue(())
                });
                for path in [
                    &b"swapped/f"[..],
                    b"swapped/deep/f",
                    b"moved/f",
                    b"moved/deep/f",
                    b"kept/deep/f",
                    b"file",
                    b"kind",
                ] {
                    met.content(path, layer.open(path).map(read));
                    met.content(path, stack.open(path).map(read));
                    // Absolute targets start at the root of the merged tree, which has no such entry.
                    met.content(path, stack.resolve(path).and_then(|path| stack.open(&path)).map(read));
                }
                met.content(b"moved/link", stack.read_link(b"moved/link"));
            }
            met
        });
        done.store(true, Ordering::Relaxed);
        match outcome {
            Ok(outcome) => met = outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let swaps = swaps.into_inner();
    assert!(swaps > 100 && met.read > 1000 && met.refused > 100, "nothing raced: {swaps} swaps, {met:?}");
}
