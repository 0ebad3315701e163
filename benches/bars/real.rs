//! Real parts: containerds, agents and one aggregator, and how long it takes until something is known.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::load::count;
use super::parts::Containerd;
use super::parts::image::Image;
use super::service::{Running, Service, memory, token, until};
use super::table::{Table, mib, millis, quantile, seconds};

/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// The images that `tests/containerd/images` makes.
const IMAGES: [&str; 6] = ["debian", "python-app", "node-app", "java-app", "layers", "go-app"];

/// What runs in containers: every image has Debian's programs.
const SLEEP: [&str; 2] = ["/bin/sleep", "86400"];

/// Where images and tools are.
fn cache() -> PathBuf {
    PathBuf::from(std::env::var_os("OUTCROP_CACHE").expect("benches/service names the cache"))
}

fn image(name: &str) -> Image {
    let archive = cache().join(format!("images/{name}.tar"));
    assert!(archive.exists(), "{} is not there: tests/containerd/images makes it", archive.display());
    Image { name: format!("outcrop.example/{name}:1"), archive, diff_ids: Vec::new() }
}

fn start_service() -> Service {
    Service::start(["one", "two"].map(str::to_owned).into_iter(), &[])
}

/// An agent on a node.
fn agent(service: &Service, node: &str, containerd: &Containerd) -> Running {
    let program = Path::new(env!("CARGO_BIN_EXE_outcrop")).with_file_name("outcrop-agent");
    let token_file = service.at(&format!("{node}.token"));
    fs::write(&token_file, token(node)).unwrap();
    let log = fs::File::options().create(true).append(true).open(service.at(&format!("{node}.log"))).unwrap();
    let child = Command::new(&program)
        .args(["run", "--aggregator", &format!("https://{}", service.listen), "--cluster", "scale", "--node", node])
        .arg("--ca")
        .arg(service.at("cert.pem"))
        .arg("--token-file")
        .arg(token_file)
        .arg("--containerd")
        .arg(containerd.socket())
        .stdin(Stdio::null())
        .stderr(log)
        .spawn();
    Running(child.unwrap_or_else(|error| panic!("{}: {error} (build with --workspace)", program.display())))
}

/// A process and all below it.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> =
            children.flat_map(|line| line.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
        all.extend(children);
        next += 1;
    }
    all
}

fn resident(root: u32) -> u64 {
    tree(root).into_iter().map(|pid| memory(pid, "VmRSS")).sum()
}

/// Processor time of a process and all below it, to the nanosecond.
fn cpu(root: u32) -> Duration {
    let tasks = tree(root).into_iter().flat_map(|pid| {
        fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok).collect::<Vec<_>>()
    });
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The container, once its findings are there.
fn found(service: &Service, node: &str, id: &str) -> Option<Value> {
    let containers = service.all(&format!("/api/v1/containers?node={node}&name={id}"));
    containers.into_iter().find(|container| {
        container["id"] == id
            && matches!(container["coverage"]["state"].as_str(), Some("scanned" | "partial"))
            && container["findings"].as_object().is_some_and(|findings| !findings.is_empty())
    })
}

