//! How the process keeps its memory.

/// Tells the system's allocator to keep the memory of large buffers for the next ones, for processes that compute.
///
/// Left alone, glibc maps every buffer above some size anew and hands it back when it is dropped; the kernel then clears each
/// page at its first touch, time and again for every layer of a network. On the CPU that took a quarter of a U-Net's pass and
/// two thirds of a merge (docs/performance.md). The price: a process keeps the memory of its largest piece of work.
/// Does nothing where the allocator is another.
pub fn keep_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// "Never", for the threshold from which on free memory is handed back (mallopt(3)).
        const NEVER: libc::c_int = -1;
        // SAFETY: mallopt changes settings only, under the allocator's own lock.
        #[allow(
            unsafe_code,
            reason = "the C library's allocator has no other interface"
        )]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
        }
    }
}
