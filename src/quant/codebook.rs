//! Search in the codebooks of the iq formats: which points lie near a group of levels that is none itself. The tables are
//! made at first use. Used by `iq_quantize` and `iq1_quantize`.

use super::grids;
use std::sync::LazyLock;

/// A codebook's points, and for every other group of levels the points near it.
pub(super) struct Codebook {
    /// Elements of a point.
    dim: usize,
    /// Bits of a level in a packed group.
    width: usize,
    /// `2 level + 1` for each element of each point.
    points: Vec<u8>,
    /// By packed group: a point's number, or where in `lists` the numbers of those near it begin, counted down from -1.
    map: Vec<i32>,
    /// Each a length and that many numbers, nearest first.
    lists: Vec<u16>,
}

/// Of iq2_xxs.
pub(super) static IQ2XXS: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&grids::IQ2XXS_BITS, 8, 3, 2));
/// Of iq2_xs.
pub(super) static IQ2XS: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&grids::IQ2XS_BITS, 8, 3, 2));
/// Of iq2_s.
pub(super) static IQ2S: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&grids::IQ2S_BITS, 8, 3, 1));
/// Of iq3_xxs.
pub(super) static IQ3XXS: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&grids::IQ3XXS_BITS, 4, 8, 2));
/// Of iq3_s.
pub(super) static IQ3S: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&grids::IQ3S_BITS, 4, 8, 3));
/// Of iq1_s and iq1_m.
pub(super) static IQ1S: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&grids::IQ1S_BITS, 8, 3, 3));

impl Codebook {
    /// `n_levels` levels in each of `dim` elements; "near" are the points at the `n_distances` smallest distances.
    fn new(bits: &[u16], dim: usize, n_levels: usize, n_distances: usize) -> Codebook {
        let width = n_levels.next_power_of_two().trailing_zeros() as usize;
        let unpack = |group: usize| (0..dim).map(move |i| (group >> (i * width)) & ((1 << width) - 1));
        let points: Vec<u8> =
            bits.iter().flat_map(|&group| unpack(usize::from(group)).map(|l| 2 * l as u8 + 1)).collect();
        let mut map = vec![-1; 1 << (dim * width)];
        for (number, &group) in bits.iter().enumerate() {
            map[usize::from(group)] = number as i32;
        }
        let mut lists = Vec::new();
        let mut distances = vec![0; bits.len()];
        for (group, place) in map.iter_mut().enumerate() {
            if *place >= 0 || unpack(group).any(|l| l >= n_levels) {
                continue;
            }
            for (distance, point) in distances.iter_mut().zip(points.chunks_exact(dim)) {
                let diffs = unpack(group).zip(point).map(|(l, &p)| i32::from(p) - (2 * l as i32 + 1));
                *distance = diffs.map(|d| d * d).sum();
            }
            *place = -1 - lists.len() as i32;
            near(&distances, n_distances, &mut lists);
        }
        Codebook { dim, width, points, map, lists }
    }

    /// Elements of a point.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// `2 level + 1` for each element of a point.
    pub(super) fn point(&self, number: u16) -> &[u8] {
        &self.points[usize::from(number) * self.dim..][..self.dim]
    }

    /// The point of these levels, or the list of those near.
    pub(super) fn find(&self, levels: impl Iterator<Item = u8>) -> Result<u16, &[u16]> {
        let group = levels.enumerate().fold(0, |group, (i, l)| group | usize::from(l) << (i * self.width));
        match self.map[group] {
            number @ 0.. => Ok(number as u16),
            place => {
                let at = (-1 - place) as usize;
                Err(&self.lists[at + 1..][..usize::from(self.lists[at])])
            }
        }
    }

    /// Of `numbers`, the point whose elements, after `value`, miss `x / scale` by the least weighted error.
    pub(super) fn best(
        &self,
        numbers: &[u16],
        x: &[f32],
        weights: &[f32],
        scale: f32,
        value: impl Fn(u8) -> f32,
    ) -> u16 {
        let (mut best, mut best_error) = (numbers[0], f32::MAX);
        for &number in numbers {
            let mut error = 0f32;
            for ((&p, &v), &w) in self.point(number).iter().zip(x).zip(weights) {
                let diff = scale * value(p) - v;
                error += w * diff * diff;
            }
            if error < best_error {
                (best, best_error) = (number, error);
            }
        }
        best
    }
}

/// Appends the list of the points at the `n_distances` smallest of `distances`, ordered by distance, then by number.
fn near(distances: &[i32], n_distances: usize, lists: &mut Vec<u16>) {
    let at = lists.len();
    lists.push(0);
    let mut beyond = -1;
    for _ in 0..n_distances {
        let Some(distance) = distances.iter().copied().filter(|&d| d > beyond).min() else { break };
        let same = distances.iter().enumerate().filter(|&(_, &d)| d == distance);
        lists.extend(same.map(|(number, _)| number as u16));
        beyond = distance;
    }
    lists[at] = (lists.len() - at - 1) as u16;
}
