//! Reads the parts of an [ELF](https://gabi.xinuos.com) program that locate Go's build information. Only headers and ranges are read, because
//! programs can have 200 MB.

use std::io;

use super::super::Source;

/// Maximum size of a table (sections, segments, section names), in bytes. Real tables have a few kilobytes.
const MAX_TABLE: u64 = 1 << 20;

const PT_LOAD: u64 = 1;
const PF_W: u64 = 2;

/// The loadable segments of an ELF program, and the range that may contain Go's build information.
pub(super) struct Elf<'s> {
    source: &'s dyn Source,
    segments: Vec<Segment>,
    /// Range of the file that contains the build information.
    pub(super) candidate: Range,
}

/// A range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) size: u64,
    /// True if the range is the section with the name of build information. False if it is the program's data, which contains build information
    /// only in a Go program.
    pub(super) named: bool,
}

struct Segment {
    address: u64,
    file: Range,
    writable: bool,
}

impl Segment {
    /// Returns the part of the range from the first address that is a multiple of 16, as the header's address is.
    fn aligned(&self) -> Range {
        let skipped = self.address.wrapping_neg() % 16;
        let Range { offset, size, named } = self.file;
        Range { offset: offset.saturating_add(skipped), size: size.saturating_sub(skipped), named }
    }
}

/// Width and byte order of a program's numbers.
#[derive(Clone, Copy)]
struct Layout {
    wide: bool,
    big_endian: bool,
}

impl Layout {
    /// Returns the number of `size` bytes at `offset`, or 0 beyond the end: callers check the sizes of tables first.
    fn number(self, bytes: &[u8], offset: usize, size: usize) -> u64 {
        number(bytes.get(offset..offset + size).unwrap_or_default(), self.big_endian)
    }

    /// Returns the address-sized number at `narrow` (32-bit) or `wide` (64-bit).
    fn word(self, bytes: &[u8], narrow: usize, wide: usize) -> u64 {
        if self.wide { self.number(bytes, wide, 8) } else { self.number(bytes, narrow, 4) }
    }
}

/// Returns an unsigned number of up to 8 bytes.
pub(super) fn number(bytes: &[u8], big_endian: bool) -> u64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
}

impl<'s> Elf<'s> {
    /// Opens a program, or returns `None` if the file cannot be a Go program in ELF.
    ///
    /// The function is called for any executable, so a malformed file is not an error: the kernel could not load it.
    pub(super) fn open(source: &'s dyn Source) -> io::Result<Option<Self>> {
        let mut header = [0; 64];
        let read = source.read_at(0, &mut header)?;
        if read < 52 || !header.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        let layout = match header[4..6] {
            [class @ (1 | 2), order @ (1 | 2)] => Layout { wide: class == 2, big_endian: order == 2 },
            _ => return Ok(None),
        };
        let named = match named_section(source, layout, &header)? {
            Lookup::Found(range) => Some(range),
            // Go's linker always writes the section, so a program with section names and without this section is not a Go program.
            Lookup::Absent => return Ok(None),
            Lookup::NoNames => None,
        };
        let segments = segments(source, layout, &header)?;
        let data = || segments.iter().find(|segment| segment.writable).map(Segment::aligned);
        let Some(candidate) = named.or_else(data) else { return Ok(None) };
        Ok(Some(Self { source, segments, candidate }))
    }

    /// Reads `size` bytes at `offset` of the file, or fewer at its end.
    pub(super) fn read(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        read_range(self.source, offset, size)
    }

    /// Returns the range of the file from the byte that is loaded at `address` to the end of its segment.
    pub(super) fn locate(&self, address: u64) -> Option<Range> {
        self.segments.iter().find_map(|segment| {
            let into = address.checked_sub(segment.address).filter(|&into| into < segment.file.size)?;
            let offset = segment.file.offset.checked_add(into)?;
            Some(Range { offset, size: segment.file.size - into, named: false })
        })
    }
}

fn read_range(source: &dyn Source, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let left = usize::try_from(source.size().saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size.min(left)];
    let read = source.read_at(offset, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

enum Lookup {
    Found(Range),
    Absent,
    /// The program has no section table, because it was stripped.
    NoNames,
}

/// Finds the section `.go.buildinfo`.
fn named_section(source: &dyn Source, layout: Layout, header: &[u8]) -> io::Result<Lookup> {
    let table = layout.word(header, 32, 40);
    let (size_at, count_at, names_at) = if layout.wide { (58, 60, 62) } else { (46, 48, 50) };
    let size = layout.number(header, size_at, 2);
    let count = layout.number(header, count_at, 2);
    let names = layout.number(header, names_at, 2);
    let least = if layout.wide { 64 } else { 40 };
    // Programs with 65,280 sections or more store the count elsewhere; Go's linker never writes that many.
    if table == 0 || count == 0 || size < least || size * count > MAX_TABLE {
        return Ok(Lookup::NoNames);
    }
    let bytes = read_range(source, table, usize::try_from(size * count).unwrap_or(0))?;
    let sections = || bytes.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX));
    let range = |section: &[u8]| Range {
        offset: layout.word(section, 16, 24),
        size: layout.word(section, 20, 32),
        named: true,
    };
    let Some(names) = usize::try_from(names).ok().and_then(|index| sections().nth(index)).map(range) else {
        return Ok(Lookup::NoNames);
    };
    let strings = read_range(source, names.offset, usize::try_from(names.size.min(MAX_TABLE)).unwrap_or(0))?;
    let found = sections().find(|section| {
        let name = usize::try_from(layout.number(section, 0, 4)).unwrap_or(usize::MAX);
        strings.get(name..).is_some_and(|name| name.starts_with(b".go.buildinfo\0"))
    });
    Ok(found.map_or(Lookup::Absent, |section| Lookup::Found(range(section))))
}

/// Returns the segments that are loaded from the file.
fn segments(source: &dyn Source, layout: Layout, header: &[u8]) -> io::Result<Vec<Segment>> {
    let table = layout.word(header, 28, 32);
    let (size_at, count_at) = if layout.wide { (54, 56) } else { (42, 44) };
    let size = layout.number(header, size_at, 2);
    let count = layout.number(header, count_at, 2);
    let least = if layout.wide { 56 } else { 32 };
    if size < least || size * count > MAX_TABLE {
        return Ok(Vec::new());
    }
    let bytes = read_range(source, table, usize::try_from(size * count).unwrap_or(0))?;
    let records = bytes.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX));
    let loaded = records.filter(|record| layout.number(record, 0, 4) == PT_LOAD);
    Ok(loaded
        .map(|record| {
            let flags = layout.number(record, if layout.wide { 4 } else { 24 }, 4);
            let offset = layout.word(record, 4, 8);
            let (address, size) = (layout.word(record, 8, 16), layout.word(record, 16, 32));
            Segment { address, file: Range { offset, size, named: false }, writable: flags & PF_W != 0 }
        })
        .collect())
}
