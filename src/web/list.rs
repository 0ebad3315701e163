//! Lists: the filters and sort orders of each resource, and pages that stay correct while data changes.
//!
//! A page ends at a key, and the next page starts after that key (keyset pagination). Items that appear or disappear between two requests
//! therefore neither repeat nor hide an item that exists all the time.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;

use super::model::Page;
use super::source::{Failure, List};

/// Maximum value of `limit`.
pub const MAX_LIMIT: usize = 1000;

/// Number of items of a page if the request has no `limit`.
pub const DEFAULT_LIMIT: usize = 100;

/// Maximum size of a cursor, in bytes. A key contains identities and names; longer ones are an error.
const MAX_CURSOR: usize = 8 << 10;

/// A resource that the API lists. The API, its OpenAPI document and the command line use the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Name in the path, for example `containers`.
    pub name: &'static str,
    /// Description for the OpenAPI document.
    pub about: &'static str,
    /// Filters, as pairs of name and description.
    pub filters: &'static [(&'static str, &'static str)],
    /// Fields by which the list can be sorted, in both directions. By `severity` the worst is first, by `findings` in descending order.
    pub sorts: &'static [&'static str],
}

/// Appends the filters by workload to the resource's own filters.
macro_rules! by_workload {
    ($($own:expr),* $(,)?) => {
        &[
            $($own,)*
            ("workload", "workload: `NAME` or `KIND/NAME`, as in `deploy/web`"),
            ("kind", "kind of the workload: `deployment`, `sts`, `runner.actions.example`"),
            ("labels", "label selector for the workload: `app=web,tier!=test`"),
            ("owner", "owner of the workload"),
            ("older-than", "minimum age of the workload: `30d`"),
        ]
    };
}

/// Workloads.
pub const WORKLOADS: Resource = Resource {
    name: "workloads",
    about: "Workloads, with their pods and containers",
    filters: by_workload![
        ("namespace", "namespace of the workload"),
        ("name", "name of the workload"),
        ("image", "name of an image of the workload"),
        ("coverage", "coverage of a container of the workload"),
        ("node", "node of a pod of the workload"),
    ],
    sorts: &["name", "findings"],
};

/// Configuration issues.
pub const ISSUES: Resource = Resource {
    name: "issues",
    about: "Configuration issues of workloads: the Pod Security Standards, and recommendations beyond them",
    filters: by_workload![
        ("namespace", "namespace of the workload"),
        ("rule", "name of the rule"),
        ("level", "`baseline`, `restricted` or `recommended`"),
    ],
    sorts: &["workload"],
};

/// Nodes.
pub const NODES: Resource = Resource {
    name: "nodes",
    about: "Nodes",
    filters: &[
        ("name", "name of the node"),
        ("state", "state of the node"),
        ("attached", "`true`: nodes whose agent is connected; `false`: all others"),
        ("distrusted", "`true`: distrusted nodes; `false`: all others"),
    ],
    sorts: &["name"],
};

/// Containers.
pub const CONTAINERS: Resource = Resource {
    name: "containers",
    about: "Containers",
    filters: by_workload![
        ("node", "node of the container"),
        ("namespace", "namespace of the pod"),
        ("pod", "name of the pod"),
        ("name", "name of the container"),
        ("image", "name of the image"),
        ("stack", "identity of the container's stack"),
        ("coverage", "coverage of the container"),
    ],
    sorts: &["node", "findings"],
};

/// Images.
pub const IMAGES: Resource = Resource {
    name: "images",
    about: "Images of running containers: one item per stack of layers, with all names of the image",
    filters: &[
        ("name", "a name of the image"),
        ("stack", "identity of the image's stack"),
        ("layer", "identity of a layer of the image, or its first 12 digits or more"),
        ("coverage", "coverage of the image"),
        ("namespace", "namespace of a pod with the image"),
        ("node", "node with a container of the image"),
    ],
    sorts: &["stack", "findings", "containers"],
};

