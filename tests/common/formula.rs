//! The number formula of tests/golden/README.md: values from a name alone.

/// FNV-1a, 64 bits, of the UTF-8 name.
pub fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

/// `n` values in [low, high) for `name`, row-major.
pub fn values(name: &str, n: usize, low: f64, high: f64) -> Vec<f32> {
    let mut state = fnv1a(name);
    (0..n)
        .map(|_| {
            let x = eosin::random::splitmix64(&mut state);
            let u = (x >> 40) as f64 / (1u64 << 24) as f64;
            (low + (high - low) * u) as f32
        })
        .collect()
}
