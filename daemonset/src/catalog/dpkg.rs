//! dpkg's databases: `status` ([deb822(5)](https://manpages.debian.org/deb822), dpkg(1) on package states), distroless
//! images' `status.d`, and the `md5sums` that list the files of each package.
//!
//! The `*.list` files beside them are not read. They list the same files without digests, and every package with files of its own ships
//! `md5sums`: 126 of 126 in a Debian-based Python image. Configuration files, which `md5sums` leaves out, are not evidence. Reading both
//! would double the number of files opened per layer.

use outcrop_proto::{Fact, FileDigest, Package, PackageType, SourcePackage};

use super::collect::{Collector, text};
use super::digests::hex;
use super::lines::Lines;
use super::{CatalogError, Cataloger, Evidence, Want};

/// Directory of dpkg's state, from the root.
const HOME: &[u8] = b"var/lib/dpkg/";

/// Control files that dpkg stores beside `md5sums`, under the package's name.
const CONTROL_FILES: [&[u8]; 11] = [
    b"conffiles",
    b"config",
    b"list",
    b"postinst",
    b"postrm",
    b"preinst",
    b"prerm",
    b"shlibs",
    b"symbols",
    b"templates",
    b"triggers",
];

/// Reads dpkg's databases.
pub(super) struct Dpkg;

/// Kind of a path below dpkg's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// Stanzas with a state.
    Status,
    /// One package of a distroless image: a stanza without a state.
    StatusD,
    /// Digests of the files of the package of this name.
    Md5sums(&'a [u8]),
}

fn kind(path: &[u8]) -> Option<Kind<'_>> {
    let path = path.strip_prefix(HOME)?;
    if path == b"status" {
        return Some(Kind::Status);
    }
    let (folder, name) = path.split_at(path.iter().position(|byte| *byte == b'/')?);
    let name = &name[1..];
    if name.is_empty() || name.contains(&b'/') || !matches!(folder, b"info" | b"status.d") {
        return None;
    }
    if let Some(package) = name.strip_suffix(b".md5sums") {
        let package = package.split(|byte| *byte == b':').next()?;
        return (!package.is_empty()).then_some(Kind::Md5sums(package));
    }
    // Package names contain dots (`libssl1.1`), so only extensions that dpkg uses are recognized.
    let extension = name.iter().rposition(|byte| *byte == b'.').map(|dot| &name[dot + 1..]);
    (folder == b"status.d" && !extension.is_some_and(|extension| CONTROL_FILES.contains(&extension)))
        .then_some(Kind::StatusD)
}

impl Cataloger for Dpkg {
    fn name(&self) -> &'static str {
        "dpkg"
    }

    fn wants(&self, path: &[u8]) -> Want {
        if kind(path).is_some() { Want::Yes } else { Want::No }
    }

    fn is_database(&self, path: &[u8]) -> bool {
        matches!(kind(path), Some(Kind::Status | Kind::StatusD))
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let lines = Lines::new(evidence.source)?;
        match kind(evidence.path) {
            Some(Kind::Status) => read_stanzas(lines, State::Missing),
            Some(Kind::StatusD) => read_stanzas(lines, State::Installed),
            Some(Kind::Md5sums(package)) => read_md5sums(lines, package),
            None => Ok(Fact::default()),
        }
    }
}

/// The state of a package: the third word of `Status`. The first word is only the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The third word is missing.
    Missing,
    Installed,
    /// `not-installed` or `config-files`: the files are gone.
    Gone,
    /// Unpacked but not configured, or only partly unpacked or configured.
    Halfway(String),
}

/// The used fields of one stanza. The first value of a repeated field counts; dpkg refuses such stanzas.
#[derive(Default)]
struct Stanza {
    package: Option<String>,
    version: Option<String>,
    architecture: Option<String>,
    source: Option<String>,
    state: Option<State>,
}

