//! The budget of one piece of work on bytes that an image or a node chose.
//!
//! Decoding, merging and matching run outside of a sandbox, so their input must not decide what they cost. One [`Budget`] is passed
//! through all of them: each reserves memory before it allocates, and counts steps before it loops. `docs/security-model.md` lists what
//! each input may cost.

/// A budget is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    /// More memory would be needed.
    #[error("needs more than the limit of {0} bytes of memory")]
    Bytes(usize),
    /// More work would be needed.
    #[error("needs more than the limit of {0} steps of work")]
    Steps(u64),
}

/// Memory and work that are left.
///
/// A step is a unit of work of some ten nanoseconds: a byte that is compared, an entry that is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    bytes: usize,
    steps: u64,
    most_bytes: usize,
    most_steps: u64,
}

impl Budget {
    /// The budget of decoding one inventory, and of merging one stack with everything that was decoded for it. The layers of real images
    /// need a tenth of it.
    pub const fn job() -> Self {
        Self::new(192 << 20, 64 << 20)
    }

    /// Creates a budget.
    pub const fn new(bytes: usize, steps: u64) -> Self {
        Self { bytes, steps, most_bytes: bytes, most_steps: steps }
    }

    /// Reserves memory, before it is allocated.
    ///
    /// # Errors
    /// When less than `bytes` are left. The budget stays exhausted then.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.unwrap_or_default();
        left.map(|_| ()).ok_or(OverBudget::Bytes(self.most_bytes))
    }

    /// Gives memory back that was reserved and is free again.
    pub fn release(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes).min(self.most_bytes);
    }

    /// Counts steps, before they are made.
    ///
    /// # Errors
    /// When less than `steps` are left. The budget stays exhausted then.
    pub fn step(&mut self, steps: u64) -> Result<(), OverBudget> {
        let left = self.steps.checked_sub(steps);
        self.steps = left.unwrap_or_default();
        left.map(|_| ()).ok_or(OverBudget::Steps(self.most_steps))
    }

    /// Returns how many bytes are left.
    pub const fn bytes_left(&self) -> usize {
        self.bytes
    }

    /// Returns how many bytes are reserved.
    pub const fn bytes_reserved(&self) -> usize {
        self.most_bytes - self.bytes
    }

    /// Returns how many steps were made.
    pub const fn steps_made(&self) -> u64 {
        self.most_steps - self.steps
    }
}

/// Overhead of a heap allocation, in bytes.
pub const ALLOCATION: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_budget_stays_exhausted_and_names_its_limit() {
        let mut budget = Budget::new(10, 3);
        assert_eq!((budget.reserve(4), budget.step(3)), (Ok(()), Ok(())));
        assert_eq!((budget.bytes_left(), budget.bytes_reserved(), budget.steps_made()), (6, 4, 3));
        assert_eq!(budget.reserve(7), Err(OverBudget::Bytes(10)));
        assert_eq!(budget.reserve(1), Err(OverBudget::Bytes(10)));
        assert_eq!(budget.step(1), Err(OverBudget::Steps(3)));
        budget.release(100);
        assert_eq!(budget.bytes_left(), 10, "no more is left than there was");
    }
}
