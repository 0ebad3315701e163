//! A containerd of the test's own: own root, state, socket and runc root, never the machine's.

pub(crate) mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use image::Image;

use crate::skip::skip;

/// A private containerd that is stopped, with everything in it, when it is dropped.
pub(crate) struct Containerd {
    dir: tempfile::TempDir,
    bin: Option<PathBuf>,
    child: Child,
}

impl Containerd {
    /// Starts the machine's containerd, or the one in the directory `OUTCROP_CONTAINERD_BIN`. `None`, said aloud, where
    /// that is impossible.
    pub(crate) fn start() -> Option<Self> {
        Self::start_from(std::env::var_os("OUTCROP_CONTAINERD_BIN").map(PathBuf::from))
    }

    /// Starts the containerd in the directory `bin`, or else the machine's.
    pub(crate) fn start_from(bin: Option<PathBuf>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root", "starting containerd");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("outcrop-runtime-").tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let at = |name: &str| dir.path().join(name).display().to_string();
        // CRI, NRI and opt keep state outside of root and state, and are not needed. Garbage is not collected at times of
        // containerd's own choosing: tests compare its storage before and after.
        fs::write(
            &config,
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \
                 \"io.containerd.cri.v1.images\", \"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\", \
                 \"io.containerd.internal.v1.tracing\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
                 [plugins.\"io.containerd.gc.v1.scheduler\"]\nstartup_delay = \"1h\"\n\
                 [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
                at("root"),
                at("state"),
                at("c.sock"),
                at("t.sock"),
            ),
        )
        .unwrap();
        match launch(dir.path(), bin.as_deref()) {
            Ok(child) => Some(Self { dir, bin, child }),
            Err(error) => {
                skip("containerd", error);
                None
            }
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("c.sock")
    }

    /// Stops it by its process ID; its containers live on.
    pub(crate) fn stop(&mut self) {
        self.end_by(rustix::process::Signal::TERM);
    }

    fn end_by(&mut self, signal: rustix::process::Signal) {
        self.signal(signal);
        let _ = self.child.wait();
    }

    /// Sends a signal to it, by its process ID.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal);
    }

    /// Ends it as `kill -9` does, and starts it again on the same state.
    #[allow(dead_code, reason = "not every test that uses the harness restarts it")]
    pub(crate) fn crash(&mut self) {
        self.end_by(rustix::process::Signal::KILL);
        self.child = launch(self.dir.path(), self.bin.as_deref()).unwrap();
    }

