//! An open file, read without evicting pages that the node's workloads use.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Advice, Stat};
use rustix::io::{Errno, ReadWriteFlags};

use crate::catalog::Source;

/// An open file, as catalogers read it.
pub(super) struct FileSource {
    file: File,
    opened: Stat,
}

impl FileSource {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let opened = rustix::fs::fstat(&file)?;
        // Disables readahead: pages that were not requested would stay in the cache, marked to be dropped by their next reader. The advice may be
        // ignored.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        Ok(Self { file, opened })
    }

    /// Returns whether the file was written since it was opened: then the bytes read may mix two versions. A file that was replaced by
    /// another is still the one that was opened.
    pub(super) fn was_written(&self) -> io::Result<bool> {
        let now = rustix::fs::fstat(&self.file)?;
        let stamp = |of: &Stat| (of.st_size, of.st_mtime, of.st_mtime_nsec);
        Ok(stamp(&now) != stamp(&self.opened))
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        u64::try_from(self.opened.st_size).unwrap_or(0)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match read_some(&self.file, offset + done as u64, &mut buf[done..]) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    READ.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }
}

static READ: AtomicU64 = AtomicU64::new(0);

/// Returns the number of bytes that this process has read of files.
pub(super) fn bytes_read() -> u64 {
    READ.load(Ordering::Relaxed)
}

/// `RWF_DONTCACHE` (Linux 6.14): the kernel drops pages that were not cached before the read and keeps the others. `posix_fadvise` would
/// drop both.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

fn read_some(file: &File, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    // An error shows that the kernel or the file system does not support the flag; then it is not used again.
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if !REFUSED.load(Ordering::Relaxed) {
        match rustix::io::preadv2(file, &mut [io::IoSliceMut::new(buf)], offset, DONTCACHE) {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => REFUSED.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    rustix::io::pread(file, buf, offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_written_file_is_detected_and_a_replaced_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("status"), dir.path().join("status-new"));
        fs::write(&path, "one").unwrap();
        fs::write(&other, "two").unwrap();
        let source = FileSource::new(File::open(&path).unwrap()).unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!source.was_written().unwrap());
        let source = FileSource::new(File::open(&path).unwrap()).unwrap();
        fs::write(&path, "three").unwrap();
        assert!(source.was_written().unwrap());
    }
}
