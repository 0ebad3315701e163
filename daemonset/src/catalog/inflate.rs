//! The only decoder of compressed bytes from images, with a limit on its output, and on the input and the work for one piece of evidence.
//!
//! Every other use of a raw decoder is refused by `clippy.toml`.

use std::cell::Cell;
use std::io::{self, BufReader, Read};

use super::CatalogError;

/// Size of a read of compressed bytes.
const CHUNK: usize = 16 << 10;

/// The remaining number of bytes that may be produced, digested or decoded for one piece of evidence, whatever its archives declare.
///
/// Overlapping entries and nested bombs use the same budget, so the time for one piece of evidence is limited.
pub(super) struct Budget {
    limit: u64,
    left: Cell<u64>,
}

impl Budget {
    /// Creates a budget of `limit` bytes.
    pub(super) const fn new(limit: u64) -> Self {
        Self { limit, left: Cell::new(limit) }
    }

    /// Reserves `bytes`, or fails and leaves the budget unchanged.
    pub(super) fn spend(&self, bytes: u64) -> Result<(), CatalogError> {
        let left = self.left.get().checked_sub(bytes).ok_or_else(|| self.exhausted())?;
        self.left.set(left);
        Ok(())
    }

    fn exhausted(&self) -> CatalogError {
        CatalogError::Limit { what: "bytes of work in an archive", limit: self.limit }
    }
}

/// Compressed input. Some streams have much more input than output (empty blocks), so bytes beyond the `reserved` ones are spent as well.
struct Input<'b, R> {
    reader: R,
    budget: &'b Budget,
    /// Bytes that were spent before for the output.
    reserved: u64,
    /// Bytes that were read.
    read: &'b Cell<u64>,
}

impl<R: Read> Read for Input<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buf)?;
        let before = self.read.get();
        self.read.set(before.saturating_add(count as u64));
        let beyond = |read: u64| read.saturating_sub(self.reserved);
        self.budget.spend(beyond(self.read.get()) - beyond(before)).map_err(io::Error::other)?;
        Ok(count)
    }
}

/// Returns the first `limit` bytes, or all if there are fewer, of the raw deflate stream `deflated`.
///
/// # Errors
/// When the stream is malformed before the limit, or `budget` has fewer bytes left than `limit` or than the stream has. The part of the
/// reservation that neither input nor output used is returned to the budget.
pub(super) fn inflate(deflated: impl Read, limit: usize, budget: &Budget) -> Result<Vec<u8>, CatalogError> {
    let read = Cell::new(0);
    let input = Input { reader: deflated, budget, reserved: limit as u64, read: &read };
    #[expect(clippy::disallowed_types, reason = "this is the capped decoder")]
    let decoder = flate2::bufread::DeflateDecoder::new(BufReader::with_capacity(CHUNK, input));
    read_within(decoder, limit, budget, &read)
}

/// Returns the first `limit` bytes of `reader`, from `budget`.
pub(super) fn read_at_most(reader: impl Read, limit: usize, budget: &Budget) -> Result<Vec<u8>, CatalogError> {
    read_within(reader, limit, budget, &Cell::new(0))
}

/// Returns the first `limit` bytes of `reader`, which counts its `input`.
fn read_within(reader: impl Read, limit: usize, budget: &Budget, input: &Cell<u64>) -> Result<Vec<u8>, CatalogError> {
    budget.spend(limit as u64)?;
    let mut bytes = Vec::new();
    // Reserved at once, because a growing vector copies its bytes; pages that are never written use no memory.
    bytes.try_reserve_exact(limit).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let result = reader.take(limit as u64).read_to_end(&mut bytes);
    let used = input.get().max(bytes.len() as u64);
    budget.left.set(budget.left.get().saturating_add((limit as u64).saturating_sub(used)));
    result.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            CatalogError::malformed("deflate stream", error.to_string())
        }
        // The error of the budget comes out of the decoder as it went in.
        _ => error.downcast::<CatalogError>().unwrap_or_else(CatalogError::Io),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::DeflateEncoder};

    use super::*;

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn at_most_the_limit_is_returned() {
        let bomb = deflate(&vec![0; 4 << 20]);
        assert!(bomb.len() < 8192);
        let budget = Budget::new(1 << 20);
        assert_eq!(inflate(&bomb[..], 1000, &budget).unwrap(), vec![0; 1000]);
        assert_eq!(budget.left.get(), (1 << 20) - bomb.len() as u64, "the input is longer");
    }

    #[test]
    fn an_exhausted_budget_is_an_error() {
        let budget = Budget::new(1500);
        let data = deflate(&[7; 1000]);
        assert!(data.len() < 500);
        assert_eq!(inflate(&data[..], 1000, &budget).unwrap().len(), 1000);
        assert!(matches!(inflate(&data[..], 1000, &budget), Err(CatalogError::Limit { limit: 1500, .. })));
        assert_eq!(inflate(&data[..], 500, &budget).unwrap().len(), 500);
    }

    #[test]
    fn the_unused_part_of_a_reservation_is_returned() {
        let budget = Budget::new(1000);
        let data = deflate(&[7; 300]);
        assert_eq!(inflate(&data[..], 900, &budget).unwrap(), [7; 300]);
        assert_eq!(budget.left.get(), 700);
        assert_eq!(inflate(&deflate(b"abc")[..], 700, &budget).unwrap(), b"abc");
        assert_eq!(budget.left.get(), 700 - deflate(b"abc").len() as u64);
    }

    #[test]
    fn input_without_output_is_work() {
        // Empty stored blocks, and a last one.
        let blocks = [&[0, 0, 0, 0xff, 0xff].repeat(20_000)[..], &[1, 0, 0, 0xff, 0xff]].concat();
        let budget = Budget::new(250_000);
        assert_eq!(inflate(&blocks[..], 1000, &budget).unwrap(), b"");
        assert_eq!(budget.left.get(), 250_000 - blocks.len() as u64);
        assert_eq!(inflate(&blocks[..], 1000, &budget).unwrap(), b"");
        assert!(matches!(inflate(&blocks[..], 1000, &budget), Err(CatalogError::Limit { limit: 250_000, .. })));
    }

    #[test]
    fn malformed_and_truncated_streams_are_errors() {
        let data = deflate(&(0..=255).cycle().take(5000).collect::<Vec<u8>>());
        for length in 0..data.len() {
            assert!(inflate(&data[..length], 5001, &Budget::new(1 << 20)).is_err(), "{length}");
        }
        assert!(inflate(&[0xff; 100][..], 5000, &Budget::new(1 << 20)).is_err());
    }
}
