//! What the program knows about its next memory accesses, told to the machine: lines it will soon
//! read, tables it will read everywhere. Hints alone; nothing depends on whether they are taken.

#![expect(unsafe_code, reason = "prefetching and madvise take addresses")]

/// Asks for the cache line of `slice[index]`; any index may be given.
#[inline]
pub(crate) fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = slice.as_ptr().wrapping_add(index).cast::<i8>();
        // SAFETY: prefetching reads nothing the program can see and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}

/// Asks for huge pages behind `slice`, where it is larger than one.
pub(crate) fn use_huge_pages<T>(slice: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let start = slice.as_ptr().addr().next_multiple_of(HUGE);
        let end = (slice.as_ptr().addr() + size_of_val(slice)) / HUGE * HUGE;
        if start < end {
            let address = slice.as_mut_ptr().with_addr(start);
            // SAFETY: whole pages inside `slice`, and the advice leaves their content as it is.
            unsafe { libc::madvise(address.cast(), end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = slice;
}
