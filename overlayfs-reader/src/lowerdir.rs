//! Parses the kernel's syntax of `lowerdir=`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind};

/// Maximum number of lower layers (`OVL_MAX_STACK` in the kernel).
const MAX_LAYERS: usize = 500;

/// Splits a `lowerdir=` value of mountinfo, newest layer first. A backslash escapes the next byte, or is followed by three octal digits.
///
/// # Errors
/// When the value contains a data-only layer (`::`), an empty element, or too many layers.
pub fn parse_lowerdir(value: &[u8]) -> Result<Vec<PathBuf>, Error> {
    let fail = |kind| Error::new(kind, "reading lowerdir", value);
    let mut layers = Vec::new();
    let mut current: Vec<u8> = Vec::new();
    let mut rest = value;
    loop {
        let Some((byte, tail)) = rest.split_first() else {
            layers.push(std::mem::take(&mut current));
            break;
        };
        rest = tail;
        match byte {
            b':' if rest.first() == Some(&b':') => return Err(fail(ErrorKind::Unsupported("a data-only layer"))),
            b':' => layers.push(std::mem::take(&mut current)),
            b'\\' => {
                let octal = rest
                    .first_chunk::<3>()
                    .filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) && digits[0] <= b'3');
                if let Some(digits) = octal {
                    current.push(digits.iter().fold(0, |value, digit| value * 8 + (digit - b'0')));
                    rest = &rest[3..];
                } else if let Some((escaped, tail)) = rest.split_first() {
                    current.push(*escaped);
                    rest = tail;
                } else {
                    return Err(fail(ErrorKind::InvalidPath));
                }
            }
            byte => current.push(*byte),
        }
        if layers.len() > MAX_LAYERS {
            return Err(fail(ErrorKind::Limit("layers", MAX_LAYERS as u64)));
        }
    }
    if layers.iter().any(Vec::is_empty) {
        return Err(fail(ErrorKind::InvalidPath));
    }
    Ok(layers.into_iter().map(|path| PathBuf::from(OsString::from_vec(path))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_separators_kept() {
        let cases: [(&[u8], &[&str]); 5] = [
            (b"/a", &["/a"]),
            (b"/new:/old", &["/new", "/old"]),
            (br"/a\:b:/c", &["/a:b", "/c"]),
            (br"/a\\:/c", &[r"/a\", "/c"]),
            (br"/a\040b", &["/a b"]),
        ];
        for (value, expected) in cases {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(parse_lowerdir(value), Ok(expected), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn data_only_layers_empty_ones_and_dangling_escapes_are_refused() {
        for value in [&b"/a::/data"[..], b"", b"/a:", br"/a\"] {
            assert!(parse_lowerdir(value).is_err(), "{}", value.escape_ascii());
        }
    }
}