/// Layers.
pub const LAYERS: Resource = Resource {
    name: "layers",
    about: "Layers",
    filters: &[
        ("id", "identity of the layer, or its first 12 digits or more"),
        ("state", "`known`, `leased`, `waiting` or `failed`"),
        ("disputed", "`true`: layers of which nodes report different contents; `false`: all others"),
        ("node", "node that stores the layer"),
        ("stack", "identity of a stack with the layer"),
    ],
    sorts: &["id", "findings", "containers"],
};

/// Packages.
pub const PACKAGES: Resource = Resource {
    name: "packages",
    about: "Packages in running containers",
    filters: by_workload![
        ("type", "type of the package, as in its package URL: `deb`, `npm`"),
        ("name", "name of the package"),
        ("version", "version of the package"),
        ("stack", "identity of a stack with the package"),
        ("namespace", "namespace of a pod with the package"),
        ("node", "node with a container that contains the package"),
    ],
    sorts: &["purl", "containers", "findings"],
};

/// Findings.
pub const FINDINGS: Resource = Resource {
    name: "findings",
    about: "Findings in containers",
    filters: by_workload![
        (
            "state",
            "`open` (the default), or `fixed`: findings that the container's subject had before and does not have any more",
        ),
        ("id", "any ID of the vulnerability"),
        ("package", "name of the package"),
        ("severity", "minimum severity: `negligible`, `low`, `medium`, `high` or `critical`"),
        ("severity-is", "severity, which may be `unknown`"),
        ("status", "`fixed`, `affected`, `deferred`, `will-not-fix`, `under-investigation` or `end-of-life`",),
        ("node", "node of the container"),
        ("namespace", "namespace of the pod"),
        ("container", "name of the container"),
        ("image", "name of the image"),
        ("stack", "identity of the container's stack"),
    ],
    sorts: &["severity", "id"],
};

/// Containers with a package, a version of a package, or a vulnerability.
pub const WHO_HAS: Resource = Resource {
    name: "who-has",
    about: "Containers with a package, a version of a package, or a vulnerability",
    filters: &[(
        "running",
        "`true`: only containers that run now; otherwise also those that ended within the retention of packages",
    )],
    sorts: &[],
};

/// Exports: filters of the containers whose images a document covers.
pub const EXPORTS: Resource = Resource {
    name: "exports",
    about: "Documents for other tools",
    filters: by_workload![
        ("severity", "minimum severity of the findings: `negligible`, `low`, `medium`, `high` or `critical`"),
        ("node", "node of the container"),
        ("namespace", "namespace of the pod"),
        ("container", "name of the container"),
        ("image", "name of the image"),
        ("stack", "identity of the container's stack"),
    ],
    sorts: &[],
};

/// Targets of deliveries.
pub const TARGETS: Resource = Resource {
    name: "targets",
    about: "Targets of deliveries, and what waits for each",
    filters: &[("name", "name of the target"), ("state", "`ok`, `snapshot`, `retrying` or `failing`")],
    sorts: &["name"],
};

/// Deliveries.
pub const DELIVERIES: Resource = Resource {
    name: "deliveries",
    about: "Deliveries that wait for their target, and those that it refused",
    filters: &[("target", "name of the target"), ("state", "`waiting` or `refused`")],
    sorts: &["id"],
};

/// Every resource whose path is its name and that needs no parameter.
pub const RESOURCES: [Resource; 8] = [WORKLOADS, NODES, CONTAINERS, IMAGES, LAYERS, PACKAGES, FINDINGS, ISSUES];

impl List {
    /// Returns the value of the filter `name`, if the request has it.
    pub fn filter(&self, name: &str) -> Option<&str> {
        self.filters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of the filter `name`, which must be `true` or `false`.
    ///
    /// # Errors
    /// When the value is neither.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        match self.filter(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Failure::Invalid(format!("invalid value {other:?} for {name}: expected true or false"))),
        }
    }
}

impl<T> Page<T> {
    /// Converts every item of the page.
    pub fn map<U>(self, make: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(make).collect(), next: self.next }
    }
}

/// The end of a page, as JSON. It may contain row ids; [`Cursors`](super::cursor::Cursors) seals it before a caller gets it.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor<K> {
    resource: String,
    sort: Option<String>,
    descending: bool,
    key: K,
}

