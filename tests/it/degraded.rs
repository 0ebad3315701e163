//! The agent with a containerd that responds to some requests only, and a test aggregator that records every message.
//!
//! Needs what `tests/it/containerd.rs` needs; where containerd cannot be started each test says so and passes.

use std::time::Duration;

use outcrop_agent::runtime::containerd::Client;
use outcrop_agent::runtime::{Lacks, Plan};
use outcrop_proto::wire::v1;
use rustix::process::Signal;

use crate::agent_parts::relay::{Fault, Relay};
use crate::agent_parts::{Recorder, Running};
use crate::runtime_parts::Containerd;
use crate::runtime_parts::image::{Image, Layer, build_with};

const BASE: Layer<'static> = &[("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n")];

fn image(containerd: &Containerd) -> Image {
    let image = build_with(containerd.dir(), "app:1", &[BASE]);
    ["k8s.io", "other"].iter().for_each(|namespace| containerd.import(namespace, &image));
    image
}

fn agent(recorder: &Recorder, relay: &Relay, interval: &str) -> Running {
    let mut command = recorder.command("run");
    recorder.run(command.args(["--interval", interval]).arg("--containerd").arg(relay.socket()), "agent.log")
}

fn ids(recorder: &Recorder) -> Vec<String> {
    recorder.here().into_keys().collect()
}

fn gone(recorder: &Recorder) -> Vec<String> {
    recorder.containers().into_iter().flat_map(|report| report.gone).map(|key| key.id).collect()
}

/// Whether the agent says, as its only problem, one with these words.
fn says(recorder: &Recorder, words: &str) -> bool {
    matches!(&recorder.problems()[..], [problem] if problem.contains(words))
}

#[test]
fn tasks_that_cannot_be_listed_hide_no_container_and_the_agent_says_so_until_they_can() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    containerd.run("k8s.io", &image, "a");
    containerd.run_program("k8s.io", &image, "ended", &["/pause", "no"]);
    containerd.wait_ended("k8s.io", "ended");
    let (relay, recorder) = (Relay::start(&containerd), Recorder::start());
    let _agent = agent(&recorder, &relay, "3600");
    recorder.until("a", || ids(&recorder) == ["a"] && !recorder.metrics().is_empty());
    assert_eq!(recorder.problems(), Vec::<String>::new());

    relay.fault("Tasks/List", Some("k8s.io"), Fault::Fails);
    containerd.run("k8s.io", &image, "b");
    recorder.until("b, and nothing that had ended", || ids(&recorder) == ["a", "b"]);
    recorder.until("the problem", || says(&recorder, "listing the tasks of namespace k8s.io"));
    assert!(recorder.here()["b"].coverage.is_none(), "{:?}", recorder.here()["b"]);
    let unconfirmed = || recorder.containers().pop().unwrap().unconfirmed_namespaces;
    assert_eq!(unconfirmed(), ["k8s.io"]);
    assert_eq!(gone(&recorder), Vec::<String>::new());
    // A container whose record is removed is gone all the same.
    containerd.remove("k8s.io", "a");
    recorder.until("a to go", || ids(&recorder) == ["b"]);
    relay.heal();
    recorder.until("the end of the problem", || recorder.problems().is_empty());
    recorder.until("the end of the mark", || unconfirmed().is_empty());
    assert_eq!(ids(&recorder), ["b"]);
    assert!(recorder.log().contains("problem raised") && recorder.log().contains("problem cleared"));
}

#[test]
fn a_namespace_that_cannot_be_listed_keeps_its_containers_and_delays_no_other_one() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    containerd.run("k8s.io", &image, "a");
    containerd.run("k8s.io", &image, "b");
    let (relay, recorder) = (Relay::start(&containerd), Recorder::start());
    let first = agent(&recorder, &relay, "3600");
    recorder.until("both", || ids(&recorder) == ["a", "b"]);

    relay.fault("Containers/ListStream", Some("k8s.io"), Fault::Fails);
    containerd.remove("k8s.io", "a");
    containerd.run("other", &image, "c");
    recorder.until("c", || ids(&recorder) == ["a", "b", "c"]);
    recorder.until("the problem", || says(&recorder, "listing the containers of namespace k8s.io"));
    // An agent that knows nothing of them from before does not report them as gone either.
    drop(first);
    recorder.forget();
    let _second = agent(&recorder, &relay, "3600");
    recorder.until("the other namespace", || ids(&recorder) == ["c"] && !recorder.metrics().is_empty());
    let report = recorder.containers().remove(0);
    assert!(report.full && report.unconfirmed_namespaces == ["k8s.io"], "{report:?}");
    relay.heal();
    recorder.until("everything", || ids(&recorder) == ["b", "c"] && recorder.problems().is_empty());
    let last = recorder.containers().into_iter().rfind(|report| report.full).unwrap();
    assert!(last.unconfirmed_namespaces.is_empty() && last.containers.len() == 2, "{last:?}");
}

