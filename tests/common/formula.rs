//! The generator of golden weights and inputs (tests/golden/README.md).

/// The first `n` values in [lo, hi) of the stream that belongs to `name`.
pub fn values(name: &str, n: usize, lo: f64, hi: f64) -> Vec<f32> {
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let unit = (z >> 40) as f64 / f64::from(1u32 << 24);
        (lo + (hi - lo) * unit) as f32
    })
    .take(n)
    .collect()
}
