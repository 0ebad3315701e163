//! Reads all rows of one table in SQLite's [file format](https://www.sqlite.org/fileformat2.html): pages, the tree of a table, overflow chains,
//! the record format, and the write-ahead log ([`super::wal`]).
//!
//! A page belongs to one place of one tree, so no page is read twice: the size of the file limits the time, and cycles end. The memory is two
//! pages, one row, one bit per page, and the list of pages to visit.

use super::wal::Wal;
use crate::catalog::{CatalogError, Source};

/// Maximum size of a database file, in bytes. 114 packages need 7 MB, the 5,000 packages of a desktop 300 to 500 MB.
const MAX_FILE: u64 = 1 << 30;

/// Maximum number of rows of one table. No distribution has as many packages.
const MAX_ROWS: u64 = 1 << 18;

/// Maximum size of a row of the schema table, in bytes.
const MAX_SCHEMA_ROW: usize = 1 << 20;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Size of the file's header, which precedes the tree header of page 1, in bytes.
const FILE_HEADER: usize = 100;

/// Kinds of pages in the tree of a table with row numbers.
const INTERIOR: u8 = 0x05;
const LEAF: u8 = 0x0d;

/// A database file with its write-ahead log.
pub(super) struct Database<'a> {
    main: &'a dyn Source,
    wal: Option<Wal<'a>>,
    page_size: usize,
    /// Size of a page without the space reserved for extensions, in bytes.
    usable: usize,
    pages: u32,
    /// Pages that were read: bit `n` of word `w` stands for page `64 w + n`.
    visited: Vec<u64>,
}

/// A value of a row, of the used types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Integer(i64),
    Float,
    Blob(&'a [u8]),
    Text(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Returns the bytes of a blob.
    pub(super) const fn into_blob(self) -> Option<&'a [u8]> {
        match self {
            Self::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }
}

pub(super) fn malformed(reason: impl Into<String>) -> CatalogError {
    CatalogError::malformed("SQLite database", reason)
}

/// Returns the page size for the number in a header: a power of two, where 1 means 65,536.
pub(super) fn page_size(size: u32) -> Option<usize> {
    let size = if size == 1 { 1 << 16 } else { size };
    (size.is_power_of_two() && (512..=1 << 16).contains(&size)).then_some(size as usize)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Parses a number of one to nine bytes, high bits first. Returns the number and its length in bytes.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(8).enumerate() {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    // The ninth byte contributes all eight bits.
    bytes.get(8).map(|byte| (value << 8 | u64::from(*byte), 9))
}

/// Returns column `wanted` of a record, counted from 0.
pub(super) fn column(record: &[u8], wanted: usize) -> Option<Value<'_>> {
    let (header, mut at) = varint(record)?;
    let (types, mut values) = record.split_at_checked(usize::try_from(header).ok()?)?;
    for number in 0.. {
        let (kind, length) = varint(types.get(at..)?)?;
        at += length;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            12.. => (kind - 12) / 2,
        };
        let (value, rest) = values.split_at_checked(usize::try_from(size).ok()?)?;
        if number < wanted {
            values = rest;
            continue;
        }
        return Some(match kind {
            0 => Value::Null,
            7 => Value::Float,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            1..=6 => {
                let sign = if value.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
                Value::Integer(value.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte)))
            }
            _ if kind % 2 == 0 => Value::Blob(value),
            _ => Value::Text(value),
        });
    }
    None
}

