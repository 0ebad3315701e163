//! The list of modules in a program, as [`debug.BuildInfo`](https://pkg.go.dev/runtime/debug#BuildInfo) prints it: lines of
//! fields split by tabs.

use super::super::CatalogError;
use super::super::field::{MAX_FIELD, field, optional};

/// Version of a module that was built from a source tree instead of a release.
pub(super) const DEVEL: &str = "(devel)";

/// Name that Go gives to a package that was built from a list of files; it identifies nothing.
const FROM_FILES: &str = "command-line-arguments";

/// Maximum number of modules of one program. The largest have 1,500.
const MAX_MODULES: usize = 20_000;

/// A module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) path: String,
    /// Version; empty if the line has none.
    pub(super) version: String,
}

/// The modules of a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Modules {
    /// Path of the main package.
    pub(super) package: Option<String>,
    /// The module of the main package.
    pub(super) main: Option<Module>,
    /// The other modules; a replaced module is the one that was built instead.
    pub(super) dependencies: Vec<Module>,
    /// Number of lines whose module is not kept.
    left_out: usize,
    ldflags: Option<String>,
    revision: Option<String>,
    time: Option<String>,
}

impl Modules {
    /// Parses the lines. Malformed lines are skipped.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut modules = Self::default();
        /// The module that a `=>` line replaces.
        enum Last {
            Main,
            Dependency,
            Nothing,
        }
        let mut last = Last::Nothing;
        // Dependencies that were built from a source tree without a replacement.
        let mut unreleased = Vec::new();
        for line in bytes.split(|&byte| byte == b'\n') {
            let mut fields = line.split(|&byte| byte == b'\t');
            let kind = fields.next().unwrap_or_default();
            match kind {
                b"path" => modules.package = fields.next().and_then(optional),
                b"mod" => {
                    modules.main = modules.kept(module(fields));
                    last = if modules.main.is_some() { Last::Main } else { Last::Nothing };
                }
                b"dep" if modules.dependencies.len() == MAX_MODULES => {
                    modules.left_out += 1;
                    last = Last::Nothing;
                }
                b"dep" => {
                    let module = modules.kept(module(fields));
                    last = if module.is_some() { Last::Dependency } else { Last::Nothing };
                    if module.as_ref().is_some_and(|module| module.version == DEVEL) {
                        unreleased.push(modules.dependencies.len());
                    }
                    modules.dependencies.extend(module);
                }
                b"=>" => {
                    let by = modules.kept(module(fields));
                    let replaced = match last {
                        Last::Main => modules.main.as_mut(),
                        Last::Dependency => modules.dependencies.last_mut(),
                        Last::Nothing => None,
                    };
                    if let (Some(replaced), Some(by)) = (replaced, by) {
                        replace(replaced, by);
                    }
                    unreleased.pop_if(|at| *at + 1 == modules.dependencies.len());
                    last = Last::Nothing;
                }
                b"build" => modules.setting(fields.next().unwrap_or_default()),
                _ => {}
            }
        }
        // The program was built from a list of files. Their module is the dependency without a release.
        if modules.main.as_ref().is_none_or(|main| main.path == FROM_FILES)
            && let [main] = unreleased[..]
        {
            modules.main = Some(modules.dependencies.remove(main));
        }
        modules
    }

    /// Counts a module with a field that is too long.
    fn kept(&mut self, module: Result<Option<Module>, CatalogError>) -> Option<Module> {
        self.left_out += usize::from(module.is_err());
        module.unwrap_or_default()
    }

    /// Returns a warning about modules that are not kept, if there are any.
    pub(super) fn left_out(&self) -> Option<String> {
        let count = self.left_out;
        (count > 0).then(|| {
            format!(
                "{count} modules are left out: beyond {MAX_MODULES}, or with a field of more than {MAX_FIELD} bytes"
            )
        })
    }

    fn setting(&mut self, setting: &[u8]) {
        let Some(equals) = setting.iter().position(|&byte| byte == b'=') else { return };
        let (key, value) = (&setting[..equals], &setting[equals + 1..]);
        match key {
            // Not limited like a field, because flags may list dozens of variables. The reader of the flags handles quotes.
            b"-ldflags" if value.len() <= 64 << 10 => {
                self.ldflags = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"vcs.revision" => self.revision = optional(value),
            b"vcs.time" => self.time = optional(value),
            _ => {}
        }
    }

    /// Returns the main module with the best known version.
    ///
    /// A module that was built from a checkout has the version `(devel)`. It is replaced by the version that the build set with `-ldflags -X`, or
    /// else by a pseudo-version of the revision, as Go since 1.24 and syft do.
    pub(super) fn main_module(&self) -> Option<Module> {
        let main = match &self.main {
            Some(main) if main.path != FROM_FILES => main.clone(),
            // Built without a main module: only the package has a name.
            _ => Module { path: self.package.clone()?, version: String::new() },
        };
        if main.path == FROM_FILES {
            return None;
        }
        if !main.version.is_empty() && main.version != DEVEL {
            return Some(main);
        }
        let flagged = self.ldflags.as_deref().and_then(|flags| flagged_version(flags, &main.path));
        let version = flagged.or_else(|| self.pseudo_version()).unwrap_or_else(|| DEVEL.to_owned());
        Some(Module { path: main.path, version })
    }

    /// `v0.0.0-20240131120000-0123456789ab`
    /// ([specification](https://go.dev/ref/mod#pseudo-versions)).
    fn pseudo_version(&self) -> Option<String> {
        let revision = self.revision.as_deref()?;
        let revision = revision.get(..12).unwrap_or(revision);
        // Go writes RFC 3339 in UTC, whose digits are those of the pseudo-version, in the same order.
        let time: String = self.time.as_deref()?.chars().filter(char::is_ascii_digit).take(14).collect();
        (time.len() == 14).then(|| format!("v0.0.0-{time}-{revision}"))
    }
}

