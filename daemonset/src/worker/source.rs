//! An open file, read without disturbing the page cache of who runs here.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags};

use crate::catalog::Source;

/// An open file as cataloguers see it.
pub(super) struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match read_some(&self.file, offset + done as u64, &mut buf[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }
}

/// `RWF_DONTCACHE` (Linux 6.14): pages that were cold are dropped after the read, those that a container keeps hot stay.
/// `posix_fadvise` would throw out both.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

fn read_some(file: &File, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    // Kernels and filesystems that do not know the flag say so once.
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if !REFUSED.load(Ordering::Relaxed) {
        match rustix::io::preadv2(file, &mut [io::IoSliceMut::new(buf)], offset, DONTCACHE) {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => REFUSED.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    rustix::io::pread(file, buf, offset)
}
