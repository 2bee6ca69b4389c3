//! The matrices that TCGN's published code makes of a graph's edges.

/// The matrices of the published code, in f64, (rows, columns) each.
pub struct Dense {
    pub nodes: usize,
    pub edges: usize,
    /// D^-1/2 A D^-1/2, and NaN or infinity around a node that no edge leaves.
    pub adjacency: Vec<f64>,
    pub edge_adjacency: Vec<f64>,
    pub transition: Vec<f64>,
}

impl Dense {
    pub fn new(ends: &[[usize; 2]], nodes: usize) -> Self {
        let edges = ends.len();
        let mut a = vec![0.0; nodes * nodes];
        let mut transition = vec![0.0; nodes * edges];
        for (e, &[i, j]) in ends.iter().enumerate() {
            a[i * nodes + j] = 1.0;
            transition[i * edges + e] += 1.0;
            transition[j * edges + e] += 1.0;
        }
        let mut s = vec![0.0; edges * edges];
        for (e, a) in ends.iter().enumerate() {
            for (f, b) in ends.iter().enumerate() {
                let shared = a.iter().any(|n| b.contains(n));
                s[e * edges + f] = f64::from(u8::from(shared));
            }
        }
        Self {
            nodes,
            edges,
            adjacency: normalised(&a, nodes, 0.0),
            edge_adjacency: normalised(&s, edges, 1.0),
            transition,
        }
    }
}

/// D^-1/2 A D^-1/2 with D the sums of the rows and `more`.
fn normalised(a: &[f64], n: usize, more: f64) -> Vec<f64> {
    let scale: Vec<f64> = a
        .chunks(n)
        .map(|row| (row.iter().sum::<f64>() + more).powf(-0.5))
        .collect();
    let both = |i: usize| scale[i / n] * a[i] * scale[i % n];
    (0..n * n).map(both).collect()
}
