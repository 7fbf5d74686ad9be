//! Random numbers equal to those of C++'s `<random>` as libstdc++ implements it: the 32-bit Mersenne Twister and the
//! distributions that llama.cpp's samplers draw from. Used by every sampler with a seed.

use std::hash::{BuildHasher, Hasher};

use super::{DEFAULT_SEED, TokenData};

const N: usize = 624;
const M: usize = 397;

/// MT19937 (Matsumoto and Nishimura, 1998), the generator `std::mt19937`.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Mt19937 { state, next: N }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number in [0, 1) from two draws, as `std::uniform_real_distribution<double>` gives it.
    pub fn uniform_f64(&mut self) -> f64 {
        let low = f64::from(self.next_u32());
        let high = f64::from(self.next_u32());
        let x = (low + high * 4_294_967_296.0) / 18_446_744_073_709_551_616.0;
        if x < 1.0 { x } else { 1.0 - f64::EPSILON / 2.0 }
    }

    /// A number in [0, 1) from one draw, as `std::uniform_real_distribution<float>` gives it.
    pub fn uniform_f32(&mut self) -> f32 {
        let x = self.next_u32() as f32 / 4_294_967_296.0;
        if x < 1.0 { x } else { 1.0 - f32::EPSILON / 2.0 }
    }

    /// The index of a candidate, drawn by its `p`, as `std::discrete_distribution` gives it: the probabilities need not
    /// sum to one, and a single candidate costs no draw. Index 0 if there is none.
    pub fn discrete(&mut self, data: &[TokenData]) -> usize {
        if data.len() < 2 {
            return 0;
        }
        let sum: f64 = data.iter().fold(0.0, |sum, c| sum + f64::from(c.p));
        let target = self.uniform_f64();
        let mut cumulative = 0.0;
        for (i, c) in data[..data.len() - 1].iter().enumerate() {
            cumulative += f64::from(c.p) / sum;
            // NaN, as with a sum of 0, ends the search at once.
            if cumulative < target {
                continue;
            }
            return i;
        }
        data.len() - 1
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// The generator of a sampler with the seed that the caller gave.
#[derive(Clone)]
pub struct Seeded {
    seed: u32,
    current: u32,
    /// The numbers to draw from.
    pub rng: Mt19937,
}

impl Seeded {
    /// Starts at `seed`, or at a random one if that is [`DEFAULT_SEED`].
    pub fn new(seed: u32) -> Self {
        let current = if seed == DEFAULT_SEED { random_seed() } else { seed };
        Seeded { seed, current, rng: Mt19937::new(current) }
    }

    /// Starts again; anew if the seed is random.
    pub fn reset(&mut self) {
        *self = Seeded::new(self.seed);
    }

    /// The seed in use: a random one has been made concrete.
    pub fn current(&self) -> u32 {
        self.current
    }
}

fn random_seed() -> u32 {
    // std keys each RandomState from the system's random source.
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_number_is_the_standards() {
        // [rand.predef] in the C++ standard: the 10000th invocation with the default seed 5489.
        let mut rng = Mt19937::new(5489);
        let last = (0..10_000).map(|_| rng.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn uniform_numbers_use_the_documented_draws() {
        let mut raw = Mt19937::new(7);
        let (a, b, c) = (raw.next_u32(), raw.next_u32(), raw.next_u32());
        let mut rng = Mt19937::new(7);
        assert_eq!(rng.uniform_f64(), (f64::from(b) * 2f64.powi(32) + f64::from(a)) / 2f64.powi(64));
        assert_eq!(rng.uniform_f32(), c as f32 / 2f32.powi(32));
    }

    #[test]
    fn discrete_follows_the_weights() {
        let data: Vec<_> = [1.0, 0.0, 3.0].iter().zip(0..).map(|(&p, id)| TokenData { id, logit: 0.0, p }).collect();
        let mut rng = Mt19937::new(1);
        let mut count = [0; 3];
        for _ in 0..8000 {
            count[rng.discrete(&data)] += 1;
        }
        assert_eq!(count[1], 0);
        assert!((1800..2200).contains(&count[0]), "{count:?}");
        assert_eq!(rng.discrete(&data[..1]), 0);
        assert_eq!(rng.discrete(&[]), 0);
    }

    #[test]
    fn random_seeds_differ_and_are_reported() {
        let (a, b) = (Seeded::new(DEFAULT_SEED), Seeded::new(DEFAULT_SEED));
        assert_ne!(a.current(), b.current());
        assert_eq!(Seeded::new(3).current(), 3);
    }
}