impl<'a> Database<'a> {
    /// Opens a database; `None` for an empty file, which is a database without tables.
    pub(super) fn open(main: &'a dyn Source, wal: Option<&'a dyn Source>) -> Result<Option<Self>, CatalogError> {
        let size = main.size();
        if size > MAX_FILE {
            return Err(CatalogError::TooLarge { size, limit: MAX_FILE });
        }
        if size == 0 {
            return Ok(None);
        }
        let wal = wal.map(Wal::open).transpose()?.flatten();
        let mut header = [0; FILE_HEADER];
        match wal.as_ref().and_then(|wal| wal.page(1)) {
            Some((source, offset)) => source.read_at(offset, &mut header)?,
            None => main.read_at(0, &mut header)?,
        };
        if !header.starts_with(MAGIC) {
            return Err(malformed("the file does not begin with its magic string"));
        }
        let page_size = be16(&header, 16).and_then(|size| page_size(size.into()));
        let page_size = page_size.ok_or_else(|| malformed("the page size is not a power of two from 512 to 65536"))?;
        if wal.as_ref().is_some_and(|wal| wal.page_size() != page_size) {
            return Err(malformed("the write-ahead log has pages of another size"));
        }
        let usable = page_size - usize::from(header[20]);
        if usable < 480 {
            return Err(malformed("pages have fewer than 480 usable bytes"));
        }
        if be32(&header, 56).is_some_and(|encoding| encoding > 1) {
            return Err(CatalogError::Unsupported("a SQLite database in UTF-16"));
        }
        let on_disk = size / page_size as u64;
        // The log's number of pages is used only up to the number that its frames can contain.
        let pages = wal.as_ref().map_or(on_disk, |wal| u64::from(wal.pages()).min(on_disk + wal.frames()));
        let pages = u32::try_from(pages).map_err(|_| malformed("there are too many pages"))?;
        let visited = vec![0; pages as usize / 64 + 1];
        Ok(Some(Self { main, wal, page_size, usable, pages, visited }))
    }

    /// Returns the root page of a table, if the table exists.
    pub(super) fn table(&mut self, name: &str) -> Result<Option<u32>, CatalogError> {
        let mut root = None;
        self.rows(1, MAX_SCHEMA_ROW, |row| {
            // `type, name, tbl_name, rootpage, sql`
            if let Ok(row) = row
                && column(row, 0) == Some(Value::Text(b"table"))
                && matches!(column(row, 1), Some(Value::Text(found)) if found.eq_ignore_ascii_case(name.as_bytes()))
                && let Some(Value::Integer(page)) = column(row, 3)
            {
                root = Some(page);
            }
            Ok(())
        })?;
        root.map(|page| u32::try_from(page).map_err(|_| malformed("the table's root is no page"))).transpose()
    }

    /// Passes every row of the tree below `root` to `each`: its record, or its size if it exceeds `limit`.
    pub(super) fn rows(
        &mut self,
        root: u32,
        limit: usize,
        mut each: impl FnMut(Result<&[u8], u64>) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let mut page = vec![0; self.page_size];
        let mut overflow = Vec::new();
        let mut record = Vec::new();
        let mut rows = 0_u64;
        self.visit(root)?;
        let mut todo = vec![root];
        while let Some(number) = todo.pop() {
            self.read_page(number, &mut page)?;
            let broken = || malformed(format!("page {number} is malformed"));
            let start = if number == 1 { FILE_HEADER } else { 0 };
            let cells = usize::from(be16(&page, start + 3).ok_or_else(broken)?);
            match page[start] {
                INTERIOR => {
                    let first = todo.len();
                    for pointer in pointers(&page, start + 12, cells).ok_or_else(broken)? {
                        let child = be32(&page, pointer).ok_or_else(broken)?;
                        self.visit(child)?;
                        todo.push(child);
                    }
                    let last = be32(&page, start + 8).ok_or_else(broken)?;
                    self.visit(last)?;
                    todo.push(last);
                    // Pages are visited in the order of rows, which is mostly that of the file.
                    todo[first..].reverse();
                }
                LEAF => {
                    // Cells must not overlap, so their total size is at most that of the page.
                    let mut room = self.usable;
                    for pointer in pointers(&page, start + 8, cells).ok_or_else(broken)? {
                        let cell = page.get(pointer..self.usable).ok_or_else(broken)?;
                        let cell = Cell::parse(cell, self.usable).ok_or_else(broken)?;
                        room = room.checked_sub(cell.bytes).ok_or_else(broken)?;
                        rows += 1;
                        if rows > MAX_ROWS {
                            return Err(CatalogError::Limit { what: "rows", limit: MAX_ROWS });
                        }
                        match usize::try_from(cell.size) {
                            Ok(size) if size <= limit => {
                                record.clear();
                                record.extend_from_slice(cell.local);
                                self.read_chain(cell.overflow, size, &mut record, &mut overflow)?;
                                each(Ok(&record))?;
                            }
                            _ => each(Err(cell.size))?,
                        }
                    }
                }
                _ => return Err(malformed(format!("page {number} is not of a table"))),
            }
        }
        Ok(())
    }