impl Stanza {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        fn first(slot: &mut Option<String>, value: &[u8]) {
            if slot.is_none() {
                *slot = Some(text(value)).filter(|value| !value.is_empty());
            }
        }
        // The length is compared first, because nearly every line of a status file is an unused field.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"Package") => first(&mut self.package, value),
            7 if name.eq_ignore_ascii_case(b"Version") => first(&mut self.version, value),
            6 if name.eq_ignore_ascii_case(b"Source") => first(&mut self.source, value),
            12 if name.eq_ignore_ascii_case(b"Architecture") => first(&mut self.architecture, value),
            6 if name.eq_ignore_ascii_case(b"Status") => {
                self.state.get_or_insert_with(|| state(value));
            }
            _ => {}
        }
    }

    /// Ends the stanza, and adds its package to `collector` if the package is installed.
    fn finish(&mut self, without_state: &State, collector: &mut Collector) -> Result<(), CatalogError> {
        let Self { package, version, architecture, source, state } = std::mem::take(self);
        let Some(name) = package else {
            let installed =
                state.as_ref() == Some(&State::Installed) || (*without_state == State::Installed && version.is_some());
            if installed {
                collector.unreadable("a package has no name");
            }
            return Ok(());
        };
        match state.as_ref().unwrap_or(without_state) {
            State::Installed => {}
            State::Gone | State::Missing => return Ok(()),
            State::Halfway(state) => {
                collector.warn(format!("package {} is {}, not installed", shown(&name), shown(state)));
                return Ok(());
            }
        }
        let Some(version) = version else {
            collector.unreadable(format!("package {} has no version", shown(&name)));
            return Ok(());
        };
        let (source, source_version) = source.as_deref().map_or((name.as_str(), None), split_source);
        let source = SourcePackage { name: source.to_owned(), version: source_version.unwrap_or(&version).to_owned() };
        let mut package = Package::new(PackageType::Deb, name, version);
        package.arch = architecture;
        package.source = Some(source);
        collector.package(package)
    }
}

fn state(value: &[u8]) -> State {
    let word = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(2);
    // dpkg compares without case.
    let word = word.map(<[u8]>::to_ascii_lowercase);
    match word.as_deref() {
        None => State::Missing,
        Some(b"installed") => State::Installed,
        Some(b"not-installed" | b"config-files") => State::Gone,
        Some(other) => State::Halfway(text(other)),
    }
}

/// Splits `foo (1.2)` into name and version, `foo` into a name alone.
fn split_source(field: &str) -> (&str, Option<&str>) {
    let Some((name, rest)) = field.split_once('(') else { return (field, None) };
    let version = rest.split(')').next().unwrap_or(rest).trim();
    (name.trim_end(), Some(version).filter(|version| !version.is_empty()))
}

/// Returns a name in a form that is safe in a warning.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(80).collect::<String>())
}

/// Reads stanzas; `without_state` is the state of a stanza without `Status`.
fn read_stanzas(mut lines: Lines<'_>, without_state: State) -> Result<Fact, CatalogError> {
    let mut collector = Collector::default();
    let mut stanza = Stanza::default();
    let (mut fields, mut strange, mut named) = (0_u64, 0_u64, false);
    while let Some(line) = lines.next_line()? {
        match line {
            // The policy manual allows parsers to treat lines of blanks as separators.
            _ if line.iter().all(u8::is_ascii_whitespace) => stanza.finish(&without_state, &mut collector)?,
            [b' ' | b'\t' | b'#', ..] => {}
            _ => match split_field(line) {
                Some((name, value)) => {
                    fields += 1;
                    stanza.field(name, value);
                    named |= stanza.package.is_some();
                }
                None => strange += 1,
            },
        }
    }
    stanza.finish(&without_state, &mut collector)?;
    if fields == 0 && strange > 0 {
        return Err(CatalogError::malformed("dpkg database", "no line is a field"));
    }
    if fields > 0 && !named {
        return Err(CatalogError::malformed("dpkg database", format!("none of {fields} fields names a package")));
    }
    if strange > 0 {
        collector.warn(format!("{strange} lines are neither fields nor continue one"));
    }
    collector.finish_database("dpkg database")
}

/// Splits `Name: value`, where the name has only characters that deb822 allows. Like dpkg, it accepts blanks before the colon.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().take(256).position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    let name = name.trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then(|| (name, &value[1..]))
}

