//! The order in which llama.cpp comes across the tokens of a vocabulary.
//!
//! Where a file does not say which token ends a turn (or starts a gap), llama.cpp takes the first of several known texts
//! that it meets while walking a `std::unordered_map`. Many vocabularies have more than one of these texts, so which one
//! it is depends on the order that GNU's C++ library gives such a map. This replays the map: only for vocabularies where
//! it matters, called by special.rs.

use super::Token;
use super::texts::Texts;

/// The numbers of buckets that the map grows through when filled one by one (each the next prime, of a list that the
/// library has, after twice the last).
const N_BUCKETS: [usize; 24] = [
    13,
    29,
    59,
    127,
    257,
    541,
    1109,
    2357,
    5087,
    10273,
    20753,
    42043,
    85229,
    172_933,
    351_061,
    712_697,
    1_447_153,
    2_938_679,
    5_967_347,
    12_117_689,
    24_607_243,
    49_969_847,
    101_473_717,
    206_062_531,
];

/// No bucket or node.
const NONE: u32 = u32::MAX;

/// Which of `candidates` comes first in the map over all `texts`.
pub fn first(texts: &Texts, candidates: &[Token]) -> Option<Token> {
    if candidates.len() <= 1 {
        return candidates.first().copied();
    }
    let hashes: Vec<u64> = texts.iter().map(hash).collect();
    let mut map = Map { next: Vec::with_capacity(hashes.len() + 1), before: vec![NONE; N_BUCKETS[0]], head: NONE };
    let mut sizes = N_BUCKETS.iter();
    let mut n_buckets = *sizes.next()?;
    for i in 0..hashes.len() {
        if i >= n_buckets {
            n_buckets = *sizes.next()?;
            map.rehash(&hashes[..i], n_buckets);
        }
        map.next.push(NONE);
        map.link_at_start_of_bucket(&hashes, i as u32);
    }
    let mut node = map.head;
    while node != NONE && !candidates.contains(&(node as Token)) {
        node = map.next[node as usize];
    }
    (node != NONE).then_some(node as Token)
}

/// All nodes are in one list, those of a bucket side by side. A bucket knows the node before its first.
struct Map {
    next: Vec<u32>,
    before: Vec<u32>,
    head: u32,
}

/// What a bucket at the head of the list has before its first node.
const LIST_HEAD: u32 = u32::MAX - 1;

impl Map {
    fn bucket(&self, hash: u64) -> usize {
        (hash % self.before.len() as u64) as usize
    }

    fn link_at_start_of_bucket(&mut self, hashes: &[u64], node: u32) {
        let bucket = self.bucket(hashes[node as usize]);
        match self.before[bucket] {
            NONE => {
                self.next[node as usize] = self.head;
                if self.head != NONE {
                    let pushed_back = self.bucket(hashes[self.head as usize]);
                    self.before[pushed_back] = node;
                }
                self.head = node;
                self.before[bucket] = LIST_HEAD;
            }
            LIST_HEAD => {
                self.next[node as usize] = self.head;
                self.head = node;
            }
            before => self.next[node as usize] = std::mem::replace(&mut self.next[before as usize], node),
        }
    }

    fn rehash(&mut self, hashes: &[u64], n_buckets: usize) {
        self.before = vec![NONE; n_buckets];
        let mut node = std::mem::replace(&mut self.head, NONE);
        while node != NONE {
            let next = self.next[node as usize];
            self.link_at_start_of_bucket(hashes, node);
            node = next;
        }
    }
}

/// The library's hash of strings: MurmurHash64A by Austin Appleby, with the library's seed.
fn hash(text: &[u8]) -> u64 {
    const SEED: u64 = 0xC70F_6907;
    const MULTIPLIER: u64 = 0xC6A4_A793_5BD1_E995;
    let mix = |v: u64| v ^ v >> 47;
    let (words, tail) = text.as_chunks::<8>();
    let mut hash = SEED ^ (text.len() as u64).wrapping_mul(MULTIPLIER);
    for word in words {
        let word = mix(u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    if !tail.is_empty() {
        let word = tail.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_libstdcxx() {
        assert_eq!(hash(b""), 0x553e_9390_1e46_2a6e);
        assert_eq!(hash(b"a"), 0x454d_dee4_88c1_ed6b);
        assert_eq!(hash(b"abcdefg"), 0xdeee_6830_a3af_82af);
        assert_eq!(hash(b"abcdefgh"), 0x783d_b3e3_8db8_98bb);
        assert_eq!(hash(b"<|endoftext|>"), 0x2b34_c074_254b_95f4);
        assert_eq!(hash(b"\xff\xfe\xfd"), 0xa1fc_41df_7d29_b44d);
    }

    /// The first keys that `std::unordered_map` walks after `t0`, `t1`, ... were put in.
    #[test]
    fn the_order_is_that_of_libstdcxx() {
        let walks: [(usize, &[Token]); 5] = [
            (5, &[4, 3, 2, 1, 0]),
            (14, &[0, 13, 7, 10, 1, 2, 4, 6]),
            (100, &[99, 96, 93, 89, 86, 85, 82, 81]),
            (1000, &[998, 995, 988, 987, 982, 992, 981, 978]),
            (30000, &[29996, 29995, 29994, 29992, 29990, 29985, 29984, 29983]),
        ];
        for (n, walk) in walks {
            let keys: Vec<String> = (0..n).map(|i| format!("t{i}")).collect();
            let texts: Texts = keys.iter().map(|key| key.as_bytes()).collect();
            for i in 0..walk.len() {
                let mut candidates = walk[i..].to_vec();
                candidates.reverse();
                assert_eq!(first(&texts, &candidates), Some(walk[i]), "{n} keys, place {i}");
            }
        }
        assert_eq!(first(&Texts::default(), &[]), None);
    }
}
