//! `runtime` and `snapshot` against a real containerd: the machine's, or the one that `OUTCROP_CONTAINERD_BIN` names.
//!
//! Needs root, containerd with its `ctr` and shim, runc, cc and tar; where containerd cannot be started each test says so
//! and passes.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::runtime_parts::image::{self, Image};
use crate::runtime_parts::{Containerd, until};
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{Container as Wire, CreateContainerRequest, UpdateContainerRequest};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Request, Status as TonicStatus};
use outcrop_agent::runtime::containerd::Client;
use outcrop_agent::runtime::{Error, Pin, Plan, Sibling, role};
use outcrop_agent::snapshot::{Located, locate};
use outcrop_proto::{Container, CoverageState, Status};

/// Asks as the tests need it: one thread, and a connection of its own.
fn ask<T>(containerd: &Containerd, question: impl AsyncFnOnce(&mut Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { question(&mut Client::connect(Some(&containerd.socket())).await.unwrap()).await })
}

fn list(containerd: &Containerd, namespaces: &[&str]) -> Result<Vec<Container>, Error> {
    let namespaces: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
    let plan = ask(containerd, async |client| client.list(&namespaces).await)?;
    assert_eq!(plan.gaps, []);
    Ok(plan.containers)
}

fn ids(containers: &[Container]) -> Vec<(&str, &str)> {
    containers.iter().map(|c| (c.key.namespace.as_str(), c.key.id.as_str())).collect()
}

/// The diff IDs of each config that was handed on.
fn diff_ids(container: &Container) -> Vec<Vec<String>> {
    let parse = |config: &Vec<u8>| {
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        serde_json::from_value(config["rootfs"]["diff_ids"].clone()).unwrap()
    };
    container.configs.iter().map(parse).collect()
}

/// Gives a container the extension that the CRI plugin would have written. There is no CRI client here, and what is read is
/// the record.
fn mark(containerd: &Containerd, namespace: &str, id: &str, extension: &str, json: &str) {
    let mut update = UpdateContainerRequest { container: Some(record(id, extension, json)), ..Default::default() };
    update.update_mask.get_or_insert_default().paths.push("extensions".into());
    let update = about(namespace, update);
    unguarded(containerd, async |client| client.update(update).await.map(drop));
}

/// A container's record with an extension.
fn record(id: &str, extension: &str, json: &str) -> Wire {
    let mut record = Wire { id: id.into(), ..Default::default() };
    let any = record.extensions.entry(extension.to_owned()).or_default();
    any.type_url = "github.com/containerd/cri/pkg/store/Metadata".into();
    any.value = json.into();
    record
}

fn about<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
    request
}

/// Does to records what our own client cannot.
fn unguarded(
    containerd: &Containerd,
    act: impl AsyncFnOnce(&mut ContainersClient<Channel>) -> Result<(), TonicStatus>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = containerd_client::connect(containerd.socket()).await.unwrap();
        act(&mut ContainersClient::new(channel)).await.unwrap();
    });
}

const CONTAINER: &str = "io.cri-containerd.container.metadata";
const SANDBOX: &str = "io.cri-containerd.sandbox.metadata";

fn of_pod(name: &str, sandbox: &str) -> String {
    format!(
        r#"{{"Version":"v1","Metadata":{{"SandboxID":{sandbox:?},"Config":{{"metadata":{{"name":{name:?}}},"labels":
        {{"io.kubernetes.pod.name":"shop-7d","io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.uid":"5a1e"}}}}}}}}"#
    )
}

#[test]
fn containers_of_every_namespace_come_with_their_chain_layers_and_config() {
    let Some(containerd) = Containerd::start() else { return };
    let three = image::build(containerd.dir(), "three:1", 3);
    let one = image::build(containerd.dir(), "one:1", 1);
    for namespace in ["default", "other"] {
        containerd.import(namespace, &three);
        containerd.import(namespace, &one);
    }
    containerd.run("default", &three, "web");
    containerd.run("default", &one, "small");
    containerd.run("other", &three, "web");
    containerd.run_program("default", &one, "ended", &["/pause", "no"]);
    containerd.wait_ended("default", "ended");
    let before = ["default", "other"].map(|namespace| containerd.everything(namespace));

    let listed = list(&containerd, &[]).unwrap();
    assert_eq!(ids(&listed), [("default", "small"), ("default", "web"), ("other", "web")]);
    for container in &listed {
        let image = if container.key.id == "web" { &three } else { &one };
        assert_eq!(container.status, Status::Running);
        assert!(!container.sandbox, "an image's label makes no sandbox");
        assert_eq!(container.pod, None, "an image's label makes no pod");
        assert_eq!(container.storage_driver, "overlayfs");
        assert_eq!(container.image, image.name);
        assert_eq!(container.chain, image.chain(), "{container:?}");
        assert_eq!(container.refused, None);
        assert_eq!(diff_ids(container), std::slice::from_ref(&image.diff_ids));
        assert_layers(container, image);
    }

    assert_eq!(ids(&list(&containerd, &["other"]).unwrap()), [("other", "web")]);
    let absent = list(&containerd, &["othr"]).unwrap_err().to_string();
    assert!(absent.contains("\"othr\"") && absent.contains("default, other"), "{absent}");
    let after = ["default", "other"].map(|namespace| containerd.everything(namespace));
    assert_eq!(before, after, "asking changes nothing");

    let snapshotters = ask(&containerd, async |client| client.storage_drivers().await).unwrap();
    let overlayfs = snapshotters.iter().find(|snapshotter| snapshotter.name == "overlayfs").unwrap();
    assert_eq!(overlayfs.root.as_deref(), Some(&*containerd.dir().join("root/io.containerd.snapshotter.v1.overlayfs")));
}

