//! Events of a runtime, gathered until they are passed on.

use super::message::Start;

/// Maximum number of events that wait to be passed on.
pub(super) const MAX_WAITING: usize = 4096;

/// Maximum number of containers that were created and not started, and whose image names are kept.
const MAX_CREATED: usize = 1024;

/// Something that happened to a container.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The container was created; it does not run yet.
    Created(Start),
    /// The container was started.
    Started(Start),
    /// A container ended, or the event could not be read.
    Other,
}

/// Events that were not passed on yet.
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
                if let Some(at) = self.created.iter().position(|created| created.key == start.key) {
                    start.image = self.created.swap_remove(at).image;
                }
                if self.started.len() < MAX_WAITING {
                    self.started.push(start);
                }
            }
            Event::Other => {}
        }
    }

    /// Returns the containers that started since the last call.
    pub(super) fn take(&mut self) -> Vec<Start> {
        std::mem::take(&mut self.started)
    }
}

#[cfg(test)]
mod tests {
    use outcrop_proto::{ContainerKey, Runtime};

    use super::*;

    #[test]
    fn waiting_events_are_bounded() {
        let start = |id: String| {
            let key = ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".to_owned(), id };
            Start { key, image: "x".to_owned() }
        };
        let mut gathered = Gathered::default();
        for number in 0..10_000 {
            gathered.add(Event::Created(start(format!("c{number}"))));
            gathered.add(Event::Started(start(format!("s{number}"))));
        }
        assert_eq!((gathered.created.len(), gathered.started.len()), (MAX_CREATED, MAX_WAITING));
    }
}
