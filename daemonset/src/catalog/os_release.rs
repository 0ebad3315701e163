//! The distribution of an image: `os-release`
//! ([os-release(5)](https://www.freedesktop.org/software/systemd/man/latest/os-release.html)).

use outcrop_proto::{Distribution, Fact};

use super::{CatalogError, Cataloger, Evidence, Want};

/// Maximum size of an `os-release`, bytes. Real ones have less than 1 KB.
const MAX_SIZE: u64 = 64 << 10;

/// Reads the distribution. If both files exist, the merge prefers `etc` over `usr/lib`.
pub(super) struct OsRelease;

impl Cataloger for OsRelease {
    fn name(&self) -> &'static str {
        "os-release"
    }

    fn wants(&self, path: &[u8]) -> Want {
        if matches!(path, b"etc/os-release" | b"usr/lib/os-release") { Want::Yes } else { Want::No }
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let bytes = evidence.source.bytes(MAX_SIZE)?;
        Ok(Fact { distribution: distribution(&String::from_utf8_lossy(&bytes)), ..Fact::default() })
    }
}

/// Returns the distribution, or `None` if no line describes it.
fn distribution(text: &str) -> Option<Distribution> {
    let (mut id, mut name, mut pretty) = (None, None, None);
    let mut distribution = Distribution::default();
    let mut said = false;
    for line in text.lines() {
        let Some((key, value)) = line.trim_start().split_once('=') else { continue };
        // The last assignment counts, as in a shell.
        match key {
            "ID" => id = Some(unquoted(value).to_ascii_lowercase()),
            "VERSION_ID" => distribution.version_id = unquoted(value),
            "VERSION_CODENAME" => distribution.codename = unquoted(value),
            "NAME" => name = Some(unquoted(value)),
            "PRETTY_NAME" => pretty = Some(unquoted(value)),
            "ID_LIKE" => {
                distribution.id_like = unquoted(value).split_whitespace().map(str::to_ascii_lowercase).collect()
            }
            _ => continue,
        }
        said = true;
    }
    // The manual page: "If not set, a default of "ID=linux" may be used."
    distribution.id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| "linux".to_owned());
    distribution.name = pretty.filter(|name| !name.is_empty()).or(name).unwrap_or_default();
    said.then_some(distribution)
}

/// Removes the quotes and escapes of a shell from a value. There is no expansion and no concatenation.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    let (quote, rest) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
        _ => (None, value),
    };
    let mut plain = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            (char, Some(quote)) if char == quote => break,
            ('\\', None) => plain.extend(chars.next()),
            ('\\', Some('"')) => match chars.next() {
                Some(escaped @ ('$' | '"' | '\\' | '`')) => plain.push(escaped),
                // Within double quotes, a backslash before any other character is literal.
                other => plain.extend(std::iter::once('\\').chain(other)),
            },
            (char, _) => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_quotes_and_escapes_as_in_a_shell() {
        for (value, expected) in [
            ("debian", "debian"),
            ("\"12\"", "12"),
            ("'12'", "12"),
            ("  \"a b\"  ", "a b"),
            (r#""a \"b\" \$c \\ \` \n""#, r#"a "b" $c \ ` \n"#),
            (r"'a \n'", r"a \n"),
            (r"a\ b", "a b"),
            ("\"\"", ""),
            ("", ""),
            ("\"open", "open"),
            ("\"a\" # comment", "a"),
            ("\\", ""),
            ("\"\\", "\\"),
            ("é", "é"),
        ] {
            assert_eq!(unquoted(value), expected, "{value}");
        }
    }

    #[test]
    fn all_fields_of_debian_and_alma_are_read() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
                      VERSION_CODENAME=bookworm\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n";
        let expected = Distribution {
            id: "debian".into(),
            version_id: "12".into(),
            codename: "bookworm".into(),
            name: "Debian GNU/Linux 12 (bookworm)".into(),
            id_like: vec![],
        };
        assert_eq!(distribution(debian), Some(expected));
        let alma = "NAME=\"AlmaLinux\"\r\nID=\"AlmaLinux\"\r\nID_LIKE=\"rhel centos fedora\"\r\nVERSION_ID=\"9.4\"\r\n";
        let expected = Distribution {
            id: "almalinux".into(),
            version_id: "9.4".into(),
            codename: String::new(),
            name: "AlmaLinux".into(),
            id_like: vec!["rhel".into(), "centos".into(), "fedora".into()],
        };
        assert_eq!(distribution(alma), Some(expected));
    }

    #[test]
    fn the_last_assignment_counts_and_comments_do_not() {
        let found = distribution("#ID=no\nID=a\n ID=b\n;ID=no\nEXPORT_ID=no\n").unwrap();
        assert_eq!(found.id, "b");
    }

    #[test]
    fn a_file_without_an_id_is_linux_and_an_empty_one_is_no_distribution() {
        assert_eq!(
            distribution("NAME=Mine\n").map(|found| (found.id, found.name)),
            Some(("linux".into(), "Mine".into()))
        );
        assert_eq!(distribution("ID=\n").map(|found| found.id), Some("linux".into()));
        for empty in ["", "\n\n", "nothing", "\0\0\0", "HOME_URL=x"] {
            assert_eq!(distribution(empty), None, "{empty:?}");
        }
    }

    #[test]
    fn only_the_two_paths_at_the_root_are_wanted() {
        assert_eq!(OsRelease.wants(b"etc/os-release"), Want::Yes);
        assert_eq!(OsRelease.wants(b"usr/lib/os-release"), Want::Yes);
        for other in [&b"home/etc/os-release"[..], b"/etc/os-release", b"etc/os-release/x", b"usr/etc/os-release"] {
            assert_eq!(OsRelease.wants(other), Want::No);
        }
    }
}