/// Returns the module of a line, or `None` if it names none; an error if a field is too long.
fn module<'b>(mut fields: impl Iterator<Item = &'b [u8]>) -> Result<Option<Module>, CatalogError> {
    let path = field(fields.next().unwrap_or_default())?;
    let version = field(fields.next().unwrap_or_default())?.unwrap_or_default();
    Ok(path.map(|path| Module { path, version }))
}

/// Replaces a module by the one that was built instead. A directory has no module path, so the path of the module is kept; its version is
/// unknown.
fn replace(module: &mut Module, by: Module) {
    if !by.path.starts_with(['.', '/']) {
        module.path = by.path;
    }
    module.version = if by.version.is_empty() { DEVEL.to_owned() } else { by.version };
}

/// Returns the version that `-X main.version=1.2.3` or a variant of it sets, with a leading `v`.
fn flagged_version(flags: &str, main: &str) -> Option<String> {
    let assignments = flags.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\'));
    let assignments = assignments.map(|word| word.trim_start_matches('-').strip_prefix("X=").unwrap_or(word));
    let versions = assignments.filter_map(|word| {
        let (variable, value) = word.split_once('=')?;
        let (package, name) = variable.rsplit_once('.')?;
        let own = package == "main" || package.strip_prefix(main).is_some_and(|rest| rest.starts_with('/'));
        let name = name.to_ascii_lowercase();
        // The version of the toolchain is not a version of the program.
        let rank = match name.as_str() {
            name if name.starts_with("go") => None,
            name if name.ends_with("version") || name.ends_with("ver") => Some(0),
            name if name.ends_with("tag") => Some(1),
            _ => None,
        };
        Some((rank.filter(|_| own)?, semver(value.rsplit('/').next()?)?))
    });
    versions.min_by_key(|(rank, _)| *rank).map(|(_, version)| format!("v{version}"))
}

