//! A colour scale that stays readable to colour-blind eyes and in grey.

/// Eleven even samples of viridis (van der Walt and Smith 2015).
const VIRIDIS: [[u8; 3]; 11] = [
    [68, 1, 84],
    [72, 36, 117],
    [65, 68, 135],
    [53, 95, 141],
    [42, 120, 142],
    [33, 145, 140],
    [34, 168, 132],
    [68, 191, 112],
    [122, 209, 81],
    [189, 223, 38],
    [253, 231, 37],
];

/// Viridis at 0 to 1; what lies outside is clamped.
pub(super) fn viridis_rgb(t: f64) -> [u8; 3] {
    let t = if t.is_finite() {
        t.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let position = t * (VIRIDIS.len() - 1) as f64;
    let i = (position as usize).min(VIRIDIS.len() - 2);
    let part = position - i as f64;
    std::array::from_fn(|c| {
        let [a, b] = [VIRIDIS[i][c], VIRIDIS[i + 1][c]].map(f64::from);
        (a + part * (b - a)).round() as u8
    })
}

/// As [`viridis_rgb`], as `#rrggbb`.
pub(super) fn viridis(t: f64) -> String {
    let [r, g, b] = viridis_rgb(t);
    format!("#{r:02x}{g:02x}{b:02x}")
}