/// Each layer root holds that layer's own file and no other's.
fn assert_layers(container: &Container, image: &Image) {
    let Located::Stack(stack) = locate(container, Path::new("/")) else { panic!("{:?}", container.mounts) };
    assert_eq!(stack.layers.len(), image.diff_ids.len());
    assert!(stack.upper.is_some_and(|upper| upper.is_dir()));
    for (at, layer) in stack.layers.iter().enumerate() {
        let own = image.diff_ids.len() - 1 - at;
        for number in 0..image.diff_ids.len() {
            let file = layer.root.join(format!("layer-{number}"));
            assert_eq!(file.exists(), number == own, "{file:?}");
        }
        assert_eq!(layer.snapshot, container.chain[at]);
    }
}

#[test]
fn what_has_ended_is_listed_while_its_sandbox_lives() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image::build(containerd.dir(), "one:1", 1);
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "pause");
    for id in ["init", "web"] {
        let program: &[&str] = if id == "init" { &["/pause", "no"] } else { &["/pause"] };
        containerd.run_program("k8s.io", &image, id, program);
        mark(&containerd, "k8s.io", id, CONTAINER, &of_pod(id, "pause"));
    }
    let sandbox =
        r#"{"Version":"v1","Metadata":{"Config":{"metadata":{"name":"shop-7d","namespace":"shop","uid":"5a1e"}}}}"#;
    mark(&containerd, "k8s.io", "pause", SANDBOX, sandbox);
    containerd.wait_ended("k8s.io", "init");
    // The CRI plugin deletes the tasks of containers that have ended.
    containerd.ctr("k8s.io", &["tasks", "rm", "init"]);

    let listed = list(&containerd, &["k8s.io"]).unwrap();
    let seen: HashMap<&str, _> = listed.iter().map(|c| (c.key.id.as_str(), (c.status, c.sandbox))).collect();
    let expected =
        [("pause", (Status::Running, true)), ("init", (Status::Exited, false)), ("web", (Status::Running, false))];
    assert_eq!(seen, HashMap::from(expected));
    for container in &listed {
        assert_eq!(container.pod.as_ref().map(|pod| pod.name.as_str()), Some("shop-7d"));
        assert_eq!(container.sandbox, container.chain.is_empty(), "nothing is asked about a sandbox");
        assert!(container.sandbox || matches!(locate(container, Path::new("/")), Located::Stack(_)));
    }

    containerd.ctr("k8s.io", &["tasks", "rm", "--force", "pause"]);
    assert_eq!(ids(&list(&containerd, &["k8s.io"]).unwrap()), [("k8s.io", "web")]);
}

#[test]
fn a_tag_that_moves_under_a_running_container_changes_nothing_that_is_said_of_it() {
    let Some(containerd) = Containerd::start() else { return };
    let old = image::build(containerd.dir(), "app:1", 3);
    let new = image::build(containerd.dir(), "next:1", 3);
    for image in [&old, &new] {
        containerd.import("default", image);
    }
    containerd.run("default", &old, "app");
    // A second name keeps the old config from being collected, as the CRI plugin's record by digest does.
    containerd.ctr("default", &["images", "tag", &old.name, "docker.io/library/kept:1"]);
    containerd.ctr("default", &["images", "tag", "--force", &new.name, &old.name]);

    let listed = list(&containerd, &[]).unwrap();
    let [app] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!(app.image, old.name, "the name, which now means the other image");
    assert_eq!(app.chain, old.chain());
    assert_ne!(old.diff_ids, new.diff_ids);
    assert!(!diff_ids(app).contains(&new.diff_ids), "the other image's config is not handed on");
    assert_eq!(diff_ids(app), std::slice::from_ref(&old.diff_ids), "its own config is still found by its chain");
    assert_layers(app, &old);
}

