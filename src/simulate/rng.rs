//! Random numbers that depend on a key alone, never on who draws first.
//!
//! A stream is keyed by (seed, slide, tile, ...), so slides and tiles can be
//! made in any order and on any number of threads. Transcendental functions
//! come from the `libm` crate: the same bits on every platform.

/// One step of SplitMix64's output function (Steele, Lea and Flood 2014).
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A SplitMix64 stream.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// The stream of `seed` and the numbers that say what it is for.
    pub fn keyed(seed: u64, key: &[u64]) -> Self {
        Self(
            key.iter()
                .fold(mix(seed.wrapping_add(GOLDEN)), |state, &k| {
                    mix(state.wrapping_add(mix(k.wrapping_add(1).wrapping_mul(GOLDEN))))
                }),
        )
    }

    pub fn next_u64(&mut self) -> u64 {
        crate::random::splitmix64(&mut self.0)
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n; `n` must not be 0. The bias, n / 2^64, does not matter here.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// Both standard normal deviates of one Box-Muller draw.
    pub fn normal_pair(&mut self) -> (f32, f32) {
        let u = (1.0 - self.uniform()) as f32;
        let radius = (-2.0 * libm::logf(u)).sqrt();
        let (sin, cos) = libm::sincosf(std::f32::consts::TAU * self.uniform() as f32);
        (radius * cos, radius * sin)
    }

    /// A standard normal deviate (Box-Muller, in double precision).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// `exp(spread * normal)`: a factor whose median is 1.
    pub fn factor(&mut self, spread: f64) -> f64 {
        libm::exp(spread * self.normal())
    }

    /// A Poisson count, by Knuth's product of uniforms in chunks whose
    /// exponential does not underflow. Exact; the cost grows with `mean`.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        const CHUNK: f64 = 64.0;
        let mut left = mean;
        let mut count = 0;
        while left > 0.0 {
            let limit = libm::exp(-left.min(CHUNK));
            let mut product = self.uniform();
            while product > limit {
                count += 1;
                product *= self.uniform();
            }
            left -= CHUNK;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::keyed(1, &[2, 3]);
        let n = 20_000;
        for mean in [0.3, 7.0, 500.0] {
            let draws: Vec<f64> = (0..n).map(|_| rng.poisson(mean) as f64).collect();
            let average = draws.iter().sum::<f64>() / n as f64;
            let variance = draws.iter().map(|d| (d - average).powi(2)).sum::<f64>() / n as f64;
            // Five standard errors of each estimate.
            assert!(
                (average - mean).abs() < 5.0 * (mean / n as f64).sqrt(),
                "{mean}: {average}"
            );
            let spread = mean * ((2.0 + 1.0 / mean) / n as f64).sqrt();
            assert!((variance - mean).abs() < 5.0 * spread, "{mean}: {variance}");
        }
        let sum: f64 = (0..n).map(|_| rng.normal()).map(|z| z * z).sum();
        assert!((sum / n as f64 - 1.0).abs() < 0.05);
    }

    #[test]
    fn keys_that_differ_in_place_give_different_streams() {
        let first = |key: &[u64]| Rng::keyed(9, key).next_u64();
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[0]), first(&[0, 0]));
        assert_ne!(first(&[1]), Rng::keyed(10, &[1]).next_u64());
    }
}