/// Returns `1.2.3-rc.1` for `v1.2.3-rc.1+meta`: three numbers and a prerelease.
fn semver(value: &str) -> Option<&str> {
    let value = value.strip_prefix('v').unwrap_or(value);
    let end = value.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))).unwrap_or(value.len());
    let version = &value[..end];
    let mut parts = version.splitn(3, '.');
    let mut number = |whole: bool| {
        parts.next().is_some_and(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            digits > 0 && (!whole || digits == part.len())
        })
    };
    (number(true) && number(true) && number(false)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, version: &str) -> Module {
        Module { path: path.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn replacements_win_and_folders_keep_the_path() {
        let modules = Modules::parse(
            b"path\texample.com/m/cmd\nmod\texample.com/m\tv1.0.0\th1:x=\n\
              dep\ta.org/a\tv1.1.0\th1:y=\ndep\ta.org/b\tv1.2.0\n=>\tb.org/fork\tv9.0.0\th1:z=\n\
              dep\ta.org/c\tv0.0.0\n=>\t./staging/c\t(devel)\t\ndep\ta.org/d\tv0.1.0\n=>\t/abs\nodd\tx\n=>\ty\tz\n",
        );
        assert_eq!(modules.main_module(), Some(module("example.com/m", "v1.0.0")));
        assert_eq!(
            modules.dependencies,
            [
                module("a.org/a", "v1.1.0"),
                module("b.org/fork", "v9.0.0"),
                module("a.org/c", DEVEL),
                module("a.org/d", DEVEL),
            ]
        );
    }

    #[test]
    fn modules_that_are_not_kept_are_counted() {
        let long = "x".repeat(MAX_FIELD + 1);
        for (lines, left_out) in [
            ("dep\ta\tv1\n".to_owned(), 0),
            (format!("dep\t{long}\tv1\ndep\ta\t{long}\ndep\ta\tv1\n"), 2),
            (format!("mod\t{long}\tv1\ndep\ta\tv1\n"), 1),
            (format!("dep\ta\tv1\n=>\t{long}\tv1\n"), 1),
            ("dep\ta\tv1\n".repeat(MAX_MODULES + 7), 7),
        ] {
            let modules = Modules::parse(lines.as_bytes());
            assert_eq!((modules.left_out, modules.dependencies.last()), (left_out, Some(&module("a", "v1"))));
            assert_eq!(modules.left_out().is_some(), left_out > 0);
        }
    }

    #[test]
    fn a_main_module_from_a_checkout_gets_the_best_available_version() {
        let main = "path\tm.org/x/cmd\nmod\tm.org/x\t(devel)\t\n";
        let vcs = "build\tvcs.revision=0123456789abcdef\nbuild\tvcs.time=2024-01-31T12:00:01Z\n";
        for (lines, expected) in [
            (String::new(), DEVEL),
            (vcs.to_owned(), "v0.0.0-20240131120001-0123456789ab"),
            (format!("{vcs}build\t-ldflags=\"-s -w -X main.version=1.2.3\"\n"), "v1.2.3"),
            ("build\t-ldflags=-X=m.org/x/internal.gitVersion=v1.30.1-rc.1+abc\n".to_owned(), "v1.30.1-rc.1"),
            ("build\t-ldflags=\"-X 'main.Tag=v2.0.0' -X 'main.Version=v3.0.0'\"\n".to_owned(), "v3.0.0"),
            ("build\t-ldflags=-X main.goVersion=1.22.1 -X main.Tag=release/v2.0.0\n".to_owned(), "v2.0.0"),
            ("build\t-ldflags=-X other.org/y.version=1.2.3 -X main.version=dev\n".to_owned(), DEVEL),
            ("build\tvcs.revision=01\n".to_owned(), DEVEL),
        ] {
            let modules = Modules::parse(format!("{main}{lines}").as_bytes());
            assert_eq!(modules.main_module(), Some(module("m.org/x", expected)), "{lines}");
        }
    }

    #[test]
    fn a_program_without_a_main_module_is_named_by_its_package() {
        for (lines, expected) in [
            ("path\ta.org/cmd\n", Some(module("a.org/cmd", DEVEL))),
            ("path\tcommand-line-arguments\nmod\tcommand-line-arguments\t(devel)\n", None),
            ("path\tcommand-line-arguments\ndep\ta\tv1\n", None),
            ("path\tcommand-line-arguments\ndep\ta\t(devel)\ndep\tb\tv1\n=>\t./b\t(devel)\n", Some(module("a", DEVEL))),
            ("path\tcommand-line-arguments\ndep\ta\t(devel)\ndep\tb\t(devel)\n", None),
            ("", None),
        ] {
            assert_eq!(Modules::parse(lines.as_bytes()).main_module(), expected, "{lines}");
        }
    }
}
