//! What containerd tells of containers that start and end.

use containerd_client::events::{ContainerCreate, TaskStart};
use containerd_client::types::Envelope;
use prost::Message as _;

use super::message::Start;
use super::record::short;

/// What is told. A container's start tells that it runs, its creation which image it is of.
pub(super) const TOPICS: &[&str] =
    &["/containers/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete"];

/// Most events that wait to be passed on.
pub(super) const MAX_WAITING: usize = 4096;

/// Most containers that were created and not started, whose images are remembered.
const MAX_CREATED: usize = 1024;

/// Something that happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Created(Start),
    Started(Start),
    /// Something ended.
    Other,
}

/// Reads an event. The namespace is containerd's own word; an event that cannot be read is one all the same.
pub(super) fn read(envelope: Envelope) -> Event {
    let Envelope { namespace, topic, event, .. } = envelope;
    let bytes = event.map(|any| any.value).unwrap_or_default();
    let start = |id: String, image: String| Start { containerd_namespace: namespace.clone(), id, image: short(image) };
    let read = match topic.as_str() {
        "/containers/create" => {
            ContainerCreate::decode(bytes.as_slice()).map(|event| Event::Created(start(event.id, event.image)))
        }
        "/tasks/start" => {
            TaskStart::decode(bytes.as_slice()).map(|event| Event::Started(start(event.container_id, String::new())))
        }
        _ => return Event::Other,
    };
    read.unwrap_or(Event::Other)
}

/// Gathers events until they are passed on.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    created: Vec<Start>,
    started: Vec<Start>,
}

impl Gathered {
    pub(super) fn add(&mut self, event: Event) {
        match event {
            Event::Created(start) => {
                if self.created.len() == MAX_CREATED {
                    self.created.remove(0);
                }
                self.created.push(start);
            }
            Event::Started(mut start) => {
                let of_it =
                    |other: &Start| other.id == start.id && other.containerd_namespace == start.containerd_namespace;
                if let Some(at) = self.created.iter().position(of_it) {
                    start.image = self.created.swap_remove(at).image;
                }
                if self.started.len() < MAX_WAITING {
                    self.started.push(start);
                }
            }
            Event::Other => {}
        }
    }

    /// The containers that started since this was asked last.
    pub(super) fn take(&mut self) -> Vec<Start> {
        std::mem::take(&mut self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(id: &str, image: &str) -> Start {
        Start { containerd_namespace: "k8s.io".to_owned(), id: id.to_owned(), image: image.to_owned() }
    }

    #[test]
    fn a_start_is_told_with_the_image_that_the_creation_named() {
        let envelope = |topic: &str, value: Vec<u8>| {
            let mut envelope =
                Envelope { namespace: "k8s.io".to_owned(), topic: topic.to_owned(), ..Envelope::default() };
            envelope.event.get_or_insert_default().value = value;
            envelope
        };
        let created = ContainerCreate { id: "a".to_owned(), image: "shop:1".to_owned(), ..ContainerCreate::default() };
        let started = TaskStart { container_id: "a".to_owned(), pid: 7 };
        let events = [
            envelope("/containers/create", created.encode_to_vec()),
            envelope("/tasks/start", started.encode_to_vec()),
            envelope("/tasks/start", vec![255]),
            envelope("/tasks/exit", Vec::new()),
        ];
        let mut gathered = Gathered::default();
        events.into_iter().for_each(|event| gathered.add(read(event)));
        assert_eq!(gathered.take(), [start("a", "shop:1")]);
        assert_eq!(gathered.take(), []);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut gathered = Gathered::default();
        for number in 0..10_000 {
            gathered.add(Event::Created(start(&format!("c{number}"), "x")));
            gathered.add(Event::Started(start(&format!("s{number}"), "x")));
        }
        assert_eq!((gathered.created.len(), gathered.started.len()), (MAX_CREATED, MAX_WAITING));
    }
}
