//! Bounds of a message before it is decoded.
//!
//! prost allocates a struct for each embedded message, however short its encoding: 16 MiB of empty containers would become gigabytes. So the
//! bytes are walked first, without an allocation, by the shapes of the messages that the build takes from `collector.proto`. A message
//! whose structs would exceed the budget is refused undecoded.

use crate::budget::{ALLOCATION, Budget, OverBudget};
use crate::wire::v1;

/// A message, as far as it costs memory.
#[derive(Debug)]
pub struct Shape {
    /// Size of its struct, bytes.
    size: usize,
    /// Its fields that have a length.
    fields: &'static [Field],
}

#[derive(Debug)]
struct Field {
    number: u64,
    repeated: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Bytes,
    Message(&'static Shape),
}

/// A message with its shape.
pub trait Shaped {
    /// The shape.
    const SHAPE: &'static Shape;
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// Reason why a message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The bytes are no message.
    #[error("the message is malformed")]
    Malformed,
    /// Its structs would take more than the budget.
    #[error("the message {0}")]
    OverBudget(#[from] OverBudget),
}

/// Maximum memory that the structs of a message take, bytes. A thousand containers of a hundred images take five MiB.
const MAX_DECODED: usize = 24 << 20;

/// Memory that any message may take, bytes.
const ANY_DECODED: usize = 64 << 10;

/// Maximum ratio of the memory of a decoded message to the size of its encoding. Containers with their layers and steps reach 8.
const MAX_GROWTH: usize = 16;

/// Checks that decoding `bytes` as a `T` takes no more memory than a message of their length may.
pub(crate) fn check<T: Shaped>(bytes: &[u8]) -> Result<(), Unfit> {
    let most = bytes.len().saturating_mul(MAX_GROWTH).clamp(ANY_DECODED, MAX_DECODED);
    walk(T::SHAPE, bytes, &mut Budget::new(most, u64::MAX))
}

/// Returns the number of the first field of `bytes` that is none of `fields`.
pub(crate) fn other_field(mut bytes: &[u8], fields: &[u64]) -> Result<Option<u64>, Unfit> {
    while !bytes.is_empty() {
        let (number, _) = next(&mut bytes)?;
        if !fields.contains(&number) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Walks a message. It recurses as deep as messages are declared within each other.
fn walk(shape: &Shape, mut bytes: &[u8], budget: &mut Budget) -> Result<(), Unfit> {
    while !bytes.is_empty() {
        let (number, content) = next(&mut bytes)?;
        let Some(content) = content else { continue };
        let Some(field) = shape.fields.iter().find(|field| field.number == number) else { continue };
        // A list that grows has twice the room that it needs.
        let room = |size| if field.repeated { 2 * size } else { size };
        match field.kind {
            Kind::Bytes => budget.reserve(room(size_of::<Vec<u8>>()) + ALLOCATION + content.len())?,
            Kind::Message(message) => {
                budget.reserve(room(message.size))?;
                walk(message, content, budget)?;
            }
        }
    }
    Ok(())
}

/// Reads a field, and returns its number, and its bytes if it has a length.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Option<&'a [u8]>), Unfit> {
    let key = varint(bytes)?;
    let length = match key & 7 {
        0 => {
            varint(bytes)?;
            return Ok((key >> 3, None));
        }
        1 => 8,
        2 => varint(bytes)?,
        5 => 4,
        // Groups: no version of this interface has any.
        _ => return Err(Unfit::Malformed),
    };
    let split = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
    let (content, rest) = split.ok_or(Unfit::Malformed)?;
    *bytes = rest;
    Ok((key >> 3, (key & 7 == 2).then_some(content)))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Unfit> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Unfit::Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Unfit::Malformed)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::wire::v1::report::Report;

    /// A report whose field `number` holds `count` times `item`.
    fn amplified(number: u8, inner: &[u8], item: &[u8], count: usize) -> Vec<u8> {
        let inner: Vec<u8> =
            inner.iter().copied().chain(item.iter().copied().cycle().take(item.len() * count)).collect();
        let mut bytes = vec![number << 3 | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(inner);
        bytes
    }

    #[test]
    fn embedded_messages_without_content_are_refused_undecoded() {
        let stack = [&[0x0a, 32][..], &[0; 32]].concat();
        for (what, number, inner, item) in [
            ("containers", 3, &[][..], &[0x1a, 0][..]),
            ("gone", 3, &[0x08, 1, 0x10, 1], &[0x22, 0]),
            ("layers of a container", 3, &[], &[0x1a, 2, 0x2a, 0]),
            ("answers", 6, &stack, &[0x12, 0]),
            ("hidden", 6, &stack, &[0x1a, 0]),
            ("undecided", 6, &stack, &[0x22, 0]),
            ("roles", 8, &[], &[0x0a, 0]),
        ] {
            for count in [100_000, 1_000_000] {
                let bytes = amplified(number, inner, item, count);
                assert!(matches!(check::<v1::Report>(&bytes), Err(Unfit::OverBudget(_))), "{what} x {count}");
            }
            let few = amplified(number, inner, item, 50);
            assert_eq!(check::<v1::Report>(&few), Ok(()), "{what}");
        }
    }

    #[test]
    fn reports_of_real_nodes_fit() {
        let digest = |number: u8| vec![number; 32];
        let layer = |number: u8| v1::LayerId { id: Some(v1::layer_id::Id::Diff(digest(number))) };
        let container = |number: u32| v1::Container {
            key: Some(v1::ContainerKey { namespace: "k8s.io".to_owned(), id: format!("{number:064}"), runtime: 1 }),
            name: "web".to_owned(),
            pod: Some(v1::Pod {
                namespace: "shop".to_owned(),
                name: format!("web-{number}"),
                uid: format!("{number:036}"),
            }),
            image: "registry.example/shop/web:1".to_owned(),
            layers: (0..20).map(layer).collect(),
            stack: digest(0),
            steps: vec![v1::Step::default(); 20],
            ..v1::Container::default()
        };
        let containers = v1::Containers { containers: (0..2000).map(container).collect(), ..v1::Containers::default() };
        let report = v1::Report { cluster: "c".to_owned(), report: Some(Report::Containers(containers)) };
        assert_eq!(check::<v1::Report>(&report.encode_to_vec()), Ok(()));
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        for bytes in [
            &[0x1a][..],
            &[0x1a, 5, 0],
            &[0x0b],
            &[0xff; 11],
            &[0x09, 1],
            &[0x0d, 1],
            &[0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert_eq!(check::<v1::Report>(bytes), Err(Unfit::Malformed), "{bytes:?}");
        }
        // A field of a later version costs nothing, whatever its kind.
        for bytes in [&[0xf8, 1, 1][..], &[0xf9, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[0xfa, 1, 1, 0], &[0xfd, 1, 0, 0, 0, 0]] {
            assert_eq!(check::<v1::Report>(bytes), Ok(()), "{bytes:?}");
        }
    }

    #[test]
    fn a_first_report_may_only_be_a_hello() {
        let hello = v1::Report { cluster: "c".to_owned(), report: Some(Report::Hello(v1::Hello::default())) };
        assert_eq!(other_field(&hello.encode_to_vec(), &[1, 2]), Ok(None));
        assert_eq!(other_field(&amplified(3, &[], &[0x1a, 0], 3), &[1, 2]), Ok(Some(3)));
    }
}
