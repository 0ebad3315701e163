//! `tests/prerequisites` installs missing packages, and does not damage installed ones.
//!
//! The real apt and dpkg work on a root directory of the test's own, with a repository of the test's own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::skip::skip;

/// Programs that the script and the packages' scripts use; everything else is missing.
const PROGRAMS: [&str; 16] = [
    "apt-get",
    "awk",
    "bash",
    "cat",
    "chmod",
    "dpkg",
    "id",
    "mktemp",
    "paste",
    "rm",
    "sh",
    "tar",
    "dpkg-deb",
    "dpkg-split",
    "start-stop-daemon",
    "ldconfig",
];

/// A machine's packages, in a directory.
struct Machine(tempfile::TempDir);

impl Machine {
    /// A machine on which `installed`, a stanza of dpkg's status file, is installed. `None` where there is no apt.
    fn new(installed: &str) -> Option<Self> {
        let machine = Self(tempfile::tempdir().unwrap());
        let folders = ["bin", "repository", "root/var/lib/dpkg/info", "root/var/lib/dpkg/updates", "root/usr/bin"];
        for folder in folders.into_iter().chain(["apt/state/lists/partial", "apt/cache/archives/partial", "apt/log"]) {
            fs::create_dir_all(machine.at(folder)).unwrap();
        }
        for name in PROGRAMS {
            let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
            let Some(program) = places.iter().find(|path| path.exists()) else {
                skip("tools", format!("no {name}"));
                return None;
            };
            symlink(program, machine.at("bin").join(name)).unwrap();
        }
        if !rustix::process::geteuid().is_root() {
            skip("root", "installing packages, into a directory");
            return None;
        }
        let installed = if installed.is_empty() { String::new() } else { format!("{installed}\n") };
        fs::write(machine.at("root/var/lib/dpkg/status"), installed).unwrap();
        let place = |name: &str| machine.at(name).display().to_string();
        fs::write(
            machine.at("apt.conf"),
            format!(
                "Dir::State {:?};\nDir::State::status {:?};\nDir::Cache {:?};\nDir::Etc::sourcelist {:?};\n\
                 Dir::Etc::sourceparts \"-\";\nDir::Etc::trustedparts \"-\";\nDir::Log {:?};\nAPT::Sandbox::User \"root\";\n\
                 Acquire::Languages \"none\";\nDPkg::Options {{ \"--root={}\"; \"--force-script-chrootless\"; }};\n\
                 DPkg::Pre-Invoke {{}};\nDPkg::Post-Invoke {{}};\nAPT::Update::Post-Invoke {{}};\n",
                place("apt/state"),
                place("root/var/lib/dpkg/status"),
                place("apt/cache"),
                place("sources.list"),
                place("apt/log"),
                place("root"),
            ),
        )
        .unwrap();
        fs::write(machine.at("sources.list"), format!("deb [trusted=yes] file:{} ./\n", place("repository"))).unwrap();
        Some(machine)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Offers a package whose program is called as the package is, with further lines of its control file and a script that runs after
    /// it is unpacked.
    fn offer(&self, name: &str, control: &str, script: &str) {
        let tree = self.at(&format!("tree-{name}"));
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        let fields = format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: of a test\n{control}"
        );
        fs::write(tree.join("DEBIAN/control"), &fields).unwrap();
        let programs = match name {
            "containerd" => vec!["containerd", "ctr", "containerd-shim-runc-v2"],
            _ => vec![name],
        };
        for program in programs {
            self.program(&tree.join("usr/bin").join(program));
        }
        fs::write(tree.join("DEBIAN/postinst"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(tree.join("DEBIAN/postinst"), fs::Permissions::from_mode(0o755)).unwrap();
        let archive = self.at("repository").join(format!("{name}.deb"));
        let built =
            Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).args([&tree, &archive]).output().unwrap();
        assert!(built.status.success(), "{built:?}");
        let size = fs::metadata(&archive).unwrap().len();
        let digest = Command::new("sha256sum").arg(&archive).output().unwrap().stdout;
        let digest = String::from_utf8(digest).unwrap().split(' ').next().unwrap().to_owned();
        let index = self.at("repository/Packages");
        let before = fs::read_to_string(&index).unwrap_or_default();
        fs::write(index, format!("{before}{fields}Filename: ./{name}.deb\nSize: {size}\nSHA256: {digest}\n\n"))
            .unwrap();
    }

    fn program(&self, path: &Path) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, packages: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prerequisites");
        let path = format!("{}:{}", self.at("bin").display(), self.at("root/usr/bin").display());
        let mut command = Command::new("bash");
        command.arg(script).args(packages).env_clear().env("PATH", path).env("APT_CONFIG", self.at("apt.conf"));
        command.output().unwrap()
    }

