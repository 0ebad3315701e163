//! Package URLs ([purl specification](https://github.com/package-url/purl-spec)).

use outcrop_proto::ecosystem::PurlName;
use outcrop_proto::{Distribution, Package};
use packageurl::PackageUrl;

/// Returns the package URL of `package`, found in `distribution`; empty if the name is not valid in a package URL.
pub fn purl(package: &Package, distribution: Option<&Distribution>) -> String {
    build(package, distribution).map(|url| url.to_string()).unwrap_or_default()
}

fn build<'a>(
    package: &'a Package,
    distribution: Option<&'a Distribution>,
) -> Result<PackageUrl<'a>, packageurl::Error> {
    let ecosystem = package.kind.ecosystem();
    let (namespace, name) = ecosystem.split_name(&package.name);
    let namespace = match ecosystem.purl_name {
        PurlName::Distribution => distribution.map(|distribution| distribution.id.as_str()),
        _ => namespace,
    };
    let mut url = PackageUrl::new(ecosystem.purl_type, name.into_owned())?;
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        url.with_namespace(namespace)?;
    }
    let (epoch, version) = match package.version.split_once(':') {
        Some((epoch, version)) if ecosystem.has_epoch => (Some(epoch), version),
        _ => (None, package.version.as_str()),
    };
    if !version.is_empty() {
        url.with_version(version)?;
    }
    if ecosystem.is_os() {
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

/// Returns the package URL of an image, `pkg:oci/…`, or of anything else that was scanned, `pkg:generic/…`. Only a digest makes it unique.
#[cfg(feature = "programs")]
pub(super) fn image_purl(name: &str, digest: Option<&str>, is_container: bool) -> String {
    let build = || {
        if !is_container {
            return PackageUrl::new("generic", name.to_owned()).map(|url| url.to_string());
        }
        let reference = crate::image::Reference::parse(name);
        let last = reference.path.rsplit('/').next().unwrap_or(reference.path);
        let mut url = PackageUrl::new("oci", last.to_lowercase())?;
        if let Some(digest) = digest {
            url.with_version(digest)?;
        }
        let repository = match reference.registry.unwrap_or("docker.io") {
            "docker.io" if !reference.path.contains('/') => format!("docker.io/library/{}", reference.path),
            registry => format!("{registry}/{}", reference.path),
        };
        url.add_qualifier("repository_url", repository)?;
        if let Some(tag) = reference.tag {
            url.add_qualifier("tag", tag)?;
        }
        Ok::<_, packageurl::Error>(url.to_string())
    };
    // A name that no registry accepts has no package URL of its own; the document still names the image.
    build().unwrap_or_else(|_| "pkg:generic/unnamed".to_owned())
}

#[cfg(test)]
mod tests {
    use outcrop_proto::PackageType;

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
