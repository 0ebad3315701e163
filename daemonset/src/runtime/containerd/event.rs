//! containerd's events for starts and ends of containers.

use containerd_client::events::{ContainerCreate, TaskStart};
use containerd_client::types::Envelope;
use outcrop_proto::{ContainerKey, Runtime};
use prost::Message as _;

use super::record::short;
use crate::runtime::Start;
use crate::runtime::event::Event;

/// Topics of the subscription. A container's start says that it runs, its creation names the image.
pub(super) const TOPICS: &[&str] =
    &["/containers/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete"];

/// Reads an event. The namespace comes from containerd itself; an event that cannot be read becomes [`Event::Other`].
pub(super) fn read(envelope: Envelope) -> Event {
    let Envelope { namespace, topic, event, .. } = envelope;
    let bytes = event.map(|any| any.value).unwrap_or_default();
    let start = |id: String, image: String| Start {
        key: ContainerKey { runtime: Runtime::Containerd, namespace: namespace.clone(), id },
        image: short(image),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::event::Gathered;

    #[test]
    fn a_start_is_reported_with_the_image_that_the_creation_named() {
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
        let key = ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".to_owned(), id: "a".to_owned() };
        assert_eq!(gathered.take(), [Start { key, image: "shop:1".to_owned() }]);
        assert_eq!(gathered.take(), []);
    }
}