/// Writes JSON in which every integer has the same width, so that the length of a sealed cursor does not depend on row ids.
struct FixedWidth;

impl Formatter for FixedWidth {
    fn write_i64<W: ?Sized + Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        write!(writer, "{value:20}")
    }

    fn write_u64<W: ?Sized + Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        write!(writer, "{value:20}")
    }

    fn write_u32<W: ?Sized + Write>(&mut self, writer: &mut W, value: u32) -> io::Result<()> {
        self.write_u64(writer, value.into())
    }
}

fn encode<K: Serialize>(resource: &Resource, list: &List, key: &K) -> Result<String, Failure> {
    let cursor =
        Cursor { resource: resource.name.to_owned(), sort: list.sort.clone(), descending: list.descending, key };
    let mut json = Vec::new();
    let encoded = cursor.serialize(&mut serde_json::Serializer::with_formatter(&mut json, FixedWidth));
    let text = encoded
        .map_err(|error| error.to_string())
        .and_then(|()| String::from_utf8(json).map_err(|error| error.to_string()));
    let text = text.map_err(|error| Failure::Store(format!("encoding a cursor: {error}")))?;
    if text.len() > MAX_CURSOR {
        return Err(Failure::Store("a key is too long for a cursor; use filters to narrow the list".to_owned()));
    }
    Ok(text)
}

/// Returns the key after which the requested page starts, or `None` for the first page. In descending order the page contains lesser keys.
///
/// # Errors
/// When the cursor is malformed, or belongs to another list or order.
pub fn after<K: DeserializeOwned>(resource: &Resource, list: &List) -> Result<Option<K>, Failure> {
    let Some(text) = &list.cursor else { return Ok(None) };
    let wrong = || {
        Failure::Invalid(
            "invalid value for continue: the cursor does not belong to this list and sort order; request the first page without it".to_owned(),
        )
    };
    if text.len() > MAX_CURSOR {
        return Err(wrong());
    }
    let cursor: Cursor<K> = serde_json::from_str(text).map_err(|_| wrong())?;
    let same = cursor.resource == resource.name && cursor.sort == list.sort && cursor.descending == list.descending;
    if same { Ok(Some(cursor.key)) } else { Err(wrong()) }
}

/// Selects the requested page from `items`, which may be in any order. At most `limit + 1` items are in memory at a time.
///
/// A key contains the sort field and then a unique identity of the item: of two items with the same key, one is lost. A key may borrow, as
/// `Cow<'_, str>`.
///
/// # Errors
/// When the cursor is malformed, or belongs to another list or order.
pub fn page<K, T>(resource: &Resource, list: &List, items: impl IntoIterator<Item = (K, T)>) -> Result<Page<T>, Failure>
where
    K: Ord + Serialize + DeserializeOwned,
{
    let after: Option<K> = after(resource, list)?;
    let comes_before = |a: &K, b: &K| if list.descending { a > b } else { a < b };
    let mut kept: BTreeMap<K, T> = BTreeMap::new();
    for (key, item) in items {
        if after.as_ref().is_some_and(|after| !comes_before(after, &key)) {
            continue;
        }
        if kept.len() > list.limit {
            let last = if list.descending { kept.first_key_value() } else { kept.last_key_value() };
            if last.is_some_and(|(last, _)| !comes_before(&key, last)) {
                continue;
            }
        }
        kept.insert(key, item);
        if kept.len() > list.limit.saturating_add(1) {
            if list.descending {
                kept.pop_first()
            } else {
                kept.pop_last()
            };
        }
    }
    if list.descending { cut(resource, list, kept.into_iter().rev()) } else { cut(resource, list, kept) }
}

