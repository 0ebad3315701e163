//! What the aggregator asks of the allocator and of the processor.

use std::cell::Cell;

use tokio::task::{JoinError, spawn_blocking};

/// Blocks of this many bytes and more are given back to the system as soon as they are free.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 << 10;

/// Heaps that threads have between them.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// How much less than answering a question its own work is worth, as nice(2) counts it.
const LESS: i32 = 10;

/// Has large blocks given back when they are free.
///
/// glibc learns from the first inventory that passes through it to keep blocks of megabytes (`M_MMAP_THRESHOLD` is dynamic, mallopt(3)), and
/// afterwards thousands of streams pin what is between their small ones. A fixed threshold ends that: measured, 234 KB a stream became 58.
#[allow(unsafe_code)]
pub(super) fn return_large_blocks() {
    // SAFETY: mallopt only sets parameters of the allocator; it is called before there are threads that would notice.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives what is free back to the system, after something large is done.
#[allow(unsafe_code)]
pub(super) async fn give_back() {
    // SAFETY: malloc_trim takes nothing that is in use, and may be called from any thread.
    #[cfg(target_env = "gnu")]
    let _ = in_background(|| unsafe { libc::malloc_trim(0) }).await;
}

/// Does the aggregator's own work, such as merging and matching, in a thread that makes way for those that answer nodes and people.
///
/// # Errors
/// When it panicked.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    thread_local!(static IS_NICE: Cell<bool> = const { Cell::new(false) });
    spawn_blocking(move || {
        // Of this thread alone, as Linux has it; once, since it adds up.
        if !IS_NICE.replace(true) {
            let _ = rustix::process::nice(LESS);
        }
        work()
    })
    .await
}
