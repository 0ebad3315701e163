//! Standard output without a buffer: the parent gets a frame as soon as it is written, however this process ends.

use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd};

/// The pipe to the parent.
pub(super) struct Pipe {
    stdout: io::Stdout,
}

impl Pipe {
    pub(super) fn standard_output() -> Self {
        Self { stdout: io::stdout() }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
