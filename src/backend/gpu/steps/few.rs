//! Products of some tens of tokens by cooperative matrices whose weights become halves on their way, see
//! `matmul_few_coop.wgsl`: weights are read once for up to 64 tokens, and expanded nowhere.

use super::prompt::Segment;
use super::*;

/// Tokens and elements of a tile of activations.
pub(super) const TILE: usize = 16;

/// Most tiles of tokens of a workgroup.
const MAX_TILES: usize = 4;

/// Elements of a unit.
const UNIT: usize = 64;

/// Most tokens that are multiplied so.
const MOST: usize = 128;

/// Rows of a subgroup, and subgroups of a workgroup.
const TEAM_ROWS: usize = 32;
const ROW_TEAMS: usize = 4;

/// Subgroups that keep a large device busy: products of fewer are made in parts.
const BUSY: usize = 1056;

/// Most parts of a product, and the least units of one.
const MAX_PARTS: usize = 16;
const MIN_UNITS: usize = 4;

/// Whether `n` tokens of `k` elements are multiplied by `matmul_few_coop`.
pub(super) fn is_few(k: usize, n: usize) -> bool {
    n <= MOST && k.is_multiple_of(UNIT)
}

/// Groups of tokens, and tiles of each.
fn shape_of(n: usize) -> [usize; 2] {
    let tiles = n.div_ceil(TILE);
    let groups = tiles.div_ceil(MAX_TILES);
    [groups, tiles.div_ceil(groups)]
}

/// Words of the activations of `n` tokens in tiles.
pub(super) fn tiled_size(k: usize, n: usize) -> usize {
    shape_of(n).iter().product::<usize>() * TILE * k / 2
}

/// Where the parts of a segment's product lie.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// Which of the step's segments.
    pub segment: usize,
    /// First word, words from one token to the next, number of parts, words from one to the next.
    pub at: usize,
    pub stride: usize,
    pub n: usize,
    pub all: usize,
}

impl Compiler<'_> {
    /// The products of segments, of which `number` is the first, that share type, buffer and what follows. Where they are
    /// made in parts, these are still to be added up.
    pub(super) fn multiply_few(
        &mut self,
        group: &[Segment],
        number: usize,
        [k, n]: [usize; 2],
        halves: usize,
    ) -> Result<Vec<Parts>> {
        let [groups, tiles] = shape_of(n);
        let rows = TEAM_ROWS * ROW_TEAMS;
        let row_groups = group.iter().map(|s| s.rows.div_ceil(rows)).sum::<usize>();
        let units = k / UNIT;
        let parts = (BUSY / (groups * row_groups * ROW_TEAMS)).clamp(1, MAX_PARTS).min(units.div_ceil(MIN_UNITS));
        let share = units.div_ceil(parts);
        let parts = units.div_ceil(share);
        // Whole tiles of a product of one part go where the result does; parts have room for tiles that are not whole.
        let whole = n == groups * tiles * TILE && group.iter().all(Segment::is_whole);
        let split = parts > 1 || !whole;
        let stride = |s: &Segment| s.rows.next_multiple_of(rows);
        let size = |s: &Segment| stride(s) * groups * tiles * TILE;
        let all: usize = group.iter().map(size).sum();
        let partial = if split { self.take_scratch(parts * all) } else { 0 };
        let mut params = Params::default();
        let mut to = partial;
        let mut sums = Vec::with_capacity(3);
        for i in 0..3 {
            let Some(s) = group.get(i) else {
                params = params.u(&[0; 12]);
                continue;
            };
            params = params.u(&s.part.planes).u(&[word(s.product.weight.blocks)?, word(s.rows)?]);
            params = match split {
                false => params.u(&[s.to()?, 0, word(s.product.stride)?, s.residual(), 0, 0]),
                true => params.u(&[word(to)?, 0, word(stride(s))?, 0, 1, 0]),
            };
            if split {
                sums.push(Parts { segment: number + i, at: to, stride: stride(s), n: parts, all });
            }
            to += size(s);
        }
        let first = &group[0];
        let params = params.u(&[word(units)?, word(n)?, word(halves / 2)?, word(k * TILE / 4)?]).u(&[
            word(group.len())?,
            word(share)?,
            word(all)?,
            0,
        ]);
        let bindings =
            Bindings { weights: Bound::Buffer(first.part.buffer.clone()), state: Bound::Arena, ..Bindings::default() };
        let kernel = Kernel {
            format: Some(first.product.weight.dtype),
            ..Kernel::plain(
                "matmul_few_coop",
                &[constant("TILES", word(tiles)?), constant("ROW_TEAMS", word(ROW_TEAMS)?)],
            )
        };
        self.add(kernel, bindings, params, [groups, row_groups, parts])?;
        Ok(sums)
    }
}
