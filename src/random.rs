//! Counter-based random numbers: Philox4x32-10 and SplitMix64.
//!
//! Both map a counter to bits without carried state, so any element of a
//! stream can be computed on its own, on any thread or device, and a stream is
//! saved by saving its counter.

/// The next output of SplitMix64 (Steele, Lea and Flood 2014).
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Four random words for a 64-bit key and a 128-bit counter (Salmon et al.
/// 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32 with 10
/// rounds).
pub fn philox4x32(key: u64, counter: [u32; 4]) -> [u32; 4] {
    rounds(key, counter.map(|word| [word])).map(|[word]| word)
}

/// N blocks side by side, for vector instructions: `[word][block]`.
#[inline(always)]
fn rounds<const N: usize>(key: u64, mut c: [[u32; N]; 4]) -> [[u32; N]; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let before = c;
        for i in 0..N {
            let p0 = u64::from(before[0][i]) * 0xD251_1F53;
            let p1 = u64::from(before[2][i]) * 0xCD9E_8D57;
            c[0][i] = (p1 >> 32) as u32 ^ before[1][i] ^ k0;
            c[1][i] = p1 as u32;
            c[2][i] = (p0 >> 32) as u32 ^ before[3][i] ^ k1;
            c[3][i] = p0 as u32;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    c
}

/// A stream of random numbers: a key and a position. Cloning it copies the
/// position; two words, `(key, position)`, restore it.
///
/// Kernels have a twin of it, `eosin::Random` in kernels/common/base.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Philox {
    pub key: u64,
    /// Blocks of four words handed out so far.
    pub position: u64,
}

impl Philox {
    pub fn new(seed: u64) -> Self {
        Self {
            key: seed,
            position: 0,
        }
    }

    /// An independent stream for a purpose, e.g. one per layer or per fold.
    pub fn fork(seed: u64, purpose: &str) -> Self {
        let mut key = seed;
        for &b in purpose.as_bytes() {
            key ^= u64::from(b);
            key = splitmix64(&mut key);
        }
        Self::new(key)
    }

    /// Reserves `blocks` blocks and returns where they start.
    pub fn reserve(&mut self, blocks: u64) -> u64 {
        let start = self.position;
        self.position += blocks;
        start
    }

    /// The words of one block; word `i` of a stream is in block `i / 4`.
    pub fn block(&self, position: u64) -> [u32; 4] {
        philox4x32(self.key, [position as u32, (position >> 32) as u32, 0, 0])
    }

    /// As many blocks from `position` on: word w of block i is `[w][i]`.
    #[inline(always)]
    pub fn blocks<const N: usize>(&self, position: u64) -> [[u32; N]; 4] {
        let at = |i: usize| position.wrapping_add(i as u64);
        let low = std::array::from_fn(|i| at(i) as u32);
        let high = std::array::from_fn(|i| (at(i) >> 32) as u32);
        rounds(self.key, [low, high, [0; N], [0; N]])
    }

    /// A uniform number in [0, 1) with 24 bits from one word.
    pub fn unit(word: u32) -> f32 {
        (word >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    fn next_u64(&mut self) -> u64 {
        let at = self.reserve(1);
        let b = self.block(at);
        u64::from(b[0]) | u64::from(b[1]) << 32
    }

    /// A uniform integer in 0..n (0 for n = 0), without modulo bias beyond 2^-64 n.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// `out` with uniform numbers in [low, high).
    pub fn fill_uniform(&mut self, out: &mut [f32], low: f32, high: f32) {
        for chunk in out.chunks_mut(4) {
            let at = self.reserve(1);
            for (v, word) in chunk.iter_mut().zip(self.block(at)) {
                *v = low + (high - low) * Self::unit(word);
            }
        }
    }

    /// `out` with normal numbers (Box-Muller on pairs of words).
    pub fn fill_normal(&mut self, out: &mut [f32], mean: f32, std: f32) {
        for chunk in out.chunks_mut(4) {
            let at = self.reserve(1);
            let w = self.block(at);
            let mut normals = [0.0f32; 4];
            for pair in 0..2 {
                // 1 - u is in (0, 1], so the logarithm is finite.
                let radius = (-2.0 * f64::from(1.0 - Self::unit(w[2 * pair])).ln()).sqrt();
                let angle = std::f64::consts::TAU * f64::from(Self::unit(w[2 * pair + 1]));
                normals[2 * pair] = (radius * angle.cos()) as f32;
                normals[2 * pair + 1] = (radius * angle.sin()) as f32;
            }
            for (v, n) in chunk.iter_mut().zip(normals) {
                *v = mean + std * n;
            }
        }
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the authors' Random123 library.
    #[test]
    fn philox_known_answers() {
        assert_eq!(
            philox4x32(0, [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32(u64::MAX, [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                0x299f_31d0_a409_3822,
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn blocks_side_by_side() {
        let stream = Philox::new(7);
        for first in [0, u64::from(u32::MAX) - 2, u64::MAX - 1] {
            let all = stream.blocks::<5>(first);
            for i in 0..5 {
                let one = stream.block(first.wrapping_add(i as u64));
                assert_eq!(all.map(|word| word[i]), one);
            }
        }
    }

    #[test]
    fn normal_moments() {
        let mut v = vec![0.0; 100_000];
        Philox::new(7).fill_normal(&mut v, 2.0, 3.0);
        let n = v.len() as f64;
        let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let var = v
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / n;
        // Five standard errors of the mean and of the variance.
        assert!((mean - 2.0).abs() < 5.0 * 3.0 / n.sqrt(), "{mean}");
        assert!((var - 9.0).abs() < 5.0 * 9.0 * (2.0 / n).sqrt(), "{var}");
    }

    #[test]
    fn shuffle_is_a_permutation_and_streams_differ() {
        let mut a: Vec<u32> = (0..1000).collect();
        Philox::fork(1, "a").shuffle(&mut a);
        let mut b: Vec<u32> = (0..1000).collect();
        Philox::fork(1, "b").shuffle(&mut b);
        assert_ne!(a, b);
        a.sort_unstable();
        assert!(a.into_iter().eq(0..1000));
    }
}
