//! Parses digests of package databases.

/// Parses hexadecimal digits of exactly `N` bytes.
pub(super) fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    const fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            b'A'..=b'F' => Some(byte - b'A' + 10),
            _ => None,
        }
    }
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Parses base64 (RFC 4648 section 4) of exactly `N` bytes, with or without padding.
pub(super) fn base64<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    const fn sextet(byte: u8) -> Option<u32> {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        } as u32)
    }
    let digits = text.iter().position(|byte| *byte == b'=').map_or(text, |end| &text[..end]);
    // One, two or three bytes have two, three or four digits.
    if digits.len() != (N * 8).div_ceil(6) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (group, digits) in bytes.chunks_mut(3).zip(digits.chunks(4)) {
        let mut word = 0;
        for digit in digits {
            word = word << 6 | sextet(*digit)?;
        }
        word <<= 6 * (4 - digits.len());
        for (byte, value) in group.iter_mut().zip(&word.to_be_bytes()[1..]) {
            *byte = *value;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_of_the_right_number_are_bytes() {
        assert_eq!(hex(b"00fFa9"), Some([0, 255, 0xa9]));
        for wrong in [&b"00ffa"[..], b"00ff", b"00ffa9ff", b"00ffag", b"", "0é000".as_bytes()] {
            assert_eq!(hex::<3>(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn base64_of_the_right_length_is_bytes() {
        // The vectors of RFC 4648 section 10.
        assert_eq!(base64(b"Zg=="), Some(*b"f"));
        assert_eq!(base64(b"Zm8="), Some(*b"fo"));
        assert_eq!(base64(b"Zm9v"), Some(*b"foo"));
        assert_eq!(base64(b"Zm9vYg"), Some(*b"foob"));
        assert_eq!(base64(b"Zm9vYmFy"), Some(*b"foobar"));
        for wrong in [&b"Zm9v"[..], b"Zm9vY", b"Zm9vYg===", b"Zm9vYmFy", b"Zm9v-g==", b""] {
            assert_eq!(base64::<4>(wrong), None, "{wrong:?}");
        }
    }
}
