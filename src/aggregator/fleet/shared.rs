//! A map whose copies share their values until one of them changes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Arc;

/// A sorted map with copy-on-write values. A clone costs one pointer per value; a value is copied when it changes while a clone still has it.
/// The owner of the fleet changes one map and publishes clones.
#[derive(Debug)]
pub(in crate::aggregator) struct SharedMap<K, V>(BTreeMap<K, Arc<V>>);

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Clone, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key, Arc::new(value))).collect())
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(|value| &**value)
    }

    pub(super) fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.0.get_key_value(key).map(|(key, value)| (key, &**value))
    }

    pub(super) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.0.remove(key);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, &**value))
    }

    pub(super) fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.0.range(range).map(|(key, value)| (key, &**value))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().map(|value| &**value)
    }

    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|key, value| is_kept(key, value));
    }
}

impl<K: Ord, V: Clone> SharedMap<K, V> {
    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key).map(Arc::make_mut)
    }

    /// Returns the value of `key`, after inserting a new one if there is none.
    pub(super) fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        Arc::make_mut(self.0.entry(key).or_insert_with(|| Arc::new(new())))
    }

    /// Returns the values that `is_wanted` selects, for a change; no other value is copied.
    pub(super) fn select_mut(
        &mut self,
        mut is_wanted: impl FnMut(&K, &V) -> bool,
    ) -> impl Iterator<Item = (&K, &mut V)> {
        self.0
            .iter_mut()
            .filter(move |(key, value)| is_wanted(key, value))
            .map(|(key, value)| (key, Arc::make_mut(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_never_changes_and_shares_unchanged_values() {
        let mut map: SharedMap<u32, String> = [(1, "a".to_owned()), (2, "b".to_owned())].into_iter().collect();
        let copy = map.clone();
        map.get_mut(&1).unwrap().push('!');
        map.entry(3, String::new).push('c');
        map.select_mut(|key, _| *key == 2).for_each(|(_, value)| value.push('?'));
        assert_eq!(map.values().collect::<Vec<_>>(), ["a!", "b?", "c"]);
        assert_eq!(copy.values().collect::<Vec<_>>(), ["a", "b"]);
        let again = map.clone();
        map.select_mut(|_, value| value == "none").for_each(|(_, value)| value.clear());
        assert!(map.0.iter().zip(&again.0).all(|((_, one), (_, other))| Arc::ptr_eq(one, other)));
    }
}