    /// Stops it, and starts it again on the same state.
    #[allow(dead_code, reason = "not every test that uses the harness restarts it")]
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = launch(self.dir.path(), self.bin.as_deref()).unwrap();
    }

    /// Runs `ctr` in a namespace; it must succeed.
    pub(crate) fn ctr(&self, namespace: &str, args: &[&str]) -> String {
        let output = self.try_ctr(namespace, args);
        assert!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_ctr(&self, namespace: &str, args: &[&str]) -> Output {
        let program = self.bin.as_ref().map_or("ctr".into(), |bin| bin.join("ctr"));
        let mut command = Command::new(program);
        command.arg("--address").arg(self.socket()).args(["--namespace", namespace]).args(args);
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    pub(crate) fn import(&self, namespace: &str, image: &Image) {
        self.ctr(namespace, &["images", "import", image.archive.to_str().unwrap()]);
    }

    /// Prints the tasks, for a failed test.
    #[allow(clippy::print_stderr, reason = "why a test failed has to be seen")]
    fn print_tasks(&self) {
        for namespace in ["default", "k8s.io"] {
            let output = self.try_ctr(namespace, &["tasks", "ls"]);
            eprintln!("---- tasks of {namespace}\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    /// Starts a container that sleeps.
    pub(crate) fn run(&self, namespace: &str, image: &Image, id: &str) {
        self.run_program(namespace, image, id, &["/pause"]);
    }

    /// Starts a container, and waits for its end where its program ends.
    pub(crate) fn run_program(&self, namespace: &str, image: &Image, id: &str, program: &[&str]) {
        self.run_on("overlayfs", namespace, image, id, program);
    }

    /// The same on a snapshotter of choice.
    pub(crate) fn run_on(&self, snapshotter: &str, namespace: &str, image: &Image, id: &str, program: &[&str]) {
        self.run_with(&["--snapshotter", snapshotter], namespace, image, id, program);
    }

    /// Starts a container with further flags of `ctr run`.
    pub(crate) fn run_with(&self, flags: &[&str], namespace: &str, image: &Image, id: &str, program: &[&str]) {
        let runc = self.dir().join("runc").display().to_string();
        let mut args = vec!["run", "--detach", "--null-io", "--runc-root", &runc];
        args.extend(flags);
        // Whoever removes a container kills all processes of its control group, whose default name has the container's name only.
        let group = format!("/outcrop-test/{}-{id}", self.dir().file_name().unwrap().display());
        args.extend(["--cgroup", &group]);
        args.extend([image.name.as_str(), id]);
        args.extend(program);
        self.ctr(namespace, &args);
    }

    /// Waits until a container's task has ended.
    pub(crate) fn wait_ended(&self, namespace: &str, id: &str) {
        until("the container's end", || {
            let tasks = self.ctr(namespace, &["tasks", "ls"]);
            tasks.lines().any(|line| line.starts_with(id) && line.contains("STOPPED"))
        });
    }

    /// Removes a container and whatever runs in it.
    pub(crate) fn remove(&self, namespace: &str, id: &str) {
        self.try_ctr(namespace, &["tasks", "rm", "--force", id]);
        self.ctr(namespace, &["containers", "rm", id]);
    }

    /// Everything that a question could have changed.
    pub(crate) fn everything(&self, namespace: &str) -> String {
        // Labels come in no order, and ages grow: names are what can be compared.
        let quiet: [&[&str]; 5] = [
            &["leases", "ls", "-q"],
            &["snapshots", "ls"],
            &["content", "ls", "-q"],
            &["images", "ls", "-q"],
            &["containers", "ls", "-q"],
        ];
        quiet
            .map(|args| {
                let mut lines: Vec<String> = self.ctr(namespace, args).lines().map(str::to_owned).collect();
                lines.sort();
                lines.join("\n")
            })
            .join("\n\n")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(self.dir.path());
            self.print_tasks();
        }
        // Containers outlive containerd: to remove them, it must run.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(rustix::process::Signal::CONT);
        } else if let Ok(child) = launch(self.dir.path(), self.bin.as_deref()) {
            self.child = child;
        }
        let lines = |output: Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        for namespace in lines(self.try_ctr("default", &["namespaces", "ls", "-q"])) {
            for id in lines(self.try_ctr(&namespace, &["containers", "ls", "-q"])) {
                self.try_ctr(&namespace, &["tasks", "rm", "--force", &id]);
                self.try_ctr(&namespace, &["containers", "rm", &id]);
            }
        }
        self.stop();
    }
}

fn launch(dir: &Path, bin: Option<&Path>) -> Result<Child, String> {
    let program = bin.map_or("containerd".into(), |bin| bin.join("containerd"));
    let log = fs::File::create(dir.join("containerd.log")).map_err(|error| error.to_string())?;
    let mut command = Command::new(&program);
    command.arg("--config").arg(dir.join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    if let Some(bin) = bin {
        // Its shim lies beside it.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths).map_err(|error| error.to_string())?);
    }
    let mut child = command.spawn().map_err(|error| format!("{program:?}: {error}"))?;
    let start = Instant::now();
    while std::os::unix::net::UnixStream::connect(dir.join("c.sock")).is_err() {
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() || start.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fs::read_to_string(dir.join("containerd.log")).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

/// Prints the end of each log in `dir`.
#[allow(clippy::print_stderr, reason = "why a test failed has to be seen")]
pub(crate) fn print_logs(dir: &Path) {
    const LINES: usize = 60;
    let mut logs: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    for path in logs {
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("loading plugin")).collect();
        eprintln!("---- {}", path.file_name().unwrap_or_default().display());
        lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| eprintln!("{line}"));
    }
}

/// Waits for something that another process does.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
