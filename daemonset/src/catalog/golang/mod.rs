//! Go programs: the modules that the linker recorded in the executable, and the standard library.
//!
//! The packages of a Go program are its main module, every module that was built into it (a replaced module as its replacement), and
//! `stdlib` at the toolchain's version. A module built from a directory has the version `(devel)`, as `go version -m` prints it: its
//! version is not known.

mod build_info;
mod elf;
mod modules;

use outcrop_proto::{Fact, Package, PackageType};

use self::elf::Elf;
use self::modules::{DEVEL, Modules};
use super::field::{base_name, optional};
use super::{CatalogError, Cataloger, Evidence, Want};

/// Reads Go programs.
pub(super) struct Golang;

impl Cataloger for Golang {
    fn name(&self) -> &'static str {
        "golang"
    }

    /// Wants every executable whose name does not exclude it, and shared libraries, which rarely have an execute bit.
    fn wants(&self, path: &[u8]) -> Want {
        // Hundreds of files without an extension, which only their directory excludes.
        if path.starts_with(b"usr/share/zoneinfo/") || path.starts_with(b"usr/share/doc/") {
            return Want::No;
        }
        let name = base_name(path);
        let Some(dot) = name.iter().rposition(|&byte| byte == b'.') else {
            // Metadata files of installed Python distributions.
            let known =
                matches!(name, b"" | b"RECORD" | b"INSTALLER" | b"WHEEL" | b"REQUESTED" | b"LICENSE" | b"COPYING");
            return if known { Want::No } else { Want::IfExecutable };
        };
        let extension = &name[dot + 1..];
        if extension == b"so" {
            return Want::Yes;
        }
        // `libx.so.1.2.3`
        if extension.first().is_some_and(u8::is_ascii_digit) && name.windows(4).any(|part| part == b".so.") {
            return Want::Yes;
        }
        if is_no_program(extension) { Want::No } else { Want::IfExecutable }
    }

    /// Returns an empty fact for a file that is not a Go program.
    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let mut fact = Fact::default();
        let Some(elf) = Elf::open(evidence.source)? else { return Ok(fact) };
        let Some(info) = build_info::read(&elf)? else { return Ok(fact) };
        let modules = Modules::parse(&info.modules);
        fact.warnings.extend(modules.left_out());

        let go = |path: String, version: String| Package::new(PackageType::Golang, path, version);
        fact.packages.extend(toolchain(&info.toolchain).map(|version| go("stdlib".to_owned(), version)));
        fact.packages.extend(modules.main_module().map(|main| go(main.path, main.version)));
        fact.packages.extend(modules.dependencies.into_iter().map(|module| {
            let version = if module.version.is_empty() { DEVEL.to_owned() } else { module.version };
            go(module.path, version)
        }));
        Ok(fact)
    }
}

/// Returns whether files with this extension are never programs. All other files with an execute bit are examined.
fn is_no_program(extension: &[u8]) -> bool {
    // A match and not a table, because it is called for every path of an image and the compiler optimizes a match by length and bytes.
    matches!(
        extension,
        b"a" | b"c"
            | b"h"
            | b"m"
            | b"o"
            | b"al"
            | b"gz"
            | b"js"
            | b"md"
            | b"mo"
            | b"pl"
            | b"pm"
            | b"po"
            | b"py"
            | b"rb"
            | b"sh"
            | b"ts"
            | b"xz"
            | b"bz2"
            | b"cfg"
            | b"cjs"
            | b"cmd"
            | b"cpp"
            | b"crt"
            | b"css"
            | b"csv"
            | b"dat"
            | b"dll"
            | b"eot"
            | b"exe"
            | b"gif"
            | b"gpg"
            | b"hpp"
            | b"htm"
            | b"ico"
            | b"ini"
            | b"jar"
            | b"jpg"
            | b"lua"
            | b"map"
            | b"mjs"
            | b"otf"
            | b"pdf"
            | b"pem"
            | b"php"
            | b"png"
            | b"pod"
            | b"pot"
            | b"pth"
            | b"pyc"
            | b"pyd"
            | b"pyi"
            | b"pyo"
            | b"pyx"
            | b"rst"
            | b"sql"
            | b"svg"
            | b"tcl"
            | b"tgz"
            | b"tsx"
            | b"ttf"
            | b"txt"
            | b"war"
            | b"whl"
            | b"xml"
            | b"xsd"
            | b"xsl"
            | b"yml"
            | b"zip"
            | b"zst"
            | b"bash"
            | b"conf"
            | b"dist"
            | b"html"
            | b"java"
            | b"jpeg"
            | b"json"
            | b"list"
            | b"toml"
            | b"woff"
            | b"yaml"
            | b"class"
            | b"prerm"
            | b"typed"
            | b"woff2"
            | b"postrm"
            | b"shlibs"
            | b"md5sums"
            | b"preinst"
            | b"service"
            | b"symbols"
            | b"postinst"
            | b"triggers"
            | b"conffiles"
            | b"templates"
    )
}

/// Returns the version of the toolchain: `1.22.3` for `go1.22.3 X:nocoverageredesign`, `1.23` for `devel go1.23-abcdef Mon Jan 1`.
fn toolchain(version: &[u8]) -> Option<String> {
    let mut words = version.split(|byte| byte.is_ascii_whitespace());
    words
        .find_map(|word| word.strip_prefix(b"go").filter(|rest| rest.first().is_some_and(u8::is_ascii_digit)))
        .and_then(optional)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possible_programs_are_wanted() {
        for (path, expected) in [
            ("usr/bin/kubectl", Want::IfExecutable),
            ("usr/bin/kubectl-1.2", Want::IfExecutable),
            ("usr/bin/app.linux-amd64", Want::IfExecutable),
            ("usr/lib/libx.so", Want::Yes),
            ("usr/lib/libx.so.1.2", Want::Yes),
            ("usr/lib/libx.so.d/app", Want::IfExecutable),
            ("usr/lib/python3/a.py", Want::No),
            ("usr/lib/run.sh", Want::No),
            ("usr/share/zoneinfo/UTC", Want::No),
            ("usr/share/grafana/bin/grafana", Want::IfExecutable),
            ("", Want::No),
        ] {
            assert_eq!(Golang.wants(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn toolchains_are_named_by_their_number() {
        for (version, expected) in [
            ("go1.22.3", Some("1.22.3")),
            ("go1.22.3 X:boringcrypto", Some("1.22.3")),
            ("devel go1.23-abcdef Mon", Some("1.23-abcdef")),
            ("devel +abcdef", None),
            ("gopher", None),
            ("", None),
        ] {
            assert_eq!(toolchain(version.as_bytes()).as_deref(), expected, "{version}");
        }
    }
}
