//! The build information that Go's linker writes into a program: the version of the toolchain, and the modules.
//!
//! Format: [`debug/buildinfo`](https://cs.opensource.google/go/go/+/master:src/debug/buildinfo/buildinfo.go), with both ways of storing the two
//! strings: after the header (since Go 1.18), and by pointers (before).

use std::io;

use super::super::CatalogError;
use super::elf::{Elf, number};

const MAGIC: &[u8] = b"\xff Go buildinf:";

/// Size of the header, which is aligned to 16 bytes.
const HEADER: usize = 32;
const ALIGN: usize = 16;

/// Number of bytes of a program's data that are searched for the header. Go's linker puts it first.
const MAX_SEARCH: usize = 1 << 20;

/// Maximum size of the list of modules, in bytes. The largest programs have 60 KB.
const MAX_MODULES: u64 = 4 << 20;

/// Maximum size of a toolchain's version, in bytes.
const MAX_VERSION: u64 = 1024;

/// The two strings that the linker wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BuildInfo {
    /// Version of the toolchain: `go1.22.3`.
    pub(super) toolchain: Vec<u8>,
    /// Lines about modules and settings; empty if the program was built without modules.
    pub(super) modules: Vec<u8>,
}

fn malformed(reason: &'static str) -> CatalogError {
    CatalogError::malformed("Go build information", reason)
}

/// Reads the build information of a program, or returns `None` if it has none.
pub(super) fn read(elf: &Elf<'_>) -> Result<Option<BuildInfo>, CatalogError> {
    let Some((offset, header)) = find(elf)? else { return Ok(None) };
    // Bit 0: the pointers' byte order. Bit 1: the strings are in place.
    let flags = header[15];
    let (toolchain, modules) = if flags & 2 != 0 {
        let (toolchain, next) = inline(elf, offset + HEADER as u64, MAX_VERSION)?;
        (toolchain, inline(elf, next, MAX_MODULES)?.0)
    } else {
        let pointers = Pointers { elf, size: usize::from(header[14]), big_endian: flags & 1 != 0 };
        if !matches!(pointers.size, 4 | 8) {
            return Err(malformed("its pointers have neither 4 nor 8 bytes"));
        }
        let first = number(&header[16..16 + pointers.size], pointers.big_endian);
        let second = number(&header[16 + pointers.size..16 + 2 * pointers.size], pointers.big_endian);
        (pointers.string(first, MAX_VERSION)?, pointers.string(second, MAX_MODULES)?)
    };
    if toolchain.is_empty() {
        return Err(malformed("it names no toolchain"));
    }
    Ok(Some(BuildInfo { toolchain, modules: unwrap(modules) }))
}

/// Finds the header. Returns its offset and its bytes.
fn find(elf: &Elf<'_>) -> io::Result<Option<(u64, [u8; HEADER])>> {
    let range = elf.candidate;
    let size = usize::try_from(range.size).unwrap_or(usize::MAX).min(MAX_SEARCH);
    // The header is nearly always at the start.
    for size in [size.min(HEADER), size] {
        let bytes = elf.read(range.offset, size)?;
        // Alignment is relative to the start of the range, which the linker has aligned.
        let found = (0..bytes.len()).step_by(ALIGN).find(|&at| bytes[at..].starts_with(MAGIC));
        let header = found.and_then(|at| Some((at, bytes.get(at..at + HEADER)?.try_into().ok()?)));
        if let Some((at, header)) = header {
            return Ok(range.offset.checked_add(at as u64).map(|offset| (offset, header)));
        }
    }
    Ok(None)
}

/// Reads a string that follows its length (a varint). Returns the string and the offset after it.
fn inline(elf: &Elf<'_>, offset: u64, limit: u64) -> Result<(Vec<u8>, u64), CatalogError> {
    let prefix = elf.read(offset, 10)?;
    let mut size = 0_u64;
    let mut length = 0_u64;
    for byte in &prefix {
        let part = u64::from(byte & 0x7f);
        size |= part.checked_shl(7 * u32::try_from(length).unwrap_or(u32::MAX)).unwrap_or(0);
        length += 1;
        if byte & 0x80 == 0 {
            let start =
                offset.checked_add(length).ok_or_else(|| malformed("a string is beyond the end of the file"))?;
            let bytes = exactly(elf, start, size, limit)?;
            return Ok((bytes, start.saturating_add(size)));
        }
    }
    Err(malformed("the length of a string does not end"))
}

fn exactly(elf: &Elf<'_>, offset: u64, size: u64, limit: u64) -> Result<Vec<u8>, CatalogError> {
    if size > limit {
        return Err(CatalogError::Limit { what: "bytes of Go build information", limit });
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let bytes = elf.read(offset, size)?;
    if bytes.len() == size { Ok(bytes) } else { Err(malformed("a string is beyond the end of the file")) }
}

/// Strings as stored before Go 1.18: a pointer to a pair of pointer and length.
struct Pointers<'e> {
    elf: &'e Elf<'e>,
    size: usize,
    big_endian: bool,
}

impl Pointers<'_> {
    fn string(&self, address: u64, limit: u64) -> Result<Vec<u8>, CatalogError> {
        let pair = self.at(address, 2 * self.size as u64, limit)?;
        let (data, length) = pair.split_at(self.size);
        let length = number(length, self.big_endian);
        if length == 0 { Ok(Vec::new()) } else { self.at(number(data, self.big_endian), length, limit) }
    }

    fn at(&self, address: u64, size: u64, limit: u64) -> Result<Vec<u8>, CatalogError> {
        let range = self.elf.locate(address).filter(|range| size <= range.size);
        let range = range.ok_or_else(|| malformed("a pointer is outside of the program"))?;
        exactly(self.elf, range.offset, size, limit)
    }
}

/// Returns the list of modules without the 16-byte markers at its start and end.
fn unwrap(modules: Vec<u8>) -> Vec<u8> {
    match modules.len().checked_sub(17) {
        Some(last) if last >= ALIGN && modules[last] == b'\n' => modules[16..=last].to_vec(),
        _ => Vec::new(),
    }
}