    /// The names of installed packages.
    fn installed(&self) -> Vec<String> {
        let status = fs::read_to_string(self.at("root/var/lib/dpkg/status")).unwrap();
        let installed = |stanza: &&str| stanza.contains("Status: install ok installed");
        let name = |stanza: &str| stanza.lines().find_map(|line| line.strip_prefix("Package: ")).map(str::to_owned);
        let mut names: Vec<String> = status.split("\n\n").filter(installed).filter_map(name).collect();
        names.sort();
        names
    }
}

/// Docker's package, as it stands in dpkg's status file.
const DOCKER: &str = "Package: containerd.io\nStatus: install ok installed\nMaintainer: nobody\nArchitecture: all\nVersion: 1.7\n\
                      Provides: containerd, runc\nConflicts: containerd, runc\nReplaces: containerd, runc\nDescription: Docker's\n";

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

#[test]
fn commands_on_the_path_are_enough_whoever_put_them_there() {
    let Some(machine) = Machine::new(DOCKER) else { return };
    for program in ["containerd", "ctr", "containerd-shim-runc-v2", "runc"] {
        machine.program(&machine.at("root/usr/bin").join(program));
    }
    // There is no repository: whoever asks apt fails.
    fs::remove_file(machine.at("sources.list")).unwrap();
    fs::remove_file(machine.at("bin/apt-get")).unwrap();
    let output = machine.run(&["containerd", "runc"]);
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
}

#[test]
fn a_package_that_would_have_to_go_is_named_and_stays() {
    let Some(machine) = Machine::new(DOCKER) else { return };
    machine.offer("containerd", "", "exit 0");
    let output = machine.run(&["containerd"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("would replace what is installed: containerd.io"), "{}", text(&output));
    assert_eq!(machine.installed(), ["containerd.io"]);
}

#[test]
fn what_is_missing_is_installed_and_named_and_no_service_is_started_or_enabled() {
    let Some(machine) = Machine::new(DOCKER) else { return };
    let calls = machine.at("calls");
    let script = format!(
        "for name in invoke-rc.d deb-systemd-invoke systemctl service deb-systemd-helper; do command -v $name; done >>{0}\n\
         invoke-rc.d outcrop-none start && systemctl start outcrop-none && deb-systemd-invoke start outcrop-none || exit 1\n\
         deb-systemd-helper --quiet was-enabled outcrop-none.service && exit 1\n\
         deb-systemd-helper enable outcrop-none.service || exit 1\n\
         echo unharmed >>{0}",
        calls.display()
    );
    machine.offer("strace", "Depends: zstd\n", &script);
    machine.offer("zstd", "", "exit 0");
    let output = machine.run(&["strace", "bash"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("installing ") && text(&output).contains("strace"), "{}", text(&output));
    assert_eq!(machine.installed(), ["containerd.io", "strace", "zstd"]);
    let calls = fs::read_to_string(calls).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert!(calls.len() == 6 && calls[5] == "unharmed", "{calls:?}");
    // All were found in one private folder, which is gone.
    let folders: Vec<&Path> = calls[..5].iter().map(|path| Path::new(path).parent().unwrap()).collect();
    assert!(folders.iter().all(|folder| *folder == folders[0] && !folder.exists()), "{folders:?}");
}
