//! What the allocator does with large blocks.

/// Blocks of this many bytes and more are given back to the system as soon as they are free.
const LARGE: libc::c_int = 64 << 10;

/// Heaps that threads have between them.
const HEAPS: libc::c_int = 4;

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
