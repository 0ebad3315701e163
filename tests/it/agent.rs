//! The agent with a real containerd, and a test aggregator that records every message.
//!
//! Needs what `tests/it/containerd.rs` needs; where containerd cannot be started each test says so and passes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::agent_parts::relay::Relay;
use crate::agent_parts::{Recorder, agent, in_time, lease, order};
use crate::runtime_parts::Containerd;
use crate::runtime_parts::image::{Image, Layer, build_with};
use outcrop_proto::inventory::Inventory;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{Refusal, v1};
use outcrop_proto::{Budget, Digest, LayerId};
use prost::Message as _;
use rustix::process::Signal;

const BASE: Layer<'static> = &[
    ("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n"),
    ("var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n"),
];
/// Evidence with credentials in it.
const SHOP: Layer<'static> = &[
    (
        "srv/package.json",
        r#"{"name":"shop","version":"1.0.0","_resolved":"https://user:hunter2@example.org/shop.tgz","repository":{"url":"git+https://hunter2@example.org/shop"}}"#,
    ),
    (
        "srv/lib/python3/site-packages/shop-1.0.dist-info/METADATA",
        "Name: shop\nVersion: 1.0\nHome-page: https://u:hunter2@example.org\n",
    ),
    (
        "srv/lib/python3/site-packages/shop-1.0.dist-info/direct_url.json",
        r#"{"url":"https://user:hunter2@example.org/shop"}"#,
    ),
];

fn shop(containerd: &Containerd) -> Image {
    let image = build_with(containerd.dir(), "app:shop", &[BASE, SHOP]);
    containerd.import("k8s.io", &image);
    image
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(7).any(|part| part == b"hunter2")
}