/// Returns the page that starts with `rows`. The rows must be in the requested order and start after [`after`]; a row beyond the limit means
/// that there is a next page.
///
/// # Errors
/// When a key is too long for a cursor.
pub fn cut<K: Serialize, T>(
    resource: &Resource,
    list: &List,
    rows: impl IntoIterator<Item = (K, T)>,
) -> Result<Page<T>, Failure> {
    let mut rows = rows.into_iter();
    let mut items = Vec::new();
    let mut last = None;
    for (key, item) in rows.by_ref().take(list.limit) {
        items.push(item);
        last = Some(key);
    }
    let more = rows.next().is_some();
    let next = last.filter(|_| more).map(|key| encode(resource, list, &key)).transpose()?;
    Ok(Page { items, next })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Returns a list request as the API creates it.
    fn list(limit: usize, descending: bool) -> List {
        List { limit, descending, sort: descending.then(|| "findings".to_owned()), ..List::default() }
    }

    proptest! {
        #[test]
        fn items_that_exist_all_the_time_are_listed_once_and_in_order_while_others_change(
            stable in prop::collection::btree_set(0u16..500, 0..60),
            start in prop::collection::btree_set(0u16..500, 0..60),
            changes in prop::collection::vec(prop::collection::vec((any::<bool>(), 0u16..500), 0..12), 0..80),
            limit in 1usize..9,
            descending in any::<bool>(),
        ) {
            let mut there: BTreeSet<u16> = stable.union(&start).copied().collect();
            let mut list = list(limit, descending);
            let mut changes = changes.into_iter();
            let mut seen = Vec::new();
            loop {
                // A key may contain hostile text.
                let items = there.iter().map(|number| ((*number, Cow::Borrowed("\"\n\u{202e}")), *number));
                let page = page(&LAYERS, &list, items).unwrap();
                prop_assert!(page.items.len() <= limit);
                seen.extend(page.items);
                let Some(next) = page.next else { break };
                list.cursor = Some(next);
                for (insert, number) in changes.next().unwrap_or_default() {
                    if insert { there.insert(number); } else if !stable.contains(&number) { there.remove(&number); }
                }
            }
            let in_order = |pair: &[u16]| if descending { pair[0] > pair[1] } else { pair[0] < pair[1] };
            prop_assert!(seen.windows(2).all(in_order), "out of order or repeated: {seen:?}");
            let seen: BTreeSet<u16> = seen.into_iter().collect();
            prop_assert!(stable.is_subset(&seen), "missing: {:?}", stable.difference(&seen));
        }

        #[test]
        fn arbitrary_text_is_not_a_cursor(text in ".{0,200}") {
            let list = List { cursor: Some(text), ..list(1, false) };
            prop_assert!(after::<(u16, String)>(&LAYERS, &list).is_err());
        }
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        for (count, pages) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)] {
            let mut list = list(2, false);
            let mut walked = 0;
            loop {
                let page = page(&LAYERS, &list, (0..count).map(|number| (number, number))).unwrap();
                walked += 1;
                match page.next {
                    Some(next) => list.cursor = Some(next),
                    None => break,
                }
            }
            assert_eq!(walked, pages, "{count} items");
        }
    }

    #[test]
    fn a_cursor_of_another_list_or_order_is_refused() {
        let items = || (0u16..9).map(|number| (number, number));
        let first = page(&LAYERS, &list(2, false), items()).unwrap();
        let next = List { cursor: first.next.clone(), ..list(2, false) };
        assert_eq!(page(&LAYERS, &next, items()).unwrap().items, [2, 3]);
        for (resource, list) in [
            (&NODES, next.clone()),
            (&LAYERS, List { descending: true, ..next.clone() }),
            (&LAYERS, List { sort: Some("id".to_owned()), ..next.clone() }),
            (&LAYERS, List { cursor: first.next.map(|next| format!("{next}A")), ..next.clone() }),
            (&LAYERS, List { cursor: Some("A".repeat(MAX_CURSOR + 1)), ..next }),
        ] {
            assert!(matches!(page(resource, &list, items()), Err(Failure::Invalid(_))), "{resource:?} {list:?}");
        }
    }

    #[test]
    fn a_key_that_does_not_fit_a_cursor_is_an_error() {
        let long = "x".repeat(MAX_CURSOR);
        let items = [(long.clone(), 0), (format!("{long}y"), 1)];
        assert!(page(&LAYERS, &list(1, false), items).is_err());
    }
}
