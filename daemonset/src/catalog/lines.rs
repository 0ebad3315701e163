//! Reads text evidence line by line, in memory that does not grow with the file.

use memchr::memchr;

use super::{CatalogError, MAX_TEXT, Source};

/// Maximum size of a line, in bytes. The longest line of a Debian archive's package index has 20 KB.
const MAX_LINE: usize = 64 << 10;

/// Reads a source line by line.
///
/// Lines are bytes: the caller checks for UTF-8. A line longer than [`MAX_LINE`] is cut.
pub(super) struct Lines<'a> {
    source: &'a dyn Source,
    /// Offset of the next read.
    offset: u64,
    buffer: Vec<u8>,
    /// Range of the bytes in `buffer` that were not returned yet.
    start: usize,
    end: usize,
    /// True after the end of the source.
    ended: bool,
    /// True if the start of the current line was returned already. The rest of the line is dropped.
    cut: bool,
}

impl<'a> Lines<'a> {
    /// Creates a reader of `source`; an error if the source is larger than [`MAX_TEXT`].
    pub(super) fn new(source: &'a dyn Source) -> Result<Self, CatalogError> {
        let size = source.size();
        if size > MAX_TEXT {
            return Err(CatalogError::TooLarge { size, limit: MAX_TEXT });
        }
        // One byte more than the size, so that the first read of a small file already reaches its end.
        let room = usize::try_from(size).unwrap_or(MAX_LINE).saturating_add(1).clamp(512, MAX_LINE);
        Ok(Self { source, offset: 0, buffer: vec![0; room], start: 0, end: 0, ended: false, cut: false })
    }

    /// Returns the next line without its newline, or `None` after the last.
    pub(super) fn next_line(&mut self) -> Result<Option<&[u8]>, CatalogError> {
        // Bytes from `start` on that are known to hold no newline.
        let mut seen = 0;
        loop {
            if let Some(found) = memchr(b'\n', &self.buffer[self.start + seen..self.end]) {
                let line = self.start..self.start + seen + found;
                self.start = line.end + 1;
                seen = 0;
                if !std::mem::take(&mut self.cut) {
                    return Ok(Some(&self.buffer[line]));
                }
                continue;
            }
            if self.ended {
                let line = self.start..self.end;
                self.start = self.end;
                let last = !line.is_empty() && !std::mem::take(&mut self.cut);
                return Ok(last.then(|| &self.buffer[line]));
            }
            seen = self.end - self.start;
            if seen == self.buffer.len() {
                (self.start, self.end) = (0, 0);
                if !std::mem::replace(&mut self.cut, true) {
                    return Ok(Some(&self.buffer));
                }
                seen = 0;
            }
            self.fill()?;
        }
    }

    /// Moves the remaining bytes to the front of the buffer and reads more behind them.
    fn fill(&mut self) -> Result<(), CatalogError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let room = &mut self.buffer[self.end..];
        let asked = room.len();
        let read = self.source.read_at(self.offset, room)?.min(asked);
        self.ended = read < asked;
        self.end += read;
        self.offset += read as u64;
        if self.offset > MAX_TEXT {
            // The file has grown since it was opened.
            return Err(CatalogError::TooLarge { size: self.offset, limit: MAX_TEXT });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(&bytes).unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push(line.to_vec());
        }
        all
    }

    #[test]
    fn every_line_comes_once_with_or_without_a_last_newline() {
        for (text, expected) in [
            ("", vec![]),
            ("\n", vec![""]),
            ("a", vec!["a"]),
            ("a\n", vec!["a"]),
            ("a\n\nb", vec!["a", "", "b"]),
            ("a\r\nb\n\n", vec!["a\r", "b", ""]),
        ] {
            assert_eq!(
                lines(text.as_bytes()),
                expected.iter().map(|line| line.as_bytes()).collect::<Vec<_>>(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn lines_across_buffer_borders_are_those_of_a_split() {
        let mut text = Vec::new();
        for length in (0..3000).chain([MAX_LINE - 1, MAX_LINE - 2, 7]) {
            text.extend(std::iter::repeat_n(b'a' + (length % 26) as u8, length));
            text.push(b'\n');
        }
        let expected: Vec<_> =
            text.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        assert_eq!(lines(&text), expected);
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_is_whole() {
        for length in [MAX_LINE, MAX_LINE + 1, 2 * MAX_LINE, 5 * MAX_LINE + 3] {
            let mut text = vec![b'x'; length];
            text.extend_from_slice(b"\nnext");
            assert_eq!(lines(&text), [vec![b'x'; MAX_LINE], b"next".to_vec()], "{length}");
            text.truncate(length);
            assert_eq!(lines(&text), [vec![b'x'; MAX_LINE]], "{length}, the last");
        }
    }

    /// A source that reports a small size and never ends.
    struct Endless;

    impl Source for Endless {
        fn size(&self) -> u64 {
            10
        }

        fn read_at(&self, _offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
            buf.fill(b'\n');
            Ok(buf.len())
        }
    }

    #[test]
    fn a_source_that_never_ends_is_an_error() {
        let mut lines = Lines::new(&Endless).unwrap();
        let error = loop {
            match lines.next_line() {
                Ok(line) => assert!(line.is_some()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CatalogError::TooLarge { .. }), "{error}");
    }
}