/// Reads `md5sums`: 32 digits, two blanks (or a blank and a star), a path.
fn read_md5sums(mut lines: Lines<'_>, package: &[u8]) -> Result<Fact, CatalogError> {
    let package = text(package);
    let mut collector = Collector::default();
    let mut strange = 0_u64;
    while let Some(line) = lines.next_line()? {
        match line.split_at_checked(34) {
            Some(([digits @ .., b' ', b' ' | b'*'], path)) if !path.is_empty() => {
                let digest = hex(digits).map(FileDigest::Md5);
                if digest.is_some() {
                    collector.claim(path, &package, || digest);
                    continue;
                }
            }
            _ => {}
        }
        strange += u64::from(!line.is_empty());
    }
    if strange > 0 {
        collector.warn(format!("{strange} lines are not a digest and a path"));
    }
    Ok(collector.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, bytes: &[u8]) -> Result<Fact, CatalogError> {
        Dpkg.read(&Evidence { path: path.as_bytes(), source: &bytes, companions: &[] })
    }

    #[test]
    fn a_database_without_the_name_of_a_package_is_an_error() {
        for path in ["var/lib/dpkg/status", "var/lib/dpkg/status.d/x"] {
            assert!(read(path, b"Version: 1\nStatus: install ok installed\n").is_err());
            assert!(read(path, b"\n# nothing is installed\n").unwrap().is_empty());
        }
    }

    fn listed(fact: &Fact) -> Vec<String> {
        let package = |package: &Package| {
            let source = package.source.as_ref().unwrap();
            let arch = package.arch.as_deref().unwrap_or("-");
            format!("{} {} {arch} {} {}", package.name, package.version, source.name, source.version)
        };
        fact.packages.iter().map(package).collect()
    }

    #[test]
    fn paths_are_wanted_from_the_root_only() {
        for (path, expected) in [
            ("var/lib/dpkg/status", Some(Kind::Status)),
            ("var/lib/dpkg/status.d/base", Some(Kind::StatusD)),
            ("var/lib/dpkg/status.d/libssl1.1", Some(Kind::StatusD)),
            ("var/lib/dpkg/status.d/libssl1.1.md5sums", Some(Kind::Md5sums(b"libssl1.1"))),
            ("var/lib/dpkg/info/libc6:amd64.md5sums", Some(Kind::Md5sums(b"libc6"))),
            ("var/lib/dpkg/info/adduser.md5sums", Some(Kind::Md5sums(b"adduser"))),
            ("var/lib/dpkg/info/.md5sums", None),
            ("var/lib/dpkg/info/adduser.list", None),
            ("var/lib/dpkg/info/adduser", None),
            ("var/lib/dpkg/status.d/base.preinst", None),
            ("var/lib/dpkg/status.d/", None),
            ("var/lib/dpkg/status.d/a/b", None),
            ("var/lib/dpkg/status-old", None),
            ("var/lib/dpkg/available", None),
            ("home/x/var/lib/dpkg/status", None),
            ("/var/lib/dpkg/status", None),
            ("var/lib/dpkg/status/", None),
        ] {
            assert_eq!(kind(path.as_bytes()), expected, "{path}");
        }
        assert!(Dpkg.is_database(b"var/lib/dpkg/status"));
        assert!(Dpkg.is_database(b"var/lib/dpkg/status.d/base"));
        assert!(!Dpkg.is_database(b"var/lib/dpkg/status.d/base.md5sums"));
    }

    #[test]
    fn only_installed_packages_are_listed_in_any_desired_state() {
        let text = b"Package: a\nStatus: install ok installed\nVersion: 1\n\n\
            Package: b\nStatus: deinstall ok installed\nVersion: 1\n\n\
            Package: c\nStatus: purge ok installed\nVersion: 1\n\n\
            Package: d\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: e\nStatus: install ok not-installed\n\n\
            Package: f\nStatus: install reinstreq half-installed\nVersion: 1\n\n\
            Package: g\nStatus: install ok\nVersion: 1\n\n\
            Package: h\nVersion: 1\n";
        let fact = read("var/lib/dpkg/status", text).unwrap();
        assert_eq!(listed(&fact), ["a 1 - a 1", "b 1 - b 1", "c 1 - c 1"]);
        assert_eq!(fact.warnings, ["package \"f\" is \"half-installed\", not installed"]);
        let fact = read("var/lib/dpkg/status.d/h", b"Package: h\nVersion: 1\n").unwrap();
        assert_eq!(listed(&fact), ["h 1 - h 1"]);
    }

    #[test]
    fn states_in_any_case_and_blanks_before_a_colon_are_read_as_by_dpkg() {
        let text = b"Package : a\nStatus\t: Install OK Installed\nVersion  : 1\n\n\
            Package: b\nStatus: deinstall ok Config-Files\nVersion: 1\n";
        let fact = read("var/lib/dpkg/status", text).unwrap();
        assert_eq!((listed(&fact), fact.warnings.len()), (vec!["a 1 - a 1".to_owned()], 0));
    }

    #[test]
    fn a_source_with_a_version_of_its_own_keeps_it() {
        for (source, expected) in [
            ("", "a 1 - a 1"),
            ("Source: s\n", "a 1 - s 1"),
            ("Source: s (2:3-4)\n", "a 1 - s 2:3-4"),
            ("source:s  ( 3 ) \n", "a 1 - s 3"),
            ("Source: s (\n", "a 1 - s 1"),
            ("Source: s ()\n", "a 1 - s 1"),
            ("Source:\n", "a 1 - a 1"),
        ] {
            let text = format!("Package: a\n{source}Version: 1\n");
            assert_eq!(listed(&read("var/lib/dpkg/status.d/a", text.as_bytes()).unwrap()), [expected], "{source}");
        }
    }

    #[test]
    fn a_stanza_ends_at_a_blank_line_and_values_do_not_leak_into_fields() {
        let text =
            b"Package: a\r\nVersion: 1\r\nArchitecture: amd64\r\n \r\nPackage: b\nDescription: x\n Package: no\n\
            \tVersion: 9\n .\nVersion: 2\nVersion: 3\n\t\n\n\nVersion: 4\n";
        let fact = read("var/lib/dpkg/status.d/x", text).unwrap();
        assert_eq!(listed(&fact), ["a 1 amd64 a 1", "b 2 - b 2"]);
    }

    #[test]
    fn malformed_lines_are_a_warning_and_a_file_without_packages_is_an_error() {
        let mut text = b"\xff\xfe\0\x01\n".repeat(3);
        text.extend_from_slice(b"Package: a\xff\nVersion: 1\n\nVersion: 2\n\nPackage: lost\n");
        let fact = read("var/lib/dpkg/status.d/x", &text).unwrap();
        assert_eq!(listed(&fact), ["a\u{fffd} 1 - a\u{fffd} 1"]);
        let expected = [
            "2 of 3 packages could not be read",
            "3 lines are neither fields nor continue one",
            "a package has no name",
            "package \"lost\" has no version",
        ];
        assert_eq!(fact.warnings, expected);
        assert!(matches!(read("var/lib/dpkg/status", &b"\xff\0\n".repeat(9)), Err(CatalogError::Malformed { .. })));
        assert!(read("var/lib/dpkg/status", b"").unwrap().is_empty());
    }

    #[test]
    fn a_field_that_is_too_long_skips_only_its_package() {
        let text = format!("Package: {}\nVersion: 1\n\nPackage: b\nVersion: 1\n", "a".repeat(1 << 20));
        let fact = read("var/lib/dpkg/status.d/x", text.as_bytes()).unwrap();
        assert_eq!(listed(&fact), ["b 1 - b 1"]);
        assert_eq!((fact.warnings.len(), fact.warnings[0].as_str()), (2, "1 of 2 packages could not be read"));
    }

    #[test]
    fn installed_packages_that_cannot_be_read_are_counted_and_others_are_not() {
        let installed = "Status: install ok installed\n";
        let text = format!("Package: a\n{installed}Version: 1\n\nPackage: b\n{installed}\n{installed}Version: 2\n");
        let fact = read("var/lib/dpkg/status", text.as_bytes()).unwrap();
        assert_eq!(fact.warnings[0], "2 of 3 packages could not be read");
        // Nothing remains.
        for text in [format!("Package: b\n{installed}"), format!("Package:\n{installed}\nPackage: b\n{installed}")] {
            let error = read("var/lib/dpkg/status", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("packages could not be read"), "{error}");
        }
        // Packages that are not installed need no version.
        let gone = b"Package: a\nStatus: deinstall ok config-files\n\nPackage: b\nStatus: purge ok not-installed\n\nPackage: c\n";
        assert!(read("var/lib/dpkg/status", gone).unwrap().is_empty());
    }

    #[test]
    fn a_hundred_thousand_stanzas_are_listed_and_a_million_refused() {
        let stanzas = |count: u32| {
            let stanza = |number| format!("Package: p{number}\nStatus: install ok installed\nVersion: 1\n\n");
            read("var/lib/dpkg/status", (0..count).map(stanza).collect::<String>().as_bytes())
        };
        assert_eq!(stanzas(100_000).unwrap().packages.len(), 100_000);
        assert!(matches!(stanzas(1_000_000), Err(CatalogError::Limit { .. })));
    }

    #[test]
    fn md5sums_claim_the_files_that_could_be_evidence() {
        let text = b"d41d8cd98f00b204e9800998ecf8427e  etc/os-release\n\
            D41D8CD98F00B204E9800998ECF8427E *./usr/lib/os-release\n\
            d41d8cd98f00b204e9800998ecf8427e  usr/share/doc/x/changelog.gz\n\
            d41d8cd98f00b204e9800998ecf8427g  etc/os-release\nshort\n\n";
        let fact = read("var/lib/dpkg/info/base-files:amd64.md5sums", text).unwrap();
        let digest = Some(FileDigest::Md5(hex(b"d41d8cd98f00b204e9800998ecf8427e").unwrap()));
        let claim = |path: &[u8]| outcrop_proto::Claim {
            path: path.to_vec(),
            package: "base-files".into(),
            digest: digest.clone(),
        };
        assert_eq!(fact.claims, [claim(b"etc/os-release"), claim(b"usr/lib/os-release")]);
        assert_eq!(fact.warnings, ["2 lines are not a digest and a path"]);
        assert!(fact.packages.is_empty());
    }
}
