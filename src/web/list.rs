//! Lists: what each can be asked for, and pages that stay right while data changes.
//!
//! A page ends at a key and the next begins behind it (keyset pagination): there are no offsets, so what comes and goes between two
//! pages makes no item appear twice and hides none that was there all the time.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::model::Page;
use super::source::{Failure, List};

/// Most items of a page.
pub const MAX_LIMIT: usize = 1000;

/// Items of a page where nothing else is said.
pub const DEFAULT_LIMIT: usize = 100;

/// Most bytes of a cursor. Keys are identities, not words of images, so that this is plenty.
const MAX_CURSOR: usize = 8 << 10;

/// Grows when the form of cursors changes; older ones are refused then.
const VERSION: u8 = 1;

/// What a list can be asked for. The API, its OpenAPI document and the command line all go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name in the path: `containers`.
    pub name: &'static str,
    /// What it is, for the OpenAPI document.
    pub about: &'static str,
    /// Filters: name, and what it keeps.
    pub filters: &'static [(&'static str, &'static str)],
    /// Fields that it can be sorted by.
    pub sorts: &'static [&'static str],
}

/// Filters by workload, besides a resource's own.
macro_rules! by_workload {
    ($($own:expr),* $(,)?) => {
        &[
            $($own,)*
            ("workload", "those of this workload: `NAME` or `KIND/NAME`, as in `deploy/web`"),
            ("kind", "those of workloads of this kind: `deployment`, `sts`, `runner.actions.example`"),
            ("labels", "those of workloads that this label selector selects: `app=web,tier!=test`"),
            ("owner", "those of workloads of this owner"),
            ("older-than", "those of workloads that were made so long ago: `30d`"),
        ]
    };
}

/// Workloads.
pub const WORKLOADS: Resource = Resource {
    name: "workloads",
    about: "Workloads: what people deploy, with what runs of it",
    filters: by_workload![
        ("namespace", "workloads in this namespace"),
        ("name", "workloads of this name"),
        ("image", "workloads that run the image of this name"),
        ("coverage", "workloads with a container in this state of coverage"),
        ("node", "workloads with a pod on this node"),
    ],
    sorts: &["name", "findings"],
};

/// Configuration issues.
pub const ISSUES: Resource = Resource {
    name: "issues",
    about: "Configuration issues of workloads: the Pod Security Standards, and recommendations beyond them",
    filters: by_workload![
        ("namespace", "issues of workloads in this namespace"),
        ("rule", "issues of this rule"),
        ("level", "`baseline`, `restricted` or `recommended`"),
    ],
    sorts: &["workload"],
};

/// Nodes.
pub const NODES: Resource = Resource {
    name: "nodes",
    about: "Nodes",
    filters: &[
        ("name", "the node of this name"),
        ("attached", "`true`: those whose stream lives; `false`: the others"),
        ("distrusted", "`true`: those that are not believed; `false`: the others"),
    ],
    sorts: &["name"],
};

/// Containers.
pub const CONTAINERS: Resource = Resource {
    name: "containers",
    about: "Containers",
    filters: by_workload![
        ("node", "containers on this node"),
        ("namespace", "containers of pods in this namespace"),
        ("pod", "containers of pods of this name"),
        ("name", "containers of this name"),
        ("image", "containers of the image of this name"),
        ("stack", "containers on this stack"),
        ("coverage", "containers in this state of coverage"),
    ],
    sorts: &["node"],
};

/// Images.
pub const IMAGES: Resource = Resource {
    name: "images",
    about: "Images that run: stacks of layers, by whatever names",
    filters: &[
        ("name", "images that a container calls by this name"),
        ("stack", "the image with this stack"),
        ("layer", "images that stand on this layer"),
        ("coverage", "images in this state of coverage"),
        ("namespace", "images that run in pods of this namespace"),
        ("node", "images that run on this node"),
    ],
    sorts: &["stack"],
};

/// Layers.
pub const LAYERS: Resource = Resource {
    name: "layers",
    about: "Layers",
    filters: &[
        ("id", "the layer of this identity"),
        ("state", "`known`, `leased`, `waiting` or `failed`"),
        ("disputed", "`true`: those that nodes disagree on; `false`: the others"),
        ("node", "layers that lie on this node"),
        ("stack", "layers of this stack"),
    ],
    sorts: &["id", "findings", "containers"],
};

/// Packages.
pub const PACKAGES: Resource = Resource {
    name: "packages",
    about: "Packages that run",
    filters: by_workload![
        ("type", "packages of this type, as purl names it"),
        ("name", "packages of this name"),
        ("version", "packages of this version"),
        ("stack", "packages in this stack"),
        ("namespace", "packages that run in pods of this namespace"),
        ("node", "packages that run on this node"),
    ],
    sorts: &["purl", "containers"],
};

