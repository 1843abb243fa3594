//! What the processor at hand can do, asked in one place for all kernels.

/// Whether it has vectors of 256 bits (AVX2) and what came with them: BMI1, BMI2, LZCNT and POPCNT.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}
