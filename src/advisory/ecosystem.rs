//! OSV's names of ecosystems, and how each names and orders its packages.

use outcrop_proto::{Distribution, Package, PackageType};

use super::version::Scheme;

/// Ecosystems of OSV in which a distribution's packages are looked up, best first; empty where its release is unknown. `None` where
/// no source of advisories in OSV's form is known for it.
pub(super) fn of_distribution(distribution: &Distribution) -> Option<Vec<String>> {
    let version = distribution.version_id.as_str();
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next());
    let with =
        |name: &str, release: &str| if release.is_empty() { Vec::new() } else { vec![format!("{name}:{release}")] };
    Some(match distribution.id.as_str() {
        "debian" => with("Debian", major),
        "ubuntu" if version.is_empty() => Vec::new(),
        // Long-term releases carry a suffix there; extended support (Pro) is another source and not matched by default.
        "ubuntu" => vec![format!("Ubuntu:{version}:LTS"), format!("Ubuntu:{version}")],
        "alpine" => minor.map(|minor| with("Alpine", &format!("v{major}.{minor}"))).unwrap_or_default(),
        "almalinux" => with("AlmaLinux", major),
        "rocky" => with("Rocky Linux", major),
        _ => return None,
    })
}

/// The ecosystem of an application package.
pub(super) fn of_application(kind: PackageType) -> Option<&'static str> {
    match kind {
        PackageType::Pypi => Some("PyPI"),
        PackageType::Npm => Some("npm"),
        PackageType::Maven => Some("Maven"),
        PackageType::Golang => Some("Go"),
        PackageType::Deb | PackageType::Apk | PackageType::Rpm => None,
    }
}

/// How an ecosystem orders versions. `None` for one that Outcrop has no packages of.
pub(super) fn scheme(ecosystem: &str) -> Option<Scheme> {
    Some(match ecosystem.split(':').next().unwrap_or_default() {
        "Debian" | "Ubuntu" => Scheme::Dpkg,
        "Alpine" => Scheme::Apk,
        "AlmaLinux" | "Rocky Linux" => Scheme::Rpm,
        "PyPI" => Scheme::Pep440,
        "npm" | "Go" => Scheme::Semver,
        "Maven" => Scheme::Maven,
        _ => return None,
    })
}

/// Whether an ecosystem is a distribution's.
pub(super) fn is_distribution(ecosystem: &str) -> bool {
    matches!(scheme(ecosystem), Some(Scheme::Dpkg | Scheme::Apk | Scheme::Rpm))
}

/// A package's name in the form in which advisories are looked up.
pub(super) fn normalize(ecosystem: &str, name: &str) -> String {
    if ecosystem != "PyPI" {
        return name.to_owned();
    }
    // PEP 503: runs of '-', '_' and '.' are one '-'.
    let mut out = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            other => out.extend(other.to_lowercase()),
        }
    }
    out
}

/// Name and version under which a package is looked up: Debian's and Alpine's advisories name source packages, those of RPM
/// distributions binary ones.
pub(super) fn subject(package: &Package) -> (&str, &str) {
    match (&package.source, package.kind) {
        (Some(source), PackageType::Deb | PackageType::Apk) => (&source.name, &source.version),
        (_, PackageType::Golang) => {
            let version = package.version.strip_prefix('v').unwrap_or(&package.version);
            (&package.name, version.strip_suffix("+incompatible").unwrap_or(version))
        }
        _ => (&package.name, &package.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distributions_release_names_its_ecosystem() {
        let cases: [(&str, &str, Option<&[&str]>); 8] = [
            ("debian", "12", Some(&["Debian:12"])),
            ("debian", "", Some(&[])),
            ("ubuntu", "22.04", Some(&["Ubuntu:22.04:LTS", "Ubuntu:22.04"])),
            ("alpine", "3.17.2", Some(&["Alpine:v3.17"])),
            ("alpine", "3", Some(&[])),
            ("almalinux", "9.4", Some(&["AlmaLinux:9"])),
            ("rocky", "8.9", Some(&["Rocky Linux:8"])),
            ("slackware", "15.0", None),
        ];
        for (id, version, expected) in cases {
            let distribution =
                Distribution { id: id.to_owned(), version_id: version.to_owned(), ..Distribution::default() };
            let expected = expected.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(of_distribution(&distribution), expected, "{id} {version}");
        }
    }

    #[test]
    fn python_names_have_one_form() {
        for name in ["Foo.Bar", "foo__bar", "FOO-_-BAR"] {
            assert_eq!(normalize("PyPI", name), "foo-bar");
        }
        assert_eq!(normalize("npm", "Foo_Bar"), "Foo_Bar");
    }
}
