//! Package URLs ([purl specification](https://github.com/package-url/purl-spec)).

use outcrop_proto::{Distribution, Package, PackageType};
use packageurl::PackageUrl;

/// The package URL of a package, in the distribution that it was found in.
pub fn purl(package: &Package, distribution: Option<&Distribution>) -> String {
    build(package, distribution).map(|url| url.to_string()).unwrap_or_default()
}

fn build<'a>(
    package: &'a Package,
    distribution: Option<&'a Distribution>,
) -> Result<PackageUrl<'a>, packageurl::Error> {
    let name = package.name.as_str();
    let (namespace, name) = match package.kind {
        PackageType::Deb | PackageType::Apk | PackageType::Rpm => {
            (distribution.map(|distribution| distribution.id.clone()), name.to_owned())
        }
        // The specification's own normal form.
        PackageType::Pypi => (None, name.to_lowercase().replace('_', "-")),
        PackageType::Maven => match name.split_once(':') {
            Some((group, artifact)) => (Some(group.to_owned()), artifact.to_owned()),
            None => (None, name.to_owned()),
        },
        PackageType::Npm | PackageType::Golang => match name.rsplit_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
            None => (None, name.to_owned()),
        },
    };
    let mut url = PackageUrl::new(package.kind.as_str(), name)?;
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        url.with_namespace(namespace)?;
    }
    // RPM keeps the epoch apart from the version.
    let (epoch, version) = match package.version.split_once(':') {
        Some((epoch, version)) if package.kind == PackageType::Rpm => (Some(epoch), version),
        _ => (None, package.version.as_str()),
    };
    if !version.is_empty() {
        url.with_version(version)?;
    }
    if package.kind.is_os() {
        if let Some(arch) = &package.arch {
            url.add_qualifier("arch", arch.as_str())?;
        }
        if let Some(epoch) = epoch {
            url.add_qualifier("epoch", epoch)?;
        }
        if let Some(distribution) = distribution {
            let distro = match distribution.version_id.as_str() {
                "" => distribution.id.clone(),
                version => format!("{}-{version}", distribution.id),
            };
            url.add_qualifier("distro", distro)?;
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_follow_the_specification_of_their_type() {
        let debian = Distribution { id: "debian".to_owned(), version_id: "12".to_owned(), ..Distribution::default() };
        let os = |kind, name: &str, version: &str| Package {
            arch: Some("x86_64".to_owned()),
            ..Package::new(kind, name, version)
        };
        let app = Package::new;
        let cases = [
            (
                os(PackageType::Deb, "libc6", "2.36-9+deb12u4"),
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=x86_64&distro=debian-12",
            ),
            (
                os(PackageType::Rpm, "bash", "1:5.1-2.el9"),
                "pkg:rpm/debian/bash@5.1-2.el9?arch=x86_64&distro=debian-12&epoch=1",
            ),
            (app(PackageType::Pypi, "Foo_Bar", "1.0"), "pkg:pypi/foo-bar@1.0"),
            (app(PackageType::Npm, "@scope/name", "1.0.0"), "pkg:npm/%40scope/name@1.0.0"),
            (app(PackageType::Maven, "org.apache:log4j", "2.14"), "pkg:maven/org.apache/log4j@2.14"),
            (app(PackageType::Golang, "github.com/google/uuid", "v1.6.0"), "pkg:golang/github.com/google/uuid@v1.6.0"),
        ];
        for (package, expected) in cases {
            assert_eq!(purl(&package, Some(&debian)), expected);
        }
    }
}
