//! `container-manifest-2`, the list of packages that distroless images of Azure Linux have instead of a database.
//!
//! `rpm --query --queryformat` writes the lines, with these columns, separated by tabs: NAME, VERSION-RELEASE,
//! INSTALLTIME, BUILDTIME, VENDOR, EPOCH, SIZE, ARCH, EPOCHNUM, SOURCERPM.

use outcrop_proto::{Fact, Package, PackageType};

use super::{source, with_epoch};
use crate::catalog::collect::{Collector, text};
use crate::catalog::lines::Lines;
use crate::catalog::{CatalogError, Source};

/// Reads a manifest.
pub(super) fn read(bytes: &dyn Source) -> Result<Fact, CatalogError> {
    let mut lines = Lines::new(bytes)?;
    let mut collector = Collector::default();
    while let Some(line) = lines.next_line()? {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let fields: Vec<String> = line.split(|byte| *byte == b'\t').take(10).map(text).collect();
        let [name, version, _, _, vendor, _, _, arch, epoch, file] = fields.as_slice() else {
            collector.unreadable("a line does not have ten columns");
            continue;
        };
        if name.is_empty() || version.is_empty() {
            collector.unreadable("a package has no name or no version");
            continue;
        }
        let said = |field: &String| Some(field.clone()).filter(|field| !field.is_empty() && field != "(none)");
        let epoch = epoch.parse().ok();
        let mut package = Package::new(PackageType::Rpm, name, with_epoch(epoch, version));
        package.arch = said(arch);
        package.vendor = said(vendor);
        package.source = source(file, epoch);
        collector.package(package)?;
    }
    collector.finish_database("RPM manifest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_of_the_query() {
        let text = b"openssl-libs\t1.1.1k-15.cm2\t1\t2\tMicrosoft Corporation\t(none)\t4\tx86_64\t0\topenssl-1.1.1k-15.cm2.src.rpm\n\
            vim\t9.0-1.cm2\t1\t2\t(none)\t2\t45000\tx86_64\t2\tvim-9.0-1.cm2.src.rpm\nshort\tline\n";
        let fact = read(&&text[..]).unwrap();
        let found: Vec<_> = fact
            .packages
            .iter()
            .map(|package| {
                let source = package.source.as_ref().unwrap();
                (package.name.as_str(), package.version.as_str(), package.vendor.as_deref(), source.version.as_str())
            })
            .collect();
        assert_eq!(
            found,
            [
                ("openssl-libs", "1.1.1k-15.cm2", Some("Microsoft Corporation"), "1.1.1k-15.cm2"),
                ("vim", "2:9.0-1.cm2", None, "2:9.0-1.cm2"),
            ]
        );
        assert_eq!(fact.packages[0].source.as_ref().unwrap().name, "openssl");
        assert_eq!(fact.warnings, ["1 of 3 packages could not be read", "a line does not have ten columns"]);
        assert!(matches!(read(&&b"\xff\0\n"[..]), Err(CatalogError::Malformed { .. })));
    }
}