    /// Reads the rest of a record of `size` bytes from the chain that starts at page `next`.
    fn read_chain(
        &mut self,
        mut next: u32,
        size: usize,
        record: &mut Vec<u8>,
        page: &mut Vec<u8>,
    ) -> Result<(), CatalogError> {
        while record.len() < size {
            self.visit(next)?;
            page.resize(self.page_size, 0);
            self.read_page(next, page)?;
            let (link, rest) = page[..self.usable].split_at(4);
            record.extend_from_slice(&rest[..rest.len().min(size - record.len())]);
            next = be32(link, 0).unwrap_or(0);
        }
        Ok(())
    }

    /// Marks page `number` as read; an error if it was read before.
    fn visit(&mut self, number: u32) -> Result<(), CatalogError> {
        if number == 0 || number > self.pages {
            return Err(malformed(format!("a reference to page {number} of {}", self.pages)));
        }
        let word = &mut self.visited[number as usize / 64];
        let bit = 1 << (number % 64);
        if *word & bit != 0 {
            return Err(malformed(format!("page {number} is used twice")));
        }
        *word |= bit;
        Ok(())
    }

    fn read_page(&self, number: u32, page: &mut [u8]) -> Result<(), CatalogError> {
        let in_main = || (self.main, u64::from(number - 1) * self.page_size as u64);
        let (source, offset) = self.wal.as_ref().and_then(|wal| wal.page(number)).unwrap_or_else(in_main);
        let read = source.read_at(offset, page)?;
        if read < page.len() { Err(malformed(format!("page {number} is cut short"))) } else { Ok(()) }
    }
}

/// Returns the offsets of a page's cells.
fn pointers(page: &[u8], start: usize, cells: usize) -> Option<impl Iterator<Item = usize>> {
    let array = page.get(start..start + cells * 2)?;
    Some(array.as_chunks().0.iter().map(|bytes| usize::from(u16::from_be_bytes(*bytes))))
}

/// A cell of a leaf: one row.
struct Cell<'a> {
    /// Size of the record, with its part on overflow pages, in bytes.
    size: u64,
    /// The part on this page.
    local: &'a [u8],
    /// The first overflow page; 0 if there is none.
    overflow: u32,
    /// Size of the cell on this page, in bytes.
    bytes: usize,
}

impl<'a> Cell<'a> {
    fn parse(cell: &'a [u8], usable: usize) -> Option<Self> {
        let (size, first) = varint(cell)?;
        let (_row, second) = varint(&cell[first..])?;
        let start = first + second;
        // "Cell payload overflow pages" of the specification; U is `usable`, P is `size`.
        let most = usable - 35;
        let least = (usable - 12) * 32 / 255 - 23;
        let local = match usize::try_from(size) {
            Ok(size) if size <= most => size,
            _ => {
                let rest = usize::try_from((size - least as u64) % (usable as u64 - 4)).ok()?;
                if least + rest <= most { least + rest } else { least }
            }
        };
        let end = start + local;
        let whole = local as u64 == size;
        let overflow = if whole { 0 } else { be32(cell, end)? };
        Some(Self { size, local: cell.get(start..end)?, overflow, bytes: end + if whole { 0 } else { 4 } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_have_one_to_nine_bytes() {
        for (bytes, expected) in [
            (&[0x00][..], Some((0, 1))),
            (&[0x7f, 0xff], Some((127, 1))),
            (&[0x81, 0x00], Some((128, 2))),
            (&[0xff; 9], Some((u64::MAX, 9))),
            (&[0x80; 9], Some((0x80, 9))),
            (&[0xff; 8], None),
            (&[0x80], None),
            (&[], None),
        ] {
            assert_eq!(varint(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn columns_are_found_after_columns_of_every_type() {
        let record = [
            &[13_u8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 15][..],
            &[0xff, 1, 0, 0x80, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
            &[0; 8],
            b"abx",
        ]
        .concat();
        let expected = [
            Value::Null,
            Value::Integer(-1),
            Value::Integer(256),
            Value::Integer(-0x80_0000),
            Value::Integer(9),
            Value::Integer(0x0100),
            Value::Integer(-2),
            Value::Float,
            Value::Integer(0),
            Value::Integer(1),
            Value::Blob(b"ab"),
            Value::Text(b"x"),
        ];
        for (number, value) in expected.into_iter().enumerate() {
            assert_eq!(column(&record, number), Some(value), "{number}");
        }
        assert_eq!(column(&record, 12), None);
        for length in 0..record.len() {
            assert_eq!(column(&record[..length], 11), None, "{length}");
        }
    }
}