#[test]
fn configs_of_other_images_with_the_same_layers_are_candidates_and_the_recorded_one_comes_first() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image::build(containerd.dir(), "app:1", 2);
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "app");
    let config = list(&containerd, &[]).unwrap()[0].configs[0].clone();

    // No config is tied to this chain any more, so that only the record's own digest leads to it.
    let digest = containerd.ctr("k8s.io", &["content", "ls"]);
    let line = digest.lines().find(|line| line.contains("gc.ref.snapshot.overlayfs")).unwrap();
    let digest = line.split_whitespace().next().unwrap();
    containerd.ctr("k8s.io", &["content", "label", digest, "containerd.io/gc.ref.snapshot.overlayfs="]);
    assert_eq!(list(&containerd, &[]).unwrap()[0].configs, Vec::<Vec<u8>>::new());
    let metadata = format!(r#"{{"Version":"v1","Metadata":{{"ImageRef":{digest:?}}}}}"#);
    mark(&containerd, "k8s.io", "app", CONTAINER, &metadata);
    assert_eq!(list(&containerd, &[]).unwrap()[0].configs, [config]);
}

#[test]
fn a_container_on_another_snapshotter_is_described_or_refused_with_its_reason() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image::build(containerd.dir(), "app:1", 2);
    containerd.import("default", &image);
    containerd.run_on("native", "default", &image, "copy", &["/pause"]);
    // Records as lazy snapshotters and Docker leave them; with a sandbox that is not here, so that they are listed.
    for (id, snapshotter) in [("lazy", "stargz"), ("unknown", "acme"), ("unloaded", "zfs"), ("docker", "")] {
        let mut record = record(id, CONTAINER, &of_pod(id, "elsewhere"));
        record.image = image.name.clone();
        record.runtime = Some(Runtime { name: "io.containerd.runc.v2".into(), options: None });
        record.spec = Some(Default::default());
        record.snapshotter = snapshotter.into();
        record.snapshot_key = if snapshotter.is_empty() { String::new() } else { id.into() };
        let create = about("default", CreateContainerRequest { container: Some(record) });
        unguarded(&containerd, async |client| client.create(create).await.map(drop));
    }

    let listed = list(&containerd, &[]).unwrap();
    let by_id: HashMap<&str, &Container> = listed.iter().map(|c| (c.key.id.as_str(), c)).collect();
    let copy = by_id["copy"];
    assert_eq!(copy.chain, image.chain());
    assert_eq!(diff_ids(copy), std::slice::from_ref(&image.diff_ids));
    let Located::Merged(merged) = locate(copy, Path::new("/")) else { panic!("{copy:?}") };
    assert!(merged.root.join("layer-0").exists() && merged.root.join("layer-1").exists());

    let cases = [
        ("lazy", CoverageState::Unsupported, "fetches layers from the registry"),
        ("unknown", CoverageState::Unsupported, "is not known"),
        ("unloaded", CoverageState::Failed, "reading snapshot"),
        ("docker", CoverageState::Unsupported, "names no snapshotter"),
    ];
    for (id, state, words) in cases {
        let Located::Not(coverage) = locate(by_id[id], Path::new("/")) else { panic!("{id} is located") };
        assert_eq!(coverage.state, state, "{id}: {}", coverage.reason);
        assert!(coverage.reason.contains(words), "{id}: {}", coverage.reason);
        assert!(by_id[id].mounts.is_empty());
    }
}

#[test]
fn the_second_look_sees_that_a_container_is_gone_or_stands_on_other_snapshots() {
    let Some(containerd) = Containerd::start() else { return };
    let old = image::build(containerd.dir(), "app:1", 3);
    let new = image::build(containerd.dir(), "next:1", 3);
    for image in [&old, &new] {
        containerd.import("default", image);
    }
    containerd.run("default", &old, "app");
    let app = list(&containerd, &[]).unwrap().remove(0);
    let same = || ask(&containerd, async |client| client.recheck(&Pin::from(&app)).await).unwrap();
    assert!(same());
    containerd.remove("default", "app");
    assert!(!same(), "gone");
    containerd.run("default", &new, "app");
    assert!(!same(), "the same name and key, another image");
    containerd.remove("default", "app");
    containerd.run("default", &old, "app");
    assert!(same(), "the same image again");
}

#[test]
fn containerd_stopped_between_two_questions_is_said_in_words() {
    let Some(mut containerd) = Containerd::start() else { return };
    let socket = containerd.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(Some(&socket)).await.unwrap();
        assert_eq!(client.list(&[]).await.unwrap(), Plan::default());
        containerd.stop();
        let error = client.list(&[]).await.unwrap_err();
        assert!(matches!(error, Error::Gone(..)), "{error:?}");
        assert!(error.to_string().starts_with("listing namespaces: containerd closed the connection"), "{error}");
        let error = Client::connect(Some(&socket)).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_) | Error::NotThere(_)), "{error}");
    });
}

