//! The formula behind the inputs and weights of the golden data
//! (tests/golden/README.md): every value follows from a name and an index.

/// `n` values in `[lo, hi)` for a name.
pub fn values(name: &str, n: usize, lo: f64, hi: f64) -> Vec<f32> {
    let mut state = fnv1a(name);
    (0..n)
        .map(|_| {
            let unit = (split_mix(&mut state) >> 40) as f64 / (1u64 << 24) as f64;
            (lo + (hi - lo) * unit) as f32
        })
        .collect()
}

/// FNV-1a, 64 bits, of the UTF-8 bytes.
pub fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Advances `state` and returns the next output of SplitMix64.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
