//! Memory: large tables that are an error where there is no room for them, on huge pages where the
//! system has some, and hints about what will be read next.

#![expect(unsafe_code, reason = "prefetching, madvise and the allocator take addresses")]

use std::alloc::{Layout, alloc_zeroed};

use crate::error::{Error, Result};

/// `len` times `value`; `vec!` would end the process where there is no room.
pub(crate) fn filled<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut all = Vec::new();
    reserve(&mut all, len)?;
    use_huge_pages(all.spare_capacity_mut());
    all.resize(len, value);
    Ok(all)
}

/// Numbers of which zeroed memory is a valid value.
pub(crate) trait Number: Copy {}
impl Number for u8 {}
impl Number for u64 {}

/// `len` zeros, as the system gives them: pages that are never touched take no memory.
pub(crate) fn zeroed<T: Number>(len: usize) -> Result<Box<[T]>> {
    let refused = || Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) };
    let layout = Layout::array::<T>(len).map_err(|_| refused())?;
    if layout.size() == 0 {
        return Ok(Box::default());
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(refused());
    }
    // SAFETY: `start` came from the global allocator with the layout of `len` of `T`, all of which
    // are zero and thus valid; nothing else owns it.
    Ok(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, len)) })
}

/// Makes room for `more`.
#[inline]
pub(crate) fn reserve<T>(all: &mut Vec<T>, more: usize) -> Result<()> {
    // Exact at first: much is allocated once, at its final size.
    let reserved = if all.is_empty() { all.try_reserve_exact(more) } else { all.try_reserve(more) };
    let bytes = all.len().saturating_add(more).saturating_mul(size_of::<T>());
    reserved.map_err(|_| Error::OutOfMemory { bytes })
}

/// Makes room for `more` bytes of text.
pub(crate) fn reserve_text(text: &mut String, more: usize) -> Result<()> {
    let bytes = text.len().saturating_add(more);
    text.try_reserve(more).map_err(|_| Error::OutOfMemory { bytes })
}

/// Asks for the cache line of `slice[index]`; any index may be given.
#[inline]
pub(crate) fn prefetch<T>(slice: &[T], index: usize) {
    prefetch_at(slice.as_ptr().wrapping_add(index));
}

/// Asks for the cache line at an address; any may be given.
#[inline]
pub(crate) fn prefetch_at<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching reads nothing the program can see and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
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
