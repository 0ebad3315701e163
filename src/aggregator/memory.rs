//! Settings of the memory allocator and of thread priorities.

use std::cell::Cell;

use tokio::task::{JoinError, spawn_blocking};

/// Size in bytes from which on freed blocks are returned to the system immediately.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 << 10;

/// Maximum number of heaps (arenas) of all threads.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Nice value of background work, so that it does not delay responses.
const LESS: i32 = 10;

/// Configures glibc to return large freed blocks to the system.
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

/// Returns free memory to the system, after a large piece of work.
#[allow(unsafe_code)]
pub(super) async fn give_back() {
    // SAFETY: malloc_trim takes nothing that is in use, and may be called from any thread.
    #[cfg(target_env = "gnu")]
    let _ = in_background(|| unsafe { libc::malloc_trim(0) }).await;
}

/// Runs background work, such as merging and matching, in a thread with lower priority than those that answer requests.
///
/// # Errors
/// When it panicked.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    thread_local!(static IS_NICE: Cell<bool> = const { Cell::new(false) });
    spawn_blocking(move || {
        // On Linux, nice applies to this thread only. It is set once, because each call adds to the value.
        if !IS_NICE.replace(true) {
            let _ = rustix::process::nice(LESS);
        }
        work()
    })
    .await
}