#[test]
fn no_secret_leaves_in_any_message_and_steps_are_told_without_their_texts() {
    let Some(containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    let secrets = ["--env", "TOKEN=hunter2", "--label", "key=hunter2", "--annotation", "note=hunter2"];
    containerd.run_with(&secrets, "k8s.io", &image, "web", &["/pause"]);
    containerd.ctr("k8s.io", &["snapshots", "label", "web", "containerd.io/snapshot/pullsecret=hunter2"]);
    for (more, told) in [(&[][..], false), (&["--history-text"], true)] {
        let recorder = Recorder::start();
        let _agent = recorder.agent(&containerd, more);
        recorder.until("both layers", || recorder.inventories().len() == 2 && !recorder.metrics().is_empty());
        let inventories = recorder.inventories();
        assert!(inventories.values().all(|encoding| !has_secret(encoding)));
        let shop = inventories.values().map(|encoding| Inventory::decode(encoding, &mut Budget::job()).unwrap());
        assert_eq!(shop.map(|inventory| inventory.evidence.len()).sum::<usize>(), 4, "what holds the secrets was read");
        assert!(!recorder.pieces().iter().any(|piece| has_secret(&piece.encode_to_vec())), "{more:?}");
        assert_eq!(recorder.reports().iter().any(|report| has_secret(&report.encode_to_vec())), told, "{more:?}");
        // Newest first, as the layers are; the step that made no layer has a number all the same.
        let steps = &recorder.here()["web"].steps;
        let steps: Vec<_> = steps.iter().map(|step| (step.number, step.keyword.as_str(), step.created)).collect();
        assert_eq!(steps, [(2, "RUN", 1_767_323_045), (1, "RUN", 1_767_323_045)]);
    }
}

#[test]
fn no_secret_is_logged_at_the_finest_level_and_each_step_is_one_event() {
    let Some(containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    let secrets = ["--env", "TOKEN=hunter2", "--label", "key=hunter2", "--annotation", "note=hunter2"];
    containerd.run_with(&secrets, "k8s.io", &image, "web", &["/pause"]);
    containerd.ctr("k8s.io", &["snapshots", "label", "web", "containerd.io/snapshot/pullsecret=hunter2"]);
    let recorder = Recorder::start();
    fs::write(recorder.at("token"), "hunter2\n").unwrap();
    let mut command = recorder.command("run");
    command.args(["--history-text", "--log-format", "json"]).arg("--containerd").arg(containerd.socket());
    let mut running = recorder.run(command.env("OUTCROP_LOG", "trace"), "agent.log");
    recorder.until("both layers", || recorder.inventories().len() == 2);
    recorder.order(lease(vec![LayerId::Diff(Digest::of(b"absent")).into()]));
    recorder.until("an answer", || recorder.unreadable().len() == 1);
    assert_eq!(running.end_by(Signal::TERM), Some(0));
    let log = recorder.log();
    assert!(!has_secret(log.as_bytes()), "{log}");
    assert_eq!(recorder.tokens(), ["Bearer hunter2"]);
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |message: &str| events.iter().filter(|event| event["message"] == message).count();
    let expected =
        [("agent started", 1), ("attached", 1), ("layer read", 2), ("stop requested", 1), ("agent stopped", 1)];
    for (message, times) in expected {
        assert_eq!(count(message), times, "{message}: {log}");
    }
    assert!(count("lease received") >= 2, "{log}");
    let start = events.iter().find(|event| event["message"] == "agent started").unwrap();
    assert_eq!((&start["node"], &start["cage"]), (&"one".into(), &"landlock+seccomp".into()));
    let read = events.iter().find(|event| event["message"] == "layer read").unwrap();
    assert!(read["paths"].as_u64().unwrap() > 1 && read["evidence_bytes"].as_u64().unwrap() > 1, "{read}");
    assert!(read["spans"][0]["id"].as_str().unwrap().contains("sha256:"), "{read}");

    // An address with credentials is refused without them.
    let mut command = agent();
    command.args(["run", "--node", "n", "--aggregator", "https://me:hunter2@192.0.2.1:1", "--token-file"]);
    let output = command.arg(recorder.at("token")).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("https://***@192.0.2.1:1") && !has_secret(said.as_bytes()), "{said}");
}

#[test]
fn a_delivery_that_has_begun_is_finished_after_a_signal() {
    let Some(containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    containerd.run("k8s.io", &image, "web");
    let recorder = Recorder::start();
    recorder.delay_deliveries(Duration::from_secs(1));
    let mut agent = recorder.agent(&containerd, &[]);
    recorder.until("a delivery", || recorder.delivering() > 0);
    assert!(recorder.inventories().is_empty());
    assert_eq!(agent.end_by(Signal::TERM), Some(0));
    assert!(!recorder.inventories().is_empty(), "{}", recorder.log());
}

#[test]
fn an_agent_whose_wire_version_is_refused_says_so_once_and_does_not_press() {
    let Some(containerd) = Containerd::start() else { return };
    let recorder = Recorder::quiet();
    recorder.refuse(Refusal::WireVersion);
    let _agent = recorder.agent(&containerd, &[]);
    recorder.until("an attempt", || recorder.attached() == 1 && recorder.log().contains("agent refused"));
    // Other failures are retried at least twice in this time.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(recorder.attached(), 1);
    let log = recorder.log();
    assert!(log.contains("for the test") && log.contains("wire-version"), "{log}");
    assert_eq!(log.matches("agent refused").count(), 1, "{log}");
}

#[test]
fn an_agent_whose_stream_another_one_replaced_says_why_and_backs_off() {
    let Some(containerd) = Containerd::start() else { return };
    let recorder = Recorder::quiet();
    let _agent = recorder.agent(&containerd, &[]);
    recorder.until("the attachment", || recorder.attached() == 1 && !recorder.reports().is_empty());
    let reason = "another agent with this node's name attached";
    recorder.end(Refusal::Replaced.status(reason));
    recorder.until("the reason", || recorder.log().contains(reason));
    // Any other end is followed by an attempt within half a second.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(recorder.attached(), 1);
    assert!(recorder.log().contains("agent refused") && recorder.log().contains("replaced"), "{}", recorder.log());
    recorder.until("another attempt", || recorder.attached() == 2);
}

#[test]
fn changes_follow_each_other_and_everything_is_told_again_when_asked_and_after_a_reunion() {
    let Some(mut containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    containerd.run("k8s.io", &image, "a");
    let mut recorder = Recorder::quiet();
    let agent = recorder.agent(&containerd, &[]);
    let ids = |recorder: &Recorder| recorder.here().into_keys().collect::<Vec<_>>();
    recorder.until("a", || ids(&recorder) == ["a"]);
    let hello = recorder.all(|report| match report {
        Report::Hello(hello) => Some(hello),
        _ => None,
    });
    assert_eq!((hello[0].node.as_str(), hello[0].cage.as_str(), hello[0].marks), ("one", "landlock+seccomp", true));
    assert!(recorder.reports().iter().all(|report| report.cluster == "test"));
    containerd.run("k8s.io", &image, "b");
    recorder.until("b", || ids(&recorder) == ["a", "b"]);
    containerd.remove("k8s.io", "a");
    recorder.until("a to go", || ids(&recorder) == ["b"]);
    let told = recorder.containers();
    assert!(told[0].full && told[1..].iter().all(|report| !report.full), "{told:#?}");
    assert!(told.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1), "{told:#?}");

    // What an older agent does not know is passed over; what is for another cluster as well.
    let fulls = |recorder: &Recorder| recorder.containers().iter().filter(|report| report.full).count();
    recorder.send(v1::Order { order: None, cluster: "test".to_owned() });
    let resync = || v1::order::Order::Resync(v1::Resync {});
    recorder.send(v1::Order { cluster: "other".to_owned(), ..order(resync()) });
    recorder.order(resync());
    recorder.until("everything again", || fulls(&recorder) == 2);

    // The aggregator goes, its token changes; containerd restarts, and something starts while nobody listens.
    recorder.hang_up();
    fs::write(recorder.at("token"), "second\n").unwrap();
    containerd.restart();
    containerd.run("k8s.io", &image, "c");
    recorder.forget();
    recorder.listen();
    recorder.until("the reunion", || ids(&recorder) == ["b", "c"]);
    assert!(recorder.containers()[0].full);
    assert_eq!(recorder.tokens(), ["Bearer first", "Bearer second"]);
    // Events of the new containerd are heard.
    containerd.run("k8s.io", &image, "d");
    recorder.until("d", || ids(&recorder) == ["b", "c", "d"]);
    assert_eq!(recorder.attached(), 2);
    drop(agent);
}

#[test]
fn every_container_that_lives_for_a_moment_is_told_once_and_gone_once() {
    let Some(containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    let recorder = Recorder::start();
    let _agent = recorder.agent(&containerd, &[]);
    recorder.until("the attach", || !recorder.metrics().is_empty());
    // More of them by hand: OUTCROP_SHORT_LIVED=200.
    let count = std::env::var("OUTCROP_SHORT_LIVED").ok().and_then(|count| count.parse().ok()).unwrap_or(20);
    let names: Vec<String> = (0..count).map(|number| format!("short-{number:03}")).collect();
    std::thread::scope(|scope| {
        for (lane, names) in names.chunks(count / 2).enumerate() {
            let (containerd, image) = (&containerd, &image);
            scope.spawn(move || {
                for name in names {
                    containerd.run("k8s.io", image, name);
                    // Some live a little, some not at all.
                    std::thread::sleep(Duration::from_millis(300 * lane as u64));
                    containerd.remove("k8s.io", name);
                }
            });
        }
    });
    let ids = |keys: Vec<v1::ContainerKey>| {
        let mut ids: Vec<String> = keys.into_iter().map(|key| key.id).collect();
        ids.sort();
        ids
    };
    let gone = || ids(recorder.containers().into_iter().flat_map(|report| report.gone).collect());
    recorder.until("all to be gone", || gone().len() >= names.len());
    assert_eq!(gone(), names);
    let told: Vec<v1::Container> = recorder.containers().into_iter().flat_map(|report| report.containers).collect();
    // One that is told first as running and then as ended is told twice, of course; nobody is left out.
    let once: BTreeSet<String> = told.iter().map(|container| container.key.clone().unwrap().id).collect();
    assert_eq!(once.into_iter().collect::<Vec<_>>(), names);
    for container in told {
        match &container.coverage {
            None => assert_eq!(container.layers.len(), 2),
            // Gone before reading, or while it was looked at.
            Some(coverage) => assert_eq!(coverage.state, "failed", "{coverage:?}"),
        }
    }
    // The image is still there, and so its layers are read for containers that are not.
    assert_eq!(recorder.inventories().len(), 2);
    assert!(recorder.here().is_empty());
}

#[test]
fn a_cross_read_tells_the_digest_and_not_the_inventory_and_what_is_gone_is_said_to_be() {
    let Some(containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    containerd.run("k8s.io", &image, "web");
    let recorder = Recorder::quiet();
    let _agent = recorder.agent(&containerd, &["--scan-threads", "2", "--scan-cpu", "0.5"]);
    recorder.until("web", || recorder.here().len() == 1);
    let layers = recorder.here()["web"].layers.clone();
    let cross = v1::CrossRead { layers: layers.clone(), seconds: 60, without_marks: false };
    recorder.order(v1::order::Order::CrossRead(cross));
    let verified = || {
        recorder.all(|report| match report {
            Report::Verified(verified) => Some(verified),
            _ => None,
        })
    };
    recorder.until("two digests", || verified().len() == 2);
    assert!(recorder.inventories().is_empty());
    recorder.order(lease(layers));
    recorder.until("two inventories", || recorder.inventories().len() == 2);
    for verified in verified() {
        let id = LayerId::try_from(verified.layer.as_ref().unwrap()).unwrap();
        let encoding = &recorder.inventories()[&id];
        assert_eq!(verified.digest, Digest::of(encoding).0);
        assert_eq!(Inventory::decode(encoding, &mut Budget::job()).unwrap().catalogers, verified.catalogers);
        assert_eq!((verified.cage.as_str(), verified.marks), ("landlock+seccomp", true));
    }
    // As a node reads that cannot see overlay's marks.
    let layers = recorder.here()["web"].layers.clone();
    recorder.order(v1::order::Order::CrossRead(v1::CrossRead { layers, seconds: 60, without_marks: true }));
    recorder.until("two more digests", || verified().len() == 4);
    for verified in &verified()[2..] {
        let id = LayerId::try_from(verified.layer.as_ref().unwrap()).unwrap();
        let encoding = &recorder.inventories()[&id];
        let (inventory, budget) = (Inventory::decode(encoding, &mut Budget::job()).unwrap(), &mut Budget::job());
        let without_marks = inventory.digest_without_marks(Digest::of(encoding), budget).unwrap();
        assert_eq!((verified.digest.as_slice(), verified.marks), (without_marks.0.as_slice(), false));
    }
    let absent = LayerId::Diff(Digest::of(b"absent"));
    recorder.order(lease(vec![absent.into()]));
    recorder.until("an answer", || recorder.unreadable().len() == 1);
    let unreadable = &recorder.unreadable()[0];
    assert!(unreadable.gone && unreadable.layer == Some(absent.into()), "{unreadable:?}");
}

#[test]
fn what_the_operator_left_out_is_counted_and_not_read_and_what_is_too_large_names_the_limit() {
    let Some(containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    containerd.import("moby", &image);
    containerd.run("k8s.io", &image, "in");
    containerd.run("moby", &image, "out");
    let recorder = Recorder::start();
    let agent = recorder.agent(&containerd, &["--exclude-namespaces", "moby,other", "--max-evidence-files", "1"]);
    recorder.until("the answers", || recorder.here().len() == 2 && recorder.unreadable().len() == 2);
    let out = recorder.here()["out"].clone();
    let coverage = out.coverage.unwrap();
    assert_eq!((coverage.state.as_str(), out.layers.len()), ("excluded", 0));
    assert!(coverage.reason.contains("\"moby\""), "{}", coverage.reason);
    for unreadable in recorder.unreadable() {
        assert_eq!((unreadable.state.as_str(), unreadable.gone), ("too-large", false));
        assert!(unreadable.reason.contains("more than 1 evidence files"), "{}", unreadable.reason);
    }
    drop(agent);
    // Where the node's storage is not seen, that is a failure, and not a layer that is gone.
    let recorder = Recorder::start();
    let nowhere = recorder.at("host");
    fs::create_dir(&nowhere).unwrap();
    let agent = recorder.agent(&containerd, &["--host", nowhere.to_str().unwrap()]);
    recorder.until("the answers", || recorder.unreadable().len() == 2);
    assert!(recorder.unreadable().iter().all(|one| one.state == "failed" && !one.gone), "{:?}", recorder.unreadable());
    let says = |problem: &v1::Problem| problem.message.contains("for a reason on the node");
    recorder.until("the problem", || recorder.metrics().iter().any(|metrics| metrics.problems.iter().any(says)));
    drop(agent);
    let recorder = Recorder::start();
    let _agent = recorder.agent(&containerd, &["--namespaces", "moby"]);
    recorder.until("both", || recorder.here().len() == 2);
    let states = recorder.here().into_values().map(|container| container.coverage.map(|coverage| coverage.state));
    assert_eq!(states.collect::<Vec<_>>(), [Some("excluded".to_owned()), None]);
}

#[test]
fn a_signal_ends_every_process_and_the_probe_tells_life_from_death() {
    let Some(containerd) = Containerd::start() else { return };
    let recorder = Recorder::quiet();
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = recorder.agent(&containerd, &[]);
        let pid = running.0.id();
        let probe = || agent().args(["probe", "--pid", &pid.to_string()]).output().unwrap();
        recorder.until("life", || probe().status.success());
        let children = children(pid);
        assert_eq!(children.len(), 1, "the process that holds containerd's socket");
        assert_eq!(running.end_by(signal), Some(0));
        assert!(in_time(|| !alive(children[0])), "{} lives on", children[0]);
        let dead = probe();
        assert_eq!(dead.status.code(), Some(1));
        assert_eq!(String::from_utf8(dead.stderr).unwrap().lines().count(), 1);
    }
    // As the first process of a PID namespace, where a signal without a handler does nothing.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(agent().get_program());
    command.args(recorder.command("run").get_args()).arg("--containerd").arg(containerd.socket());
    let before = recorder.attached();
    let mut first = recorder.run(&mut command, "agent.log");
    recorder.until("the first process", || recorder.attached() > before);
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.0.id())).unwrap();
    let pid = rustix::process::Pid::from_raw(list.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert!(in_time(|| first.0.try_wait().unwrap().is_some()));
    assert_eq!(first.0.wait().unwrap().code(), Some(0));
    // Without the process that holds the socket the agent ends, and says so.
    let before = recorder.attached();
    let mut running = recorder.agent(&containerd, &[]);
    recorder.until("the child", || !children(running.0.id()).is_empty() && recorder.attached() > before);
    let child = children(running.0.id())[0];
    rustix::process::kill_process(rustix::process::Pid::from_raw(child.cast_signed()).unwrap(), Signal::KILL).unwrap();
    assert!(in_time(|| running.0.try_wait().unwrap().is_some()));
    assert_eq!(running.0.wait().unwrap().code(), Some(1));
    let log = fs::read_to_string(recorder.at("agent.log")).unwrap();
    assert!(log.contains("signal 9"), "{log}");
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    // Of these, those that stay: a worker may be asked for its cage at that moment.
    let stays =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("runtime"));
    list.split_whitespace().map(|pid| pid.parse().unwrap()).filter(stays).collect()
}

fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn reader_and_runtime_are_joined_by_a_socket_and_end_together() {
    let Some(containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    containerd.run("k8s.io", &image, "web");
    let recorder = Recorder::start();
    let socket = recorder.at("join.sock");
    let mut reader = recorder.command("reader");
    // The order in which a pod's containers start is not known: the reader waits.
    let mut reader = recorder.run(reader.arg("--sibling").arg(&socket), "agent.log");
    let mut runtime = agent();
    runtime.args(["runtime", "--listen"]).arg(&socket).arg("--containerd").arg(containerd.socket());
    let runtime = recorder.run(&mut runtime, "runtime.log");
    recorder.until("both layers", || recorder.inventories().len() == 2 && !recorder.metrics().is_empty());
    let roles: Vec<String> = recorder.metrics()[0].roles.iter().map(|role| role.name.clone()).collect();
    assert_eq!(roles, ["runtime", "reader", "worker"]);
    assert!(recorder.metrics()[0].roles[..2].iter().all(|role| role.resident_bytes > 0));
    // Neither listens, and nobody else can join them.
    assert!(UnixStream::connect(&socket).is_err());
    for (pid, what) in [(reader.0.id(), "reader"), (runtime.0.id(), "runtime")] {
        assert_eq!(listeners(pid), 0, "{what}");
        assert!(agent().args(["probe", "--pid", &pid.to_string()]).output().unwrap().status.success(), "{what}");
    }
    drop(runtime);
    assert!(in_time(|| reader.0.try_wait().unwrap().is_some()), "the reader lives on");
    assert_eq!(reader.0.wait().unwrap().code(), Some(1));
}

/// How many sockets of a process listen, of any family.
fn listeners(pid: u32) -> usize {
    let own: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| {
            fs::read_link(entry.ok()?.path())
                .ok()?
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    // The state of a TCP socket that listens, and the flag of a unix socket that does; inodes stand at other places.
    let tcp = ["tcp", "tcp6"].map(|table| (table, 9, 3, "0A"));
    tcp.into_iter()
        .chain([("unix", 6, 3, "00010000")])
        .map(|(table, inode, state, listens)| {
            let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            let is = |line: &&str| {
                let field = |at| line.split_whitespace().nth(at).unwrap_or_default();
                own.contains(field(inode)) && field(state) == listens
            };
            table.lines().skip(1).filter(is).count()
        })
        .sum()
}

#[test]
fn on_the_wire_to_containerd_there_are_only_methods_that_read() {
    let Some(mut containerd) = Containerd::start() else { return };
    let image = shop(&containerd);
    containerd.run("k8s.io", &image, "a");
    let before = containerd.everything("k8s.io");
    let recorder = Recorder::start();
    let relay = Relay::start(&containerd);
    let socket = relay.socket();
    let mut command = recorder.command("run");
    let agent = recorder.run(command.args(["--interval", "1"]).arg("--containerd").arg(&socket), "agent.log");
    recorder.until("both layers", || recorder.inventories().len() == 2);
    recorder.order(lease(vec![LayerId::Diff(Digest::of(b"absent")).into()]));
    let id = recorder.here()["a"].stack.clone();
    let check = v1::Check { stack: id, unread: vec![b"srv/package.json".to_vec()], doubtful: vec![b"srv".to_vec()] };
    recorder.order(v1::order::Order::Check(check));
    let answered = || {
        recorder.all(|report| match report {
            Report::Answers(answers) => Some(answers),
            _ => None,
        })
    };
    recorder.until("the answers", || answered().len() == 1 && !recorder.unreadable().is_empty());
    assert_eq!((answered()[0].answers.len(), answered()[0].hidden.len(), answered()[0].undecided.len()), (1, 0, 0));
    drop(agent);
    assert_eq!(containerd.everything("k8s.io"), before);

    let agent =
        recorder.run(recorder.command("run").args(["--interval", "1"]).arg("--containerd").arg(&socket), "agent.log");
    recorder.until("another attach", || recorder.attached() == 2 && recorder.here().len() == 1);
    containerd.restart();
    containerd.run("k8s.io", &image, "b");
    recorder.until("b", || recorder.here().len() == 2);
    containerd.remove("k8s.io", "b");
    recorder.until("b to go", || recorder.here().len() == 1);
    drop(agent);
    let noted = relay.methods();
    let allowed: BTreeSet<String> =
        outcrop_agent::runtime::containerd::METHODS.iter().map(|&method| method.to_owned()).collect();
    assert!(noted.is_subset(&allowed), "{:?}", noted.difference(&allowed));
    assert!(
        noted.iter().any(|method| method.ends_with("/Subscribe"))
            && noted.iter().any(|method| method.ends_with("/Mounts"))
    );
}

#[test]
fn a_usage_that_is_wrong_is_said_in_one_line_and_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "t").unwrap();
    // Otherwise the agent warns.
    fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let token = token.to_str().unwrap();
    let full = |aggregator: &'static str, token: &'static str| {
        ["run", "--node", "n", "--aggregator", aggregator, "--token-file", token]
    };
    let leaked: &'static str = token.to_owned().leak();
    let cases: [(&[&str], i32, &str); 8] = [
        (&[], 64, "Usage: outcrop-agent <COMMAND>"),
        (&["run"], 64, "--aggregator"),
        (&["run", "--scan-threads", "9"], 64, "scan-threads"),
        (&["runtime"], 64, "--listen"),
        (&full("http://192.0.2.1:1", leaked), 1, "loopback"),
        (&full("https://192.0.2.1:1", leaked), 1, "--ca FILE"),
        (&full("http://127.0.0.1:1", "/nowhere/token"), 1, "/nowhere/token"),
        (
            &[&full("http://127.0.0.1:1", leaked)[..], &["--containerd", "/nowhere/c.sock"]].concat(),
            1,
            "/nowhere/c.sock",
        ),
    ];
    for (args, code, words) in cases {
        let output = agent().args(args).env_clear().stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(code == 64 || said.lines().count() == 1, "{said}");
    }
}

#[test]
fn in_every_role_every_forbidden_act_is_stopped() {
    let output = agent().arg("selftest").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let mut all = 0;
    for role in ["runtime", "reader", "worker"] {
        let acts = said.lines().filter(|line| line.starts_with(role)).count();
        assert!(acts > 30, "{role}: {acts} acts");
        // The role's sandbox has a line, too.
        all += acts - 1;
    }
    assert_eq!(said.lines().last(), Some(&*format!("all {all} forbidden actions were stopped")));
    // Landlock full: nothing to refuse.
    let help = Command::new(agent().get_program()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
        let variable =
            format!("OUTCROP_{}", flag.trim_start_matches('-').trim_end_matches(',').to_uppercase().replace('-', "_"));
        let known = variable == "OUTCROP_HELP";
        assert!(known || help.contains(&variable), "{flag} has no variable {variable}");
    }
}

#[test]
fn what_a_newer_aggregator_orders_is_passed_over() {
    let mut bytes = order(lease(Vec::new())).encode_to_vec();
    // Field 900, an order that this version does not know, and field 901, a number.
    bytes.extend_from_slice(&[0xa2, 0x38, 2, b'h', b'i', 0xa8, 0x38, 7]);
    let known = v1::Order::decode(bytes.as_slice()).unwrap();
    assert!(matches!(known.order, Some(v1::order::Order::Lease(_))));
    let unknown = v1::Order::decode(&[0xa2, 0x38, 2, b'h', b'i'][..]).unwrap();
    assert_eq!(unknown.order, None);
}
