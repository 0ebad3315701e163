//! Lists the merged view of these directories without mounting them:
//!
//! ```sh
//! cargo run --example overlay-ls -- TOP:MIDDLE:BASE
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use overlayfs_reader::{Kind, Layer, MarkNamespace, Marks, Options, Stack, parse_lowerdir};

fn main() -> ExitCode {
    let Some(lowerdir) = std::env::args_os().nth(1) else {
        eprintln!("usage: overlay-ls TOP:MIDDLE:BASE");
        return ExitCode::from(64);
    };
    match list(lowerdir.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlay-ls: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(lowerdir: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let layers = parse_lowerdir(lowerdir)?.iter().map(|path| Layer::open(path)).collect::<Result<_, _>>()?;
    let stack = Stack::new(layers, None, Options::detect(MarkNamespace::Trusted));
    if stack.marks() == Marks::Unreadable {
        eprintln!("overlay-ls: without CAP_SYS_ADMIN opaque directories look like plain ones");
    }
    stack.walk(&mut |entry| {
        let kind = match entry.kind {
            Kind::Dir => 'd',
            Kind::Symlink => 'l',
            Kind::File => '-',
            _ => 's',
        };
        println!("{kind} {:2} {}", entry.layer, entry.path.escape_ascii());
        ControlFlow::Continue(())
    })?;
    Ok(())
}
