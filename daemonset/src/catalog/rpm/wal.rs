//! SQLite's write-ahead log ([format](https://www.sqlite.org/fileformat2.html#the_write_ahead_log)): pages of a database
//! that were committed but not yet written back.
//!
//! A frame counts where its salts are those of the log's header, the running checksum is right up to it, and a commit
//! follows. What comes after the first frame that fails is what an earlier round of the log left behind.

use std::collections::HashMap;

use super::sqlite::{be32, malformed, page_size};
use crate::catalog::{CatalogError, Source};

/// Largest log that is read, bytes. RPM has it written back every 1,000 pages, 4 MB.
const MAX_LOG: u64 = 256 << 20;

/// Bytes of the log's header.
const HEADER: usize = 32;

/// Bytes before the page in a frame.
const FRAME_HEADER: usize = 24;

/// The magic number but for its last bit, which tells the byte order of the checksums.
const MAGIC: u32 = 0x377f_0682;

/// The only version there has been.
const VERSION: u32 = 3_007_000;

/// A log with at least one committed transaction.
pub(super) struct Wal<'a> {
    source: &'a dyn Source,
    page_size: usize,
    /// Where each page's newest committed image begins.
    newest: HashMap<u32, u64>,
    frames: u64,
    pages: u32,
}

/// The two running sums over pairs of 32-bit words.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Checksum {
    sums: [u32; 2],
    big_endian: bool,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let [mut first, mut second] = self.sums;
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            let [x, y] = [[a, b, c, d], [e, f, g, h]];
            let [x, y] = if self.big_endian {
                [u32::from_be_bytes(x), u32::from_be_bytes(y)]
            } else {
                [u32::from_le_bytes(x), u32::from_le_bytes(y)]
            };
            first = first.wrapping_add(x).wrapping_add(second);
            second = second.wrapping_add(y).wrapping_add(first);
        }
        self.sums = [first, second];
    }

    /// Whether the sums are the two numbers at `at`.
    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        self.sums.map(Some) == [be32(bytes, at), be32(bytes, at + 4)]
    }
}

impl<'a> Wal<'a> {
    /// Reads which pages the log holds; `None` where SQLite would take nothing from it.
    pub(super) fn open(source: &'a dyn Source) -> Result<Option<Self>, CatalogError> {
        let size = source.size();
        if size > MAX_LOG {
            return Err(CatalogError::TooLarge { size, limit: MAX_LOG });
        }
        let mut header = [0; HEADER];
        let read = source.read_at(0, &mut header)?;
        let magic = be32(&header, 0).unwrap_or(0);
        let mut checksum = Checksum { sums: [0; 2], big_endian: magic & 1 == 1 };
        checksum.add(&header[..HEADER - 8]);
        if read < HEADER || magic & !1 != MAGIC || !checksum.is_at(&header, HEADER - 8) {
            return Ok(None);
        }
        if be32(&header, 4) != Some(VERSION) {
            return Err(malformed("the write-ahead log is of an unknown version"));
        }
        let Some(page_size) = be32(&header, 8).and_then(page_size) else { return Ok(None) };
        let mut wal = Self { source, page_size, newest: HashMap::new(), frames: 0, pages: 0 };
        wal.read_frames(&header, checksum)?;
        Ok((wal.frames > 0).then_some(wal))
    }

    fn read_frames(&mut self, header: &[u8; HEADER], mut checksum: Checksum) -> Result<(), CatalogError> {
        let mut frame = vec![0; FRAME_HEADER + self.page_size];
        let mut uncommitted = Vec::new();
        let mut offset = HEADER as u64;
        while self.source.read_at(offset, &mut frame)? == frame.len() && offset < MAX_LOG {
            let (Some(page), Some(committed)) = (be32(&frame, 0), be32(&frame, 4)) else { break };
            checksum.add(&frame[..8]);
            checksum.add(&frame[FRAME_HEADER..]);
            if page == 0 || frame[8..16] != header[16..24] || !checksum.is_at(&frame, 16) {
                break;
            }
            uncommitted.push((page, offset + FRAME_HEADER as u64));
            if committed > 0 {
                self.frames += uncommitted.len() as u64;
                self.newest.extend(uncommitted.drain(..));
                self.pages = committed;
            }
            offset += frame.len() as u64;
        }
        Ok(())
    }

    /// Bytes of a page.
    pub(super) const fn page_size(&self) -> usize {
        self.page_size
    }

    /// How many pages the database has after the last commit, by the log's word.
    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    /// How many frames were committed.
    pub(super) const fn frames(&self) -> u64 {
        self.frames
    }

    /// Where the newest image of a page lies, if the log has one.
    pub(super) fn page(&self, number: u32) -> Option<(&'a dyn Source, u64)> {
        self.newest.get(&number).map(|offset| (self.source, *offset))
    }
}