#[tokio::test]
async fn something_else_on_the_socket_is_not_taken_for_containerd() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("http.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = Client::connect(Some(&socket)).await.unwrap_err();
    assert!(matches!(error, Error::NotContainerd(..)), "{error:?}");
    assert!(error.to_string().contains("--containerd SOCKET"), "{error}");
    server.join().unwrap();
}

// The role: the test's own program, run again.

const ROLE_SOCKET: &str = "OUTCROP_TEST_ROLE_SOCKET";
const ROLE_LOCK: &str = "OUTCROP_TEST_ROLE_LOCK";

/// Not a test of its own: what the child of the tests below does.
#[test]
fn role_of_the_child() {
    let Some(socket) = std::env::var_os(ROLE_SOCKET) else { return };
    let lock = || match std::env::var(ROLE_LOCK) {
        Ok(error) => Err(error),
        Err(_) => Ok("none".to_owned()),
    };
    let end = role::serve::<Client, _>(role::from_stdin().unwrap(), Some(Path::new(&socket)), None, lock);
    std::process::exit(i32::from(end.is_err()));
}

fn child(socket: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "runtime::role_of_the_child", "--nocapture"])
        .env(ROLE_SOCKET, socket)
        .stdout(Stdio::null());
    command
}

#[test]
fn a_child_asks_and_its_parent_gets_the_same_answers() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image::build(containerd.dir(), "app:1", 3);
    containerd.import("default", &image);
    containerd.run("default", &image, "app");

    let mut sibling = Sibling::spawn(child(&containerd.socket())).unwrap();
    assert_eq!(Path::new(sibling.socket()), containerd.socket());
    assert!(!sibling.version().is_empty());
    eprintln!("on containerd {}", sibling.version());
    let Plan { containers: listed, gaps } = sibling.list(&[]).unwrap();
    assert_eq!(gaps, []);
    assert_eq!(listed, list(&containerd, &[]).unwrap());
    assert!(sibling.recheck(&listed[0]).unwrap());
    assert_eq!(
        sibling.storage_drivers().unwrap(),
        ask(&containerd, async |client| client.storage_drivers().await).unwrap()
    );
    let error = sibling.list(&["absent".into()]).unwrap_err().to_string();
    assert!(error.contains("no namespace \"absent\""), "{error}");
    containerd.remove("default", "app");
    assert!(!sibling.recheck(&listed[0]).unwrap(), "a failed question leaves the next one its turn");

    let pid = sibling.pid().unwrap();
    drop(sibling);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the child ends with its stream");
}

#[test]
fn what_keeps_a_child_from_serving_is_said_by_its_parent() {
    let absent = Sibling::spawn(child(Path::new("/nowhere/containerd.sock"))).unwrap_err().to_string();
    assert!(absent.contains("no socket at \"/nowhere/containerd.sock\""), "{absent}");

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = child(&socket);
    command.env(ROLE_LOCK, "the kernel has no seccomp");
    let locked = Sibling::spawn(command).unwrap_err().to_string();
    assert!(locked.contains("dropping rights") && locked.contains("no seccomp"), "{locked}");

    let silent = Sibling::spawn(child(&socket)).unwrap_err().to_string();
    assert!(silent.contains("did not respond within"), "{silent}");

    let ended = Sibling::spawn(Command::new("/bin/false")).unwrap_err().to_string();
    assert!(ended.contains("has ended: exit code 1"), "{ended}");
    assert!(matches!(Sibling::spawn(Command::new("/nowhere/program")), Err(Error::Spawn(_))));
}

#[test]
fn a_child_that_dies_is_reported_once_and_not_asked_again() {
    let Some(containerd) = Containerd::start() else { return };
    let mut sibling = Sibling::spawn(child(&containerd.socket())).unwrap();
    let pid = rustix::process::Pid::from_raw(sibling.pid().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::SYS).unwrap();
    // Until then it may still answer.
    let stat = format!("/proc/{}/stat", sibling.pid().unwrap());
    until("the child's death", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
    let died = sibling.list(&[]).unwrap_err().to_string();
    assert!(died.contains("signal 31"), "{died}");
    let again = sibling.list(&[]).unwrap_err().to_string();
    assert!(again.contains("accepts no requests"), "{again}");
}

#[test]
fn a_child_in_the_middle_of_a_question_ends_when_its_parent_hangs_up() {
    // A containerd that takes the connection and says nothing: the child waits for it.
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = child(&socket);
    let mut process = command.stdin(std::os::fd::OwnedFd::from(theirs)).spawn().unwrap();
    drop(command);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let start = std::time::Instant::now();
    drop(ours);
    until("the child's end", || process.try_wait().unwrap().is_some());
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
}