/// Starts a container; the time until its start was done, and until its findings were there, both from the order to start it.
fn time(service: &Service, containerd: &Containerd, image: &Image, id: &str) -> (Duration, Duration) {
    let start = Instant::now();
    containerd.run_program("k8s.io", image, id, &SLEEP);
    let started = start.elapsed();
    while found(service, "one", id).is_none() {
        assert!(start.elapsed() < PATIENCE, "{id}: waited in vain; {}", service.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    (started, start.elapsed())
}

fn settle(service: &Service, containers: u64) {
    until("all containers to be looked into", PATIENCE, || {
        let status = service.status();
        status["containers"] == containers && count(&status, "pending") == 0
    });
}

/// All of it; says so where there is no containerd.
pub(crate) fn whole(table: &mut Table) {
    if fs::read_dir(cache().join("images")).is_err() {
        table.row("real parts", format!("no images in {}", cache().display()), "there", false);
        return;
    }
    never_seen(table);
    known(table);
    short(table);
    two_nodes(table);
    large(table);
}

/// Images of which nobody has seen a layer, each by a new aggregator.
fn never_seen(table: &mut Table) {
    for name in ["java-app", "python-app", "node-app"] {
        let Some(containerd) = Containerd::start() else { return };
        let (service, image) = (start_service(), image(name));
        containerd.import("k8s.io", &image);
        let _agent = agent(&service, "one", &containerd);
        until("the agent to attach", PATIENCE, || service.status()["nodes"]["attached"] == 1);
        std::thread::sleep(Duration::from_secs(1));
        let size = fs::metadata(&image.archive).unwrap().len();
        let (started, found) = time(&service, &containerd, &image, "web");
        let what = format!("{name}, never seen, {}: start to findings ({} to start it)", mib(size), seconds(started));
        table.row(&what, seconds(found), "< 3 s", found < Duration::from_secs(3));
        containerd.remove("k8s.io", "web");
    }
}

/// Containers whose layers are known, one after the other; then a hundred of them, and nothing happens.
fn known(table: &mut Table) {
    let Some(containerd) = Containerd::start() else { return };
    let (service, image) = (start_service(), image("python-app"));
    containerd.import("k8s.io", &image);
    let agent = agent(&service, "one", &containerd);
    time(&service, &containerd, &image, "first");
    let times: Vec<(Duration, Duration)> =
        (0..50).map(|number| time(&service, &containerd, &image, &format!("known-{number}"))).collect();
    let whole: Vec<Duration> = times.iter().map(|(_, found)| *found).collect();
    let after: Vec<Duration> = times.iter().map(|(started, found)| found.saturating_sub(*started)).collect();
    let p95 = quantile(&whole, 0.95);
    table.row("known layers: start to findings, p95 of 50", millis(p95), "< 1 s", p95 < Duration::from_secs(1));
    table.note("of that after the start was done, p95", millis(quantile(&after, 0.95)));
    for number in 50..99 {
        containerd.run_program("k8s.io", &image, &format!("known-{number}"), &SLEEP);
    }
    settle(&service, 100);
    std::thread::sleep(Duration::from_secs(10));
    let root = agent.0.id();
    let before = cpu(root);
    std::thread::sleep(Duration::from_secs(60));
    let used = cpu(root).saturating_sub(before).as_secs_f64() / 60.0 * 100.0;
    let idle = resident(root);
    table.row("agent, all roles, idle with 100 containers", mib(idle), "<= 24 MiB", idle <= 24 << 20);
    table.row(
        "agent's processor time over 60 s in which nothing happens",
        format!("{used:.3} % of a core"),
        "< 0.1 %",
        used < 0.1,
    );
    containerd.remove("k8s.io", "first");
    (0..99).for_each(|number| containerd.remove("k8s.io", &format!("known-{number}")));
}

/// Containers that live for two seconds.
fn short(table: &mut Table) {
    let Some(containerd) = Containerd::start() else { return };
    let service = start_service();
    let images: Vec<Image> = IMAGES.map(image).into_iter().collect();
    images.iter().for_each(|image| containerd.import("k8s.io", image));
    let _agent = agent(&service, "one", &containerd);
    until("the agent to attach", PATIENCE, || service.status()["nodes"]["attached"] == 1);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 200 {
                        return;
                    }
                    let id = format!("short-{number}");
                    let image = &images[number as usize % images.len()];
                    containerd.run_program("k8s.io", image, &id, &["/bin/sleep", "2"]);
                    containerd.wait_ended("k8s.io", &id);
                    containerd.remove("k8s.io", &id);
                }
            });
        }
    });
    let mut status = Value::Null;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        status = service.status();
        if status["containers"] == 0 && status["lifetimes"]["seen"] == 200 {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let lifetimes = &status["lifetimes"];
    println!("  {lifetimes}");
    let ended: u64 = lifetimes["ended"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    let pending = lifetimes["ended"]["pending"].as_u64().unwrap_or_default();
    let accounted = ended - pending;
    let what = "containers of two seconds, each with how it was seen";
    table.row(
        what,
        format!("{accounted} of {}", lifetimes["seen"]),
        "200 of 200",
        accounted == 200 && lifetimes["seen"] == 200,
    );
    table.note("of these scanned while they lived", lifetimes["ended"]["scanned"].to_string());
    table.note("of these gone before reading", lifetimes["gone_before_reading"].to_string());
}

/// Two generations of containerd with the same six images.
fn two_nodes(table: &mut Table) {
    let newer = std::env::var_os("OUTCROP_NEWER_CONTAINERD").map(PathBuf::from).unwrap_or_default();
    let is_there = newer.join("containerd").exists();
    if !is_there {
        println!("SKIPPED: containerd 2.4 is not in {:?}: tests/cluster/binaries builds it", newer);
    }
    let (Some(first), Some(second)) = (Containerd::start_from(None), Containerd::start_from(is_there.then_some(newer)))
    else {
        return;
    };
    let service = start_service();
    let images = IMAGES.map(image);
    for containerd in [&first, &second] {
        images.iter().for_each(|image| containerd.import("k8s.io", image));
        images.iter().zip(IMAGES).for_each(|(image, name)| containerd.run_program("k8s.io", image, name, &SLEEP));
    }
    let _agents = [agent(&service, "one", &first), agent(&service, "two", &second)];
    settle(&service, 12);
    let status = service.status();
    println!("  {}", status["reports"]);
    let (known, read) = (&status["layers"]["known"], &status["reports"]["inventories"]);
    let layers: BTreeSet<String> =
        service.all("/api/v1/layers").iter().filter_map(|layer| layer["id"].as_str().map(str::to_owned)).collect();
    let right = known == read && *known == layers.len() && count(&status, "scanned") == 12;
    let versions = if is_there { "1.6 and 2.4" } else { "1.6 twice" };
    table.row(
        &format!("two nodes (containerd {versions}), six images: layers read"),
        format!("{read} of {known}"),
        "each once",
        right,
    );
    table.row("that comparison has both generations", is_there.to_string(), "true", is_there);
    table.note("cross-reads, counted apart", status["reports"]["verified"].to_string());
    for containerd in [&first, &second] {
        IMAGES.iter().for_each(|name| containerd.remove("k8s.io", name));
    }
}

/// An image with a layer of two gibibytes: the demo's layers, again and again.
fn two_gibibytes() -> Image {
    let name = "two-gibibytes";
    let archive = cache().join(format!("images/{name}.tar"));
    if !archive.exists() {
        let layer = tempfile::tempdir_in(cache()).unwrap();
        let root = layer.path().join("layer/srv");
        fs::create_dir_all(&root).unwrap();
        let size = || -> u64 {
            let output = Command::new("du").args(["-s", "--apparent-size", "-B1"]).arg(&root).output().unwrap();
            String::from_utf8_lossy(&output.stdout).split('\t').next().and_then(|size| size.parse().ok()).unwrap()
        };
        for copy in 0..100 {
            let part = ["python-app/2", "node-app/1", "java-app/1", "java-app/2", "go-app/1"][copy % 5];
            let from = cache().join("layers").join(part);
            let copied = Command::new("cp").arg("-a").arg(from).arg(root.join(format!("copy-{copy}"))).status();
            assert!(copied.unwrap().success());
            if size() >= 2 << 30 {
                break;
            }
        }
        let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containerd/mkoci.py"))
            .arg(&archive)
            .arg(format!("outcrop.example/{name}:1"))
            .arg("--from")
            .arg(cache().join("images/debian.tar"))
            .arg(layer.path().join("layer"))
            .status();
        assert!(made.unwrap().success());
    }
    image(name)
}

/// The agent's memory while a large image is read.
fn large(table: &mut Table) {
    let Some(containerd) = Containerd::start() else { return };
    let (service, image) = (start_service(), two_gibibytes());
    containerd.import("k8s.io", &image);
    let agent = agent(&service, "one", &containerd);
    until("the agent to attach", PATIENCE, || service.status()["nodes"]["attached"] == 1);
    let (root, stop, most) = (agent.0.id(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let watcher = std::thread::spawn({
        let (stop, most) = (Arc::clone(&stop), Arc::clone(&most));
        move || {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(resident(root), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let (_, found) = time(&service, &containerd, &image, "large");
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    let most = most.load(Ordering::Relaxed);
    table.row("agent, all roles, while an image of 2 GiB is read", mib(most), "<= 96 MiB", most <= 96 << 20);
    table.note("that image: start to findings", seconds(found));
    containerd.remove("k8s.io", "large");
}
