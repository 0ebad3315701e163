//! Keeps the worst of many findings.
//!
//! An image can list a thousand versions of a package that has a thousand advisories. All its findings together would fill any memory, and
//! nobody would read them, so a package set has a bound: the worst are kept, the others are counted.

use outcrop_proto::Severity;

/// Maximum number of findings of a package set.
pub const MAX_FINDINGS: usize = 10_000;

/// Maximum number of advisories that are compared with the packages of a package set. Those of real images come to some ten thousand; a
/// million take some seconds.
pub const MAX_COMPARED: u64 = 1_000_000;

/// Returns the reason why not all findings of a package set are listed, where it had `count`.
pub fn too_many(count: u64) -> String {
    format!("too many findings ({count})")
}

/// Collects items by severity, and keeps the worst of them. Of items that are equally bad the first ones stay.
#[derive(Debug)]
pub struct Worst<T> {
    kept: Vec<(Severity, T)>,
    limit: usize,
    total: u64,
}

impl<T> Worst<T> {
    /// Creates a collection that keeps at most `limit` items.
    pub fn new(limit: usize) -> Self {
        Self { kept: Vec::new(), limit, total: 0 }
    }

    /// Adds an item.
    pub fn push(&mut self, severity: Severity, item: T) {
        self.total += 1;
        self.kept.push((severity, item));
        // Twice as many are held at most, so that sorting costs each item a constant share.
        if self.kept.len() >= 2 * self.limit {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.kept.len() > self.limit {
            // A stable sort.
            self.kept.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
            self.kept.truncate(self.limit);
        }
    }

    /// Returns the number of items that were added.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the kept items; where none was dropped, in their order.
    pub fn into_kept(mut self) -> Vec<T> {
        self.shrink();
        self.kept.into_iter().map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_kept_and_the_rest_is_counted() {
        let mut worst = Worst::new(3);
        let all =
            [Severity::Low, Severity::High, Severity::Unknown, Severity::High, Severity::Medium, Severity::Critical];
        for round in 0..100 {
            for (number, severity) in all.into_iter().enumerate() {
                worst.push(severity, (round, number));
            }
            assert!(worst.kept.len() < 6, "memory does not grow with what is added");
        }
        assert_eq!(worst.total(), 600);
        assert_eq!(worst.into_kept(), [(0, 5), (1, 5), (2, 5)]);
    }

    #[test]
    fn what_fits_keeps_its_order() {
        let mut worst = Worst::new(3);
        worst.push(Severity::Low, 1);
        worst.push(Severity::High, 2);
        worst.push(Severity::Low, 3);
        assert_eq!((worst.total(), worst.into_kept()), (3, vec![1, 2, 3]));
    }
}
