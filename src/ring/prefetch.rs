//! Memory that the CPU is to have in its cache when it is needed.
//!
//! A load that misses holds up what depends on it; a prefetch holds up nothing, so that those of many
//! streams run side by side.

/// Has the CPU fetch a value, not what it points to.
pub fn prefetch<T: ?Sized>(value: &T) {
    prefetch_at(std::ptr::from_ref(value).cast(), size_of_val(value));
}

/// Has the CPU fetch `len` bytes, which need not be there: nothing is read of them.
pub fn prefetch_at(start: *const u8, len: usize) {
    let into_line = start.addr() % LINE_LEN;
    for offset in (0..into_line + len).step_by(LINE_LEN) {
        prefetch_line(start.wrapping_sub(into_line).wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch_line(start: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch faults on no address and changes nothing that a program sees.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(start.cast()) }
}

/// Nothing, where there is no safe name for it.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_start: *const u8) {}

/// Of all CPUs that we are likely to run on.
const LINE_LEN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_will_do() {
        prefetch(&[7_u64; 100]);
        prefetch("");
        prefetch_at(std::ptr::null(), 0);
        prefetch_at(std::ptr::null(), 1000);
        prefetch_at(usize::MAX as *const u8, 1);
    }
}