#[test]
fn an_agent_that_could_not_list_anything_yet_reports_no_empty_node() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    containerd.run("k8s.io", &image, "a");
    let (relay, recorder) = (Relay::start(&containerd), Recorder::start());
    relay.fault("Namespaces/List", None, Fault::Fails);
    let _agent = agent(&recorder, &relay, "3600");
    recorder.until("the problem", || says(&recorder, "listing namespaces"));
    assert!(recorder.containers().is_empty(), "{:?}", recorder.containers());
    relay.heal();
    recorder.until("a", || ids(&recorder) == ["a"] && recorder.problems().is_empty());
    // From then on, the namespaces that it knows are listed.
    relay.fault("Namespaces/List", None, Fault::Fails);
    containerd.run("k8s.io", &image, "b");
    recorder.until("b", || ids(&recorder) == ["a", "b"] && says(&recorder, "listing namespaces"));
}

#[test]
fn containers_that_were_read_stay_so_while_their_snapshots_cannot_be_asked_for() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    containerd.run("k8s.io", &image, "a");
    let (relay, recorder) = (Relay::start(&containerd), Recorder::start());
    let _agent = agent(&recorder, &relay, "1");
    recorder.until("a", || recorder.inventories().len() == 1);
    relay.fault("Snapshots/Stat", None, Fault::Fails);
    containerd.run("k8s.io", &image, "b");
    let state = |id: &str| recorder.here().get(id)?.coverage.clone().map(|coverage| coverage.state);
    recorder.until("b, with the reason", || state("b").as_deref() == Some("failed"));
    assert_eq!(state("a"), None, "{:?}", recorder.here()["a"]);
    recorder.until("the problem", || says(&recorder, "1 containers cannot be read"));
    relay.heal();
    recorder.until("b, described", || state("b").is_none() && recorder.problems().is_empty());
}

#[test]
fn without_events_lists_find_what_starts_and_the_subscription_is_not_pressed() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    let (relay, recorder) = (Relay::start(&containerd), Recorder::start());
    relay.fault("Events/Subscribe", None, Fault::Fails);
    let _agent = agent(&recorder, &relay, "3600");
    recorder.until("the problem", || says(&recorder, "stream of events"));
    containerd.run("k8s.io", &image, "a");
    recorder.until("a", || ids(&recorder) == ["a"]);
    // At most one every five seconds, in the half minute that this may take.
    assert!(relay.calls("Events/Subscribe", "") < 12, "{}", relay.calls("Events/Subscribe", ""));
}

#[test]
fn a_containerd_that_is_stopped_is_a_problem_and_its_containers_are_not_gone() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    containerd.run("k8s.io", &image, "a");
    let recorder = Recorder::start();
    let mut command = recorder.command("run");
    let command = command.args(["--interval", "1"]).arg("--containerd").arg(containerd.socket());
    let _agent = recorder.run(command, "agent.log");
    recorder.until("a", || recorder.inventories().len() == 1);
    containerd.signal(Signal::STOP);
    recorder.until("the problem", || says(&recorder, "containerd did not respond within 10 s"));
    assert_eq!((ids(&recorder), gone(&recorder)), (vec!["a".to_owned()], Vec::new()));
    containerd.signal(Signal::CONT);
    recorder.until("the end of the problem", || recorder.problems().is_empty());
    assert_eq!(gone(&recorder), Vec::<String>::new());
    let since: Vec<i64> =
        recorder.metrics().iter().flat_map(|metrics: &v1::Metrics| &metrics.problems).map(|one| one.since).collect();
    assert!(since.windows(2).all(|pair| pair[0] == pair[1]), "a problem keeps its start: {since:?}");
}

#[test]
fn a_slow_list_leaves_a_gap_and_is_not_requested_again_at_once() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    containerd.run("k8s.io", &image, "a");
    containerd.run("other", &image, "b");
    let relay = Relay::start(&containerd);
    relay.fault("Tasks/List", Some("k8s.io"), Fault::Hangs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(Some(&relay.socket())).await.unwrap();
        let mut client = client.with_list_timeout(Duration::from_millis(500));
        for _ in 0..3 {
            let Plan { containers, gaps } = client.list(&[]).await.unwrap();
            let ids: Vec<&str> = containers.iter().map(|container| container.key.id.as_str()).collect();
            assert_eq!(ids, ["a", "b"]);
            assert!(containers.iter().all(|container| container.refused.is_none() && !container.chain.is_empty()));
            let [gap] = &gaps[..] else { panic!("{gaps:?}") };
            assert_eq!((gap.lacks, gap.namespace.as_str()), (Lacks::States, "k8s.io"));
            assert!(gap.reason.contains("listing the tasks of namespace k8s.io"), "{}", gap.reason);
        }
    });
    assert_eq!((relay.calls("Tasks/List", "k8s.io"), relay.calls("Tasks/List", "other")), (1, 3));
}

#[test]
fn a_snapshotter_that_does_not_say_sizes_is_asked_once_and_every_container_is_described() {
    let Some(containerd) = Containerd::start() else { return };
    let image = image(&containerd);
    ["a", "b", "c"].iter().for_each(|id| containerd.run("k8s.io", &image, id));
    let relay = Relay::start(&containerd);
    relay.fault("Snapshots/Usage", None, Fault::Hangs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(Some(&relay.socket())).await.unwrap();
        for _ in 0..2 {
            let Plan { containers, gaps } = client.list(&[]).await.unwrap();
            assert!(gaps.is_empty(), "{gaps:?}");
            assert_eq!(containers.len(), 3);
            for container in &containers {
                assert!(container.refused.is_none() && !container.chain.is_empty() && container.size == 0);
            }
            assert_eq!(relay.calls("Snapshots/Usage", "k8s.io"), 1);
        }
    });
}
