//! Sorting that leaves equal elements where libstdc++'s `std::sort` and `std::partial_sort` leave them: llama.cpp's
//! seeded draws walk the candidates in that order, so it is part of the results. Called by [`Candidates`] and by the
//! samplers that order something other than logits.
//!
//! Both are introsort (Musser, "Introspective Sorting and Selection Algorithms", 1997) with a median of three, runs of
//! 16 left to insertion sort, and heaps that are refilled by moving the hole to a leaf (Floyd).
//!
//! [`Candidates`]: super::Candidates

use super::TokenData;

/// The order of candidates: higher logits first.
pub fn by_logit(a: &TokenData, b: &TokenData) -> bool {
    a.logit > b.logit
}

/// Sorts `v` so that no element is `before` its predecessor. Inconsistent answers of `before` (as comparisons with NaN
/// give) lead to some order, never out of bounds.
pub fn sort<T: Copy>(v: &mut [T], before: impl Fn(&T, &T) -> bool + Copy) {
    if v.len() > 1 {
        introsort(v, 2 * v.len().ilog2(), before);
        insertion_sort(v, before);
    }
}

/// Puts the first `k` elements of the sorted order, sorted, at the start of `v`; the rest is left in any order.
pub fn partial_sort<T: Copy>(v: &mut [T], k: usize, before: impl Fn(&T, &T) -> bool + Copy) {
    let k = k.min(v.len());
    if k == 0 {
        return;
    }
    let (heap, rest) = v.split_at_mut(k);
    make_heap(heap, before);
    for item in rest {
        // heap[0] is the worst of the best k so far.
        if before(item, &heap[0]) {
            let value = std::mem::replace(item, heap[0]);
            place(heap, 0, value, before);
        }
    }
    sort_heap(heap, before);
}

/// Puts the candidates with the highest `k` logits, sorted, at the start of `out`, which may hold more. Logits fall
/// into 128 buckets over [-10, 10] first, so that only the upper buckets are ever sorted.
///
/// `k` must not exceed `data.len()`.
pub fn top_by_buckets(data: &[TokenData], k: usize, out: &mut Vec<TokenData>) {
    const N: usize = 128;
    let bucket = |c: &TokenData| (6.4f32 * c.logit + 64.0f32).max(0.0).min((N - 1) as f32) as usize;

    let mut count = [0usize; N];
    for c in data {
        count[bucket(c)] += 1;
    }
    // The lowest bucket needed, and where each bucket starts in `out`, highest first.
    let mut start = [0usize; N];
    let mut total = 0;
    let mut lowest = N - 1;
    for b in (0..N).rev() {
        start[b] = total;
        total += count[b];
        lowest = b;
        if total >= k {
            break;
        }
    }
    out.clear();
    out.resize(total, TokenData::default());
    let mut next = start;
    for c in data {
        let b = bucket(c);
        if b >= lowest {
            out[next[b]] = *c;
            next[b] += 1;
        }
    }
    for b in lowest + 1..N {
        sort(&mut out[start[b]..start[b] + count[b]], by_logit);
    }
    partial_sort(&mut out[start[lowest]..], k - start[lowest], by_logit);
}

/// Runs up to this long are left to [`insertion_sort`].
const RUN: usize = 16;

fn introsort<T: Copy>(mut v: &mut [T], mut depth: u32, before: impl Fn(&T, &T) -> bool + Copy) {
    while v.len() > RUN {
        if depth == 0 {
            make_heap(v, before);
            sort_heap(v, before);
            return;
        }
        depth -= 1;
        let cut = partition(v, before);
        let (left, right) = v.split_at_mut(cut);
        introsort(right, depth, before);
        v = left;
    }
}

/// Moves the median of the second, middle and last element to the front, then splits the rest around it. Returns where
/// the second part starts.
fn partition<T: Copy>(v: &mut [T], before: impl Fn(&T, &T) -> bool + Copy) -> usize {
    let (a, b, c) = (1, v.len() / 2, v.len() - 1);
    let median = if before(&v[a], &v[b]) {
        if before(&v[b], &v[c]) {
            b
        } else if before(&v[a], &v[c]) {
            c
        } else {
            a
        }
    } else if before(&v[a], &v[c]) {
        a
    } else if before(&v[b], &v[c]) {
        c
    } else {
        b
    };
    v.swap(0, median);
    let pivot = v[0];
    let (mut lo, mut hi) = (1, v.len());
    loop {
        while lo < v.len() && before(&v[lo], &pivot) {
            lo += 1;
        }
        hi -= 1;
        while hi > 0 && before(&pivot, &v[hi]) {
            hi -= 1;
        }
        if lo >= hi {
            return lo;
        }
        v.swap(lo, hi);
        lo += 1;
    }
}

