//! What the processor at hand can do, asked in one place for all kernels.

/// Whether it has vectors of 256 bits (AVX2) and what came with them: BMI1, BMI2, LZCNT and POPCNT.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    #[cfg(test)]
    if level::get() < level::AVX2 {
        return false;
    }
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

/// Whether it has vectors of 512 bits (AVX-512) with what Ice Lake and Zen 4 brought: bytes in any
/// order, and AES on all of them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    #[cfg(test)]
    if level::get() < level::AVX512 {
        return false;
    }
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("vaes")
}

/// What this thread pretends the processor can do, at most, so that one machine tests every kernel.
#[cfg(test)]
pub(crate) mod level {
    use std::cell::Cell;

    pub(crate) const PORTABLE: u8 = 0;
    pub(crate) const AVX2: u8 = 1;
    pub(crate) const AVX512: u8 = 2;

    pub(crate) const ALL: [u8; 3] = [PORTABLE, AVX2, AVX512];

    thread_local! {
        static LEVEL: Cell<u8> = const { Cell::new(AVX512) };
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn get() -> u8 {
        LEVEL.get()
    }

    /// Does `work` as if no more were possible.
    pub(crate) fn at_most<T>(level: u8, work: impl FnOnce() -> T) -> T {
        let before = LEVEL.replace(level);
        let result = work();
        LEVEL.set(before);
        result
    }
}