/// Findings.
pub const FINDINGS: Resource = Resource {
    name: "findings",
    about: "Findings of containers",
    filters: by_workload![
        (
            "state",
            "`open`, the default; or `fixed`: what a container's subject had and has not any more, with the time",
        ),
        ("id", "findings of this problem, by any of its names"),
        ("package", "findings in packages of this name"),
        ("severity", "findings that are at least this bad"),
        ("status", "`fixed`, `affected`, `deferred`, `will-not-fix`, `under-investigation` or `end-of-life`",),
        ("node", "findings on this node"),
        ("namespace", "findings in pods of this namespace"),
        ("container", "findings in containers of this name"),
        ("image", "findings in the image of this name"),
        ("stack", "findings in this stack"),
    ],
    sorts: &["severity", "id"],
};

/// Who has it.
pub const WHO_HAS: Resource = Resource {
    name: "who-has",
    about: "Containers that have a package, a version of it, or a problem",
    filters: &[],
    sorts: &[],
};

/// Every resource that is listed by its name alone.
pub const RESOURCES: [Resource; 8] = [WORKLOADS, NODES, CONTAINERS, IMAGES, LAYERS, PACKAGES, FINDINGS, ISSUES];

impl List {
    /// What the filter `name` asks for; the first, where it is given twice.
    pub fn filter(&self, name: &str) -> Option<&str> {
        self.filters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What the filter `name`, which is `true` or `false`, asks for.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        match self.filter(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => {
                Err(Failure::Question(format!("invalid value {other:?} for {name}: expected true or false")))
            }
        }
    }
}

impl<T> Page<T> {
    /// The page with every item made into something else.
    pub fn map<U>(self, make: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(make).collect(), next: self.next }
    }
}

/// Where a page ended. Opaque to the caller: JSON in base64url. It holds nothing but what the caller was shown or could have been.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor<K> {
    version: u8,
    resource: String,
    sort: Option<String>,
    descending: bool,
    key: K,
}

fn encode<K: Serialize>(resource: &Resource, list: &List, key: &K) -> Result<String, Failure> {
    let cursor = Cursor {
        version: VERSION,
        resource: resource.name.to_owned(),
        sort: list.sort.clone(),
        descending: list.descending,
        key,
    };
    let json = serde_json::to_vec(&cursor).map_err(|error| Failure::Store(format!("encoding a cursor: {error}")))?;
    let text = URL_SAFE_NO_PAD.encode(json);
    if text.len() > MAX_CURSOR {
        return Err(Failure::Store("a key is too long for a cursor; use filters to narrow the list".to_owned()));
    }
    Ok(text)
}

/// The key behind which the page begins that `list` asks for; `None` for the first page. In descending order the page holds what is
/// less than it.
///
/// # Errors
/// When the cursor is none, or one of another list or order.
pub fn after<K: DeserializeOwned>(resource: &Resource, list: &List) -> Result<Option<K>, Failure> {
    let Some(text) = &list.cursor else { return Ok(None) };
    let wrong = || {
        Failure::Question(
            "invalid value for continue: the cursor does not belong to this list and sort order; request the first page without it".to_owned(),
        )
    };
    if text.len() > MAX_CURSOR {
        return Err(wrong());
    }
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    let cursor: Cursor<K> = serde_json::from_slice(&json).map_err(|_| wrong())?;
    let same = cursor.version == VERSION
        && cursor.resource == resource.name
        && cursor.sort == list.sort
        && cursor.descending == list.descending;
    if same { Ok(Some(cursor.key)) } else { Err(wrong()) }
}

/// The page of `items` that `list` asks for. They may come in any order; at most `limit + 1` of them are kept at a time.
///
/// A key has what is sorted by and then what tells the item from every other: of two items with the same key one is lost. A key may
/// borrow, as `Cow<'_, str>`.
///
/// # Errors
/// When the cursor is none, or one of another list or order.
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

/// The page that begins with `rows`: in the order that `list` asks for, beginning behind [`after`], and one more than its limit where
/// there are more.
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

    /// A list as the API makes it.
    fn list(limit: usize, descending: bool) -> List {
        List { limit, descending, sort: descending.then(|| "findings".to_owned()), ..List::default() }
    }

    proptest! {
        #[test]
        fn what_is_there_all_the_time_is_listed_once_and_in_order_whatever_comes_and_goes(
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
                // Hostile words are part of a key as well.
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
            prop_assert!(seen.windows(2).all(in_order), "out of order or twice: {seen:?}");
            let seen: BTreeSet<u16> = seen.into_iter().collect();
            prop_assert!(stable.is_subset(&seen), "left out: {:?}", stable.difference(&seen));
        }

        #[test]
        fn no_text_is_taken_for_a_cursor_that_is_none(text in ".{0,200}") {
            let list = List { cursor: Some(text), ..list(1, false) };
            prop_assert!(after::<(u16, String)>(&LAYERS, &list).is_err());
        }
    }

    #[test]
    fn the_last_page_says_that_it_is_the_last() {
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
    fn a_cursor_is_of_one_list_in_one_order() {
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
            assert!(matches!(page(resource, &list, items()), Err(Failure::Question(_))), "{resource:?} {list:?}");
        }
    }

    #[test]
    fn a_key_that_is_no_identity_but_a_novel_is_said_and_not_walked_over() {
        let long = "x".repeat(MAX_CURSOR);
        let items = [(long.clone(), 0), (format!("{long}y"), 1)];
        assert!(page(&LAYERS, &list(1, false), items).is_err());
    }
}