fn insertion_sort<T: Copy>(v: &mut [T], before: impl Fn(&T, &T) -> bool) {
    for i in 1..v.len() {
        let value = v[i];
        let mut hole = i;
        while hole > 0 && before(&value, &v[hole - 1]) {
            v[hole] = v[hole - 1];
            hole -= 1;
        }
        v[hole] = value;
    }
}

fn make_heap<T: Copy>(v: &mut [T], before: impl Fn(&T, &T) -> bool + Copy) {
    for parent in (0..v.len() / 2).rev() {
        place(v, parent, v[parent], before);
    }
}

fn sort_heap<T: Copy>(v: &mut [T], before: impl Fn(&T, &T) -> bool + Copy) {
    for last in (1..v.len()).rev() {
        let value = v[last];
        v[last] = v[0];
        place(&mut v[..last], 0, value, before);
    }
}

/// Gives the heap below `top` the `value` in place of `v[top]`: the hole sinks to a leaf, then the value rises from there.
fn place<T: Copy>(v: &mut [T], top: usize, value: T, before: impl Fn(&T, &T) -> bool) {
    let mut hole = top;
    loop {
        let right = 2 * hole + 2;
        let child = match right.cmp(&v.len()) {
            std::cmp::Ordering::Less if !before(&v[right], &v[right - 1]) => right,
            std::cmp::Ordering::Less | std::cmp::Ordering::Equal => right - 1,
            std::cmp::Ordering::Greater => break,
        };
        v[hole] = v[child];
        hole = child;
    }
    while hole > top {
        let parent = (hole - 1) / 2;
        if !before(&v[parent], &value) {
            break;
        }
        v[hole] = v[parent];
        hole = parent;
    }
    v[hole] = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descending(data: &[TokenData]) -> bool {
        data.windows(2).all(|w| w[0].logit >= w[1].logit)
    }

    fn candidates(logits: &[f32]) -> Vec<TokenData> {
        crate::sampling::testing::vocabulary(logits)
    }

    proptest! {
        #[test]
        fn sorts(values in prop::collection::vec(0u16..300, 0..2000)) {
            let mut ours = values.clone();
            sort(&mut ours, |a, b| a < b);
            let mut expected = values;
            expected.sort();
            prop_assert_eq!(ours, expected);
        }

        #[test]
        fn partially_sorts(values in prop::collection::vec(0u16..300, 0..600), k in 0usize..700) {
            let mut ours = values.clone();
            partial_sort(&mut ours, k, |a, b| a < b);
            let mut expected = values.clone();
            expected.sort();
            let k = k.min(values.len());
            prop_assert_eq!(&ours[..k], &expected[..k]);
        }

        #[test]
        fn buckets_find_the_top(logits in prop::collection::vec(-20f32..20.0, 1..1500), part in 0.0f64..=1.0) {
            let data = candidates(&logits);
            let k = (part * data.len() as f64) as usize;
            let mut out = Vec::new();
            top_by_buckets(&data, k, &mut out);
            let mut expected = data.clone();
            expected.sort_by(|a, b| b.logit.total_cmp(&a.logit));
            prop_assert!(descending(&out[..k]));
            for (o, e) in out[..k].iter().zip(&expected) {
                prop_assert_eq!(o.logit, e.logit);
            }
        }

        #[test]
        fn nan_and_infinity_do_no_harm(kinds in prop::collection::vec(0usize..5, 0..500)) {
            let logits: Vec<f32> =
                kinds.iter().map(|&k| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1.0][k]).collect();
            let mut data = candidates(&logits);
            let mut out = Vec::new();
            top_by_buckets(&data, data.len(), &mut out);
            let n = data.len();
            sort(&mut data, by_logit);
            partial_sort(&mut data, n / 2, by_logit);
            let mut ids: Vec<_> = data.iter().map(|c| c.id).collect();
            ids.sort();
            prop_assert_eq!(ids, (0..n as i32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn adversarial_input_falls_back_to_heaps() {
        // Ascending then descending halves defeat the median of three often enough to reach the depth limit.
        let mut v: Vec<u32> = (0..50_000).map(|i| if i % 2 == 0 { i } else { 50_000 - i }).collect();
        sort(&mut v, |a, b| a < b);
        assert!(v.is_sorted());
    }
}
