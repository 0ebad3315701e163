//! SQLite's write-ahead log ([format](https://www.sqlite.org/fileformat2.html#the_write_ahead_log)): pages of a database
//! that were committed but not yet written back.
//!
//! A frame is valid if its salts equal those of the log's header, the running checksum matches, and a commit follows. Frames after the first
//! invalid one are leftovers of an earlier use of the log.

use std::collections::HashMap;

use super::sqlite::{be32, malformed, page_size};
use crate::catalog::{CatalogError, Source};

/// Maximum size of a log, in bytes. RPM writes it back every 1,000 pages, which are 4 MB.
const MAX_LOG: u64 = 256 << 20;

/// Size of the log's header, in bytes.
const HEADER: usize = 32;

/// Size of a frame's header, in bytes.
const FRAME_HEADER: usize = 24;

/// The magic number without its last bit, which is the byte order of the checksums.
const MAGIC: u32 = 0x377f_0682;

/// The only existing version of the format.
const VERSION: u32 = 3_007_000;

/// A log with at least one committed transaction.
pub(super) struct Wal<'a> {
    source: &'a dyn Source,
    page_size: usize,
    /// Offset of the newest committed image of each page.
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

    /// Returns whether the sums equal the two numbers at offset `at`.
    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        self.sums.map(Some) == [be32(bytes, at), be32(bytes, at + 4)]
    }
}

impl<'a> Wal<'a> {
    /// Reads the index of the log; `None` if SQLite would ignore the log.
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

    /// Returns the size of a page, in bytes.
    pub(super) const fn page_size(&self) -> usize {
        self.page_size
    }

    /// Returns the number of pages of the database after the last commit, according to the log.
    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    /// Returns the number of committed frames.
    pub(super) const fn frames(&self) -> u64 {
        self.frames
    }

    /// Returns the source and offset of the newest image of a page, if the log has one.
    pub(super) fn page(&self, number: u32) -> Option<(&'a dyn Source, u64)> {
        self.newest.get(&number).map(|offset| (self.source, *offset))
    }
}
