//! A package's header as RPM's database holds it
//! ([the format](https://rpm-software-management.github.io/rpm/manual/format_header.html), without its magic number).
//!
//! A header has two counts, an index of 16-byte entries (tag, type, offset, count), and a store that the offsets point into; all numbers are
//! big-endian. Nothing is copied. An entry with an invalid offset or count counts as absent.

use memchr::memchr;

/// Size of an index entry, in bytes.
const ENTRY: usize = 16;

/// Maximum number of directories of a package. The sources of Linux have 6,000.
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
    /// Formerly `FILEMD5S`; now digests of any algorithm.
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
    /// Parses a header; `None` if its counts do not match its size.
    pub(super) fn parse(blob: &'a [u8]) -> Option<Self> {
        let entries = usize::try_from(number(blob, 0)?).ok()?;
        let size = usize::try_from(number(blob, 4)?).ok()?;
        let (index, store) = blob.get(8..)?.split_at_checked(entries.checked_mul(ENTRY)?)?;
        Some(Self { index: index.as_chunks().0, store: store.get(..size)? })
    }

    /// Returns type, count, and the store from the entry's offset on, of the first entry with this tag.
    fn entry(&self, tag: Tag) -> Option<(u32, usize, &'a [u8])> {
        let wanted = (tag as u32).to_be_bytes();
        let entry = self.index.iter().find(|entry| entry.starts_with(&wanted))?;
        let store = self.store.get(usize::try_from(number(entry, 8)?).ok()?..)?;
        Some((number(entry, 4)?, usize::try_from(number(entry, 12)?).ok()?, store))
    }

    /// Returns a string without its terminating zero; the first one of several translations.
    pub(super) fn string(&self, tag: Tag) -> Option<&'a [u8]> {
        match self.entry(tag)? {
            (STRING | I18N_STRING | STRING_ARRAY, 1.., store) => Some(&store[..memchr(0, store)?]),
            _ => None,
        }
    }

    /// Returns the strings of a list; none if the tag is absent. They end at the end of the store.
    pub(super) fn strings(&self, tag: Tag) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (count, mut rest) = match self.entry(tag) {
            // RPM writes a list with one string as a list; other tools have written a plain string.
            Some((STRING_ARRAY | I18N_STRING | STRING, count, store)) => (count, store),
            _ => (0, &[][..]),
        };
        (0..count).map_while(move |_| {
            let (string, after) = rest.split_at(memchr(0, rest)?);
            rest = &after[1..];
            Some(string)
        })
    }

    /// Returns the strings of a list; `None` if there are more than the limit.
    pub(super) fn strings_at(&self, tag: Tag) -> Option<Vec<&'a [u8]>> {
        let strings: Vec<_> = self.strings(tag).take(MAX_DIRECTORIES + 1).collect();
        (strings.len() <= MAX_DIRECTORIES).then_some(strings)
    }

    /// Returns the numbers of a list; none if the tag is absent. They end at the end of the store.
    pub(super) fn int32s(&self, tag: Tag) -> impl Iterator<Item = u32> + use<'a> {
        let (count, store) = match self.entry(tag) {
            Some((INT32, count, store)) => (count, store),
            _ => (0, &[][..]),
        };
        store.as_chunks().0.iter().take(count).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Returns a number.
    pub(super) fn int32(&self, tag: Tag) -> Option<u32> {
        self.int32s(tag).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a header with these entries: tag, type, count, bytes.
    fn blob(entries: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let (mut index, mut store) = (Vec::new(), Vec::new());
        for (tag, kind, count, bytes) in entries {
            for number in [*tag, *kind, store.len() as u32, *count] {
                index.extend(number.to_be_bytes());
            }
            store.extend_from_slice(bytes);
        }
        [&(entries.len() as u32).to_be_bytes()[..], &(store.len() as u32).to_be_bytes(), &index, &store].concat()
    }

    #[test]
    fn entries_are_read_by_tag_and_type() {
        let bytes = blob(&[
            (Tag::Name as u32, STRING, 1, b"bash\0"),
            (Tag::Epoch as u32, INT32, 1, &[0, 0, 0, 7]),
            (Tag::BaseNames as u32, STRING_ARRAY, 3, b"a\0\0c\0d\0"),
            (Tag::DirIndexes as u32, INT32, 2, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            (Tag::License as u32, I18N_STRING, 2, b"MIT\0x\0"),
            (Tag::Arch as u32, INT32, 1, &[0; 4]),
            (Tag::Name as u32, STRING, 1, b"second\0"),
        ]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.string(Tag::Name), Some(&b"bash"[..]));
        assert_eq!(header.string(Tag::License), Some(&b"MIT"[..]));
        assert_eq!(header.int32(Tag::Epoch), Some(7));
        assert_eq!(header.strings(Tag::BaseNames).collect::<Vec<_>>(), [&b"a"[..], b"", b"c"]);
        assert_eq!(header.int32s(Tag::DirIndexes).collect::<Vec<_>>(), [1, u32::MAX]);
        assert_eq!(header.string(Tag::Arch), None, "a number is no string");
        assert_eq!(header.int32(Tag::Name), None, "a string is no number");
        assert_eq!(header.string(Tag::Version), None);
        assert_eq!(header.strings_at(Tag::DirNames), Some(vec![]));
    }

    #[test]
    fn entries_with_invalid_counts_or_offsets_are_absent() {
        let all = u32::MAX;
        let bytes = blob(&[
            (Tag::Name as u32, STRING, 1, b"unterminated"),
            (Tag::BaseNames as u32, STRING_ARRAY, all, b"\0a\0b"),
            (Tag::DirIndexes as u32, INT32, all, &[0, 0, 0, 1, 0]),
            (Tag::Vendor as u32, STRING, 0, b""),
        ]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.string(Tag::Name), Some(&b"unterminated"[..]), "up to the next zero of the store");
        assert_eq!(header.strings(Tag::BaseNames).collect::<Vec<_>>(), [&b""[..], b"a", b"b", b"", b"", b"\x01"]);
        assert_eq!(header.int32s(Tag::DirIndexes).collect::<Vec<_>>(), [1]);
        assert_eq!(header.string(Tag::Vendor), None);

        let mut far = blob(&[(Tag::Name as u32, STRING, 1, b"a\0")]);
        far[16..20].copy_from_slice(&all.to_be_bytes());
        assert_eq!(Header::parse(&far).unwrap().string(Tag::Name), None);
        for (counts, valid) in
            [([0, 0], true), ([1, 2], true), ([1, 3], false), ([all, 2], false), ([2, 0], false), ([1, all], false)]
        {
            far[..4].copy_from_slice(&u32::to_be_bytes(counts[0]));
            far[4..8].copy_from_slice(&u32::to_be_bytes(counts[1]));
            assert_eq!(Header::parse(&far).is_some(), valid, "{counts:?}");
        }
        for length in 0..8 {
            assert!(Header::parse(&[0; 8][..length]).is_none());
        }
    }

    #[test]
    fn more_directories_than_the_limit_are_refused() {
        let bytes = vec![0; MAX_DIRECTORIES + 1];
        for (count, some) in [(MAX_DIRECTORIES, true), (MAX_DIRECTORIES + 1, false)] {
            let bytes = blob(&[(Tag::DirNames as u32, STRING_ARRAY, count as u32, &bytes)]);
            assert_eq!(Header::parse(&bytes).unwrap().strings_at(Tag::DirNames).is_some(), some, "{count}");
        }
    }
}
