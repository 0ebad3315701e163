//! Byte syntax of every canonical encoding.
//!
//! Unsigned integers are LEB128 in their shortest form, strings and byte strings start with their length, lists with their count, options
//! with one byte. Each value has exactly one encoding; decoders refuse every other form.

use crate::budget::{ALLOCATION, Budget, OverBudget};

/// Reason why bytes are not a canonical encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("truncated at byte {0}")]
    Truncated(usize),
    /// Bytes are left over.
    #[error("{0} bytes after the end")]
    Trailing(usize),
    /// A value that the encoder never writes.
    #[error("{what} at byte {at} is not canonical")]
    Invalid {
        /// Kind of value.
        what: &'static str,
        /// Offset in bytes.
        at: usize,
    },
    /// Another format, or another version of it.
    #[error("not an {0} of this version")]
    Format(&'static str),
    /// Compressed bytes that are malformed or decompress to more than the limit.
    #[error("decompression failed: {0}")]
    Compression(String),
    /// The value needs more memory or work than its decoder may spend.
    #[error("the value {0}")]
    OverBudget(#[from] OverBudget),
}

/// Maximum size of a path, bytes: Linux's PATH_MAX.
pub const MAX_PATH: usize = 4096;

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(crate) fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(list.len() as u64);
        list.iter().for_each(|item| write(self, item));
    }

    /// Writes a path as the number of bytes that it shares with the path before it, and the rest.
    pub(crate) fn front_coded(&mut self, previous: &[u8], path: &[u8]) {
        let shared = previous.iter().zip(path).take_while(|(a, b)| a == b).count();
        self.number(shared as u64);
        self.bytes(&path[shared..]);
    }
}

/// Reads values from a buffer, within a budget.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    pub(crate) budget: Budget,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, and spends `budget` for it.
    pub(crate) fn spend<T>(
        bytes: &'a [u8],
        budget: &mut Budget,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let mut reader = Self::new(bytes, *budget);
        let decoded = read(&mut reader);
        *budget = reader.budget;
        decoded
    }

    /// Creates a reader; what it spends is missing in its own [`budget`](Self::budget).
    pub(crate) fn new(bytes: &'a [u8], budget: Budget) -> Self {
        Self { bytes, at: 0, budget }
    }

    pub(crate) fn invalid(&self, what: &'static str) -> DecodeError {
        DecodeError::Invalid { what, at: self.at }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.is_at_end() { Ok(()) } else { Err(DecodeError::Trailing(self.bytes.len() - self.at)) }
    }

    /// Skips the parts that a later version appends, up to the end of the bytes. Each has a number of its own above 0, ascending, and its
    /// bytes. Returns how many there are.
    pub(crate) fn unknown_parts(&mut self) -> Result<u32, DecodeError> {
        let (mut count, mut last) = (0, 0);
        while !self.is_at_end() {
            let number = self.number()?;
            if number <= last {
                return Err(self.invalid("number of a part"));
            }
            last = number;
            self.bytes()?;
            count += 1;
        }
        Ok(count)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated(self.at))?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // A last byte of zero would be a longer form of a smaller number.
                return if byte == 0 && shift > 0 { Err(self.invalid("number")) } else { Ok(value) };
            }
        }
        Err(self.invalid("number"))
    }

    /// Reads a length or count, which cannot exceed the number of bytes that are left.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        let length = self.number()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.bytes.len() - self.at)
            .ok_or(DecodeError::Truncated(self.at))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let array = self.bytes[self.at..].first_chunk().ok_or(DecodeError::Truncated(self.at))?;
        self.at += N;
        Ok(*array)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(bytes)
    }

    /// Reads bytes into memory of their own.
    pub(crate) fn owned(&mut self) -> Result<Vec<u8>, DecodeError> {
        let bytes = self.bytes()?;
        self.budget.reserve(ALLOCATION + bytes.len())?;
        Ok(bytes.to_vec())
    }

    pub(crate) fn string(&mut self) -> Result<String, DecodeError> {
        String::from_utf8(self.owned()?).map_err(|_| self.invalid("string"))
    }

    /// Reads a path into memory of its own.
    pub(crate) fn path(&mut self) -> Result<Vec<u8>, DecodeError> {
        let path = self.owned()?;
        if path.len() > MAX_PATH { Err(self.invalid("length of a path")) } else { Ok(path) }
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(self.invalid("option")),
        }
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        Ok(self.option(|_| Ok(()))?.is_some())
    }

    /// Reads a list. It grows as items are read, since the count is not trusted.
    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.length()?;
        let mut list = Vec::new();
        for _ in 0..count {
            // A list that grows has twice the room that it needs.
            self.budget.reserve(2 * size_of::<T>())?;
            self.budget.step(1)?;
            list.push(read(self)?);
        }
        Ok(list)
    }

    /// Replaces `path` with the next front-coded path.
    pub(crate) fn next_path(&mut self, path: &mut Vec<u8>) -> Result<(), DecodeError> {
        let (shared, rest) = self.front_coded(path)?;
        path.truncate(shared);
        path.extend_from_slice(rest);
        Ok(())
    }

    /// Reads the next front-coded path after `path`: the number of bytes that they share, and the rest.
    pub(crate) fn front_coded(&mut self, path: &[u8]) -> Result<(usize, &'a [u8]), DecodeError> {
        let shared = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if shared > path.len() {
            return Err(self.invalid("path"));
        }
        let rest = self.bytes()?;
        // Only the longest shared part is canonical.
        if path.get(shared).is_some() && path.get(shared) == rest.first() {
            return Err(self.invalid("path"));
        }
        Ok((shared, rest))
    }
}
