//! A package's header as RPM's database holds it
//! ([the format](https://rpm-software-management.github.io/rpm/manual/format_header.html), without its magic number).
//!
//! Two counts, an index of 16-byte entries (tag, type, offset, count), and a store that the offsets point into, all
//! numbers big-endian. Nothing is copied; what an offset or a count lies about reads as absent.

use memchr::memchr;

/// Bytes of an index entry.
const ENTRY: usize = 16;

/// How many directories of a package are read. Linux's sources have 6,000.
const MAX_DIRECTORIES: usize = 1 << 18;

const INT32: u32 = 4;
const STRING: u32 = 6;
const STRING_ARRAY: u32 = 8;
const I18N_STRING: u32 = 9;

/// The tags that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Tag {
    Name = 1000,
    Version = 1001,
    Release = 1002,
    Epoch = 1003,
    Vendor = 1011,
    License = 1014,
    Arch = 1022,
    /// `FILEMD5S` of old; today of any algorithm.
    FileDigests = 1035,
    SourceRpm = 1044,
    DirIndexes = 1116,
    BaseNames = 1117,
    DirNames = 1118,
    FileDigestAlgorithm = 5011,
    ModularityLabel = 5096,
}

/// A header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    index: &'a [[u8; ENTRY]],
    store: &'a [u8],
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

impl<'a> Header<'a> {
    /// A header whose counts fit its bytes.
    pub(super) fn parse(blob: &'a [u8]) -> Option<Self> {
        let entries = usize::try_from(number(blob, 0)?).ok()?;
        let size = usize::try_from(number(blob, 4)?).ok()?;
        let (index, store) = blob.get(8..)?.split_at_checked(entries.checked_mul(ENTRY)?)?;
        Some(Self { index: index.as_chunks().0, store: store.get(..size)? })
    }

    /// Type, count, and the store from the entry's offset on, of the first entry with a tag.
    fn entry(&self, tag: Tag) -> Option<(u32, usize, &'a [u8])> {
        let wanted = (tag as u32).to_be_bytes();
        let entry = self.index.iter().find(|entry| entry.starts_with(&wanted))?;
        let store = self.store.get(usize::try_from(number(entry, 8)?).ok()?..)?;
        Some((number(entry, 4)?, usize::try_from(number(entry, 12)?).ok()?, store))
    }

    /// A string, without its terminating zero; of several (translations) the first.
    pub(super) fn string(&self, tag: Tag) -> Option<&'a [u8]> {
        match self.entry(tag)? {
            (STRING | I18N_STRING | STRING_ARRAY, 1.., store) => Some(&store[..memchr(0, store)?]),
            _ => None,
        }
    }

    /// The strings of a list, none where the tag is absent. They end where the store does.
    pub(super) fn strings(&self, tag: Tag) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (count, mut rest) = match self.entry(tag) {
            // RPM writes a list of one as a list; other writers wrote a string.
            Some((STRING_ARRAY | I18N_STRING | STRING, count, store)) => (count, store),
            _ => (0, &[][..]),
        };
        (0..count).map_while(move |_| {
            let (string, after) = rest.split_at(memchr(0, rest)?);
            rest = &after[1..];
            Some(string)
        })
    }

    /// The strings of a list, by number; `None` where there are more than anyone has.
    pub(super) fn strings_at(&self, tag: Tag) -> Option<Vec<&'a [u8]>> {
        let strings: Vec<_> = self.strings(tag).take(MAX_DIRECTORIES + 1).collect();
        (strings.len() <= MAX_DIRECTORIES).then_some(strings)
    }

    /// The numbers of a list, none where the tag is absent. They end where the store does.
    pub(super) fn int32s(&self, tag: Tag) -> impl Iterator<Item = u32> + use<'a> {
        let (count, store) = match self.entry(tag) {
            Some((INT32, count, store)) => (count, store),
            _ => (0, &[][..]),
        };
        store.as_chunks().0.iter().take(count).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// A number.
    pub(super) fn int32(&self, tag: Tag) -> Option<u32> {
        self.int32s(tag).next()
    }
}
