// Products with some tens of tokens by cooperative matrices of 16 x 16, whose weights become halves on their way. A subgroup
// has 32 rows and up to 64 tokens, and shares nothing with others: it takes units of 64 elements of its rows, two ahead of
// their use, and puts them as halves into its part of workgroup memory. Activations come in tiles of 16 x 16, see
// `halve.wgsl`, as they lie in memory: the subgroups of a multiprocessor find them in its cache. Parts of the sums go to
// workgroups of their own, and are added up by `parts.wgsl` or `halve.wgsl`. What belongs to a sum or a row has a name of its
// own: in arrays it would not stay in registers.
//
// Of a file of `take/`: `Taken`, what a thread loads of a unit, namely two runs of 16 elements of a row;
//   take(m, row, u, half), factors(m, row, u, half, t),
//   first4(t, f, j, u), second4(t, f, j, u): elements 4j..4j+4 of the runs;
//   x_tile(u, i): where the activations of runs i = 0, 1 (first, of both halves), 2, 3 (second) lie, in tiles.

struct Params {
    mats: array<Matrix, 3>,
    // Units of a row; tokens; first vector of the activations, vectors from 16 tokens to the next.
    x: vec4<u32>,
    // Matrices, units of a part, words between the results of parts.
    how: vec4<u32>,
}

@group(0) @binding(3) var<storage, read_write> x_half: array<vec4<f16>>;

const ROWS: u32 = 32 * ROW_TEAMS;
const WG: u32 = 32 * ROW_TEAMS;
// Vectors from one row of a tile to the next: rows begin in different banks.
const LINE: u32 = 18;
const TEAM_TILE: u32 = 32 * LINE;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

var<workgroup> tile: array<vec4<f16>, ROW_TEAMS * TEAM_TILE>;

// The matrix of group `g`, where groups of ROWS rows are counted over all matrices, and the first of its rows.
fn find_rows(g: u32) -> vec2<u32> {
    var rest = g;
    var mat = 0u;
    loop {
        let groups = (p.mats[mat].rows + ROWS - 1u) / ROWS;
        if rest < groups || mat + 1u >= p.how.x {
            break;
        }
        rest -= groups;
        mat += 1u;
    }
    return vec2(mat, rest * ROWS);
}

// A thread's part of a unit as halves.
fn open(at: u32, m: Matrix, row: u32, u: u32, half: u32, t: Taken) {
    let f = factors(m, row, u, half, t);
    tile[at] = vec4<f16>(first4(t, f, 0u, u));
    tile[at + 1u] = vec4<f16>(first4(t, f, 1u, u));
    tile[at + 2u] = vec4<f16>(first4(t, f, 2u, u));
    tile[at + 3u] = vec4<f16>(first4(t, f, 3u, u));
    tile[at + 8u] = vec4<f16>(second4(t, f, 0u, u));
    tile[at + 9u] = vec4<f16>(second4(t, f, 1u, u));
    tile[at + 10u] = vec4<f16>(second4(t, f, 2u, u));
    tile[at + 11u] = vec4<f16>(second4(t, f, 3u, u));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let place = find_rows(group.y);
    var m = p.mats[place.x];
    m.to += group.z * p.how.z;
    let team = lid / 32u;
    let lane = lid % 32u;
    let half = lane & 1u;
    let row0 = place.y + team * 32u;
    let token0 = group.x * 16u * TILES;
    let row_a = min(row0 + lane / 2u, m.rows - 1u);
    let row_b = min(row0 + 16u + lane / 2u, m.rows - 1u);
    let own = team * TEAM_TILE;
    let at_a = own + lane / 2u * LINE + half * 4u;
    let at_b = at_a + 16u * LINE;
    let x_at = p.x.z + group.x * TILES * p.x.w;
    // The part of the sum that is this workgroup's.
    let start = group.z * p.how.y;
    let end = min(start + p.how.y, p.x.x);
    let last = end - 1u;

    var a0 = take(m, row_a, start, half);
    var b0 = take(m, row_b, start, half);
    var a1 = take(m, row_a, min(start + 1u, last), half);
    var b1 = take(m, row_b, min(start + 1u, last), half);
    var c00 = Sums();
    var c01 = Sums();
    var c10 = Sums();
    var c11 = Sums();
    var c20 = Sums();
    var c21 = Sums();
    var c30 = Sums();
    var c31 = Sums();
    for (var u = start; u < end; u += 2u) {
        open(at_a, m, row_a, u, half, a0);
        open(at_b, m, row_b, u, half, b0);
        a0 = take(m, row_a, min(u + 2u, last), half);
        b0 = take(m, row_b, min(u + 2u, last), half);
        subgroupBarrier();
        {
            let at = x_at + x_tile(u, 0u) * 64u;
            let w0 = coopLoad<Right>(&tile[own + 0u], LINE);
            let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 0u], LINE);
            let x = coopLoadT<Left>(&x_half[at], 4u);
            c00 = coopMultiplyAdd(x, w0, c00);
            c01 = coopMultiplyAdd(x, w1, c01);
            if TILES > 1u {
                let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                c10 = coopMultiplyAdd(x, w0, c10);
                c11 = coopMultiplyAdd(x, w1, c11);
            }
            if TILES > 2u {
                let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                c20 = coopMultiplyAdd(x, w0, c20);
                c21 = coopMultiplyAdd(x, w1, c21);
            }
            if TILES > 3u {
                let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                c30 = coopMultiplyAdd(x, w0, c30);
                c31 = coopMultiplyAdd(x, w1, c31);
            }
        }
        {
            let at = x_at + x_tile(u, 1u) * 64u;
            let w0 = coopLoad<Right>(&tile[own + 4u], LINE);
            let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 4u], LINE);
            let x = coopLoadT<Left>(&x_half[at], 4u);
            c00 = coopMultiplyAdd(x, w0, c00);
            c01 = coopMultiplyAdd(x, w1, c01);
            if TILES > 1u {
                let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                c10 = coopMultiplyAdd(x, w0, c10);
                c11 = coopMultiplyAdd(x, w1, c11);
            }
            if TILES > 2u {
                let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                c20 = coopMultiplyAdd(x, w0, c20);
                c21 = coopMultiplyAdd(x, w1, c21);
            }
            if TILES > 3u {
                let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                c30 = coopMultiplyAdd(x, w0, c30);
                c31 = coopMultiplyAdd(x, w1, c31);
            }
        }
        {
            let at = x_at + x_tile(u, 2u) * 64u;
            let w0 = coopLoad<Right>(&tile[own + 8u], LINE);
            let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 8u], LINE);
            let x = coopLoadT<Left>(&x_half[at], 4u);
            c00 = coopMultiplyAdd(x, w0, c00);
            c01 = coopMultiplyAdd(x, w1, c01);
            if TILES > 1u {
                let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                c10 = coopMultiplyAdd(x, w0, c10);
                c11 = coopMultiplyAdd(x, w1, c11);
            }
            if TILES > 2u {
                let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                c20 = coopMultiplyAdd(x, w0, c20);
                c21 = coopMultiplyAdd(x, w1, c21);
            }
            if TILES > 3u {
                let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                c30 = coopMultiplyAdd(x, w0, c30);
                c31 = coopMultiplyAdd(x, w1, c31);
            }
        }
        {
            let at = x_at + x_tile(u, 3u) * 64u;
            let w0 = coopLoad<Right>(&tile[own + 12u], LINE);
            let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 12u], LINE);
            let x = coopLoadT<Left>(&x_half[at], 4u);
            c00 = coopMultiplyAdd(x, w0, c00);
            c01 = coopMultiplyAdd(x, w1, c01);
            if TILES > 1u {
                let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                c10 = coopMultiplyAdd(x, w0, c10);
                c11 = coopMultiplyAdd(x, w1, c11);
            }
            if TILES > 2u {
                let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                c20 = coopMultiplyAdd(x, w0, c20);
                c21 = coopMultiplyAdd(x, w1, c21);
            }
            if TILES > 3u {
                let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                c30 = coopMultiplyAdd(x, w0, c30);
                c31 = coopMultiplyAdd(x, w1, c31);
            }
        }
        subgroupBarrier();
        if u + 1u < end {
            open(at_a, m, row_a, u + 1u, half, a1);
            open(at_b, m, row_b, u + 1u, half, b1);
            a1 = take(m, row_a, min(u + 3u, last), half);
            b1 = take(m, row_b, min(u + 3u, last), half);
            subgroupBarrier();
            {
                let at = x_at + x_tile(u + 1u, 0u) * 64u;
                let w0 = coopLoad<Right>(&tile[own + 0u], LINE);
                let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 0u], LINE);
                let x = coopLoadT<Left>(&x_half[at], 4u);
                c00 = coopMultiplyAdd(x, w0, c00);
                c01 = coopMultiplyAdd(x, w1, c01);
                if TILES > 1u {
                    let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                    c10 = coopMultiplyAdd(x, w0, c10);
                    c11 = coopMultiplyAdd(x, w1, c11);
                }
                if TILES > 2u {
                    let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                    c20 = coopMultiplyAdd(x, w0, c20);
                    c21 = coopMultiplyAdd(x, w1, c21);
                }
                if TILES > 3u {
                    let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                    c30 = coopMultiplyAdd(x, w0, c30);
                    c31 = coopMultiplyAdd(x, w1, c31);
                }
            }
            {
                let at = x_at + x_tile(u + 1u, 1u) * 64u;
                let w0 = coopLoad<Right>(&tile[own + 4u], LINE);
                let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 4u], LINE);
                let x = coopLoadT<Left>(&x_half[at], 4u);
                c00 = coopMultiplyAdd(x, w0, c00);
                c01 = coopMultiplyAdd(x, w1, c01);
                if TILES > 1u {
                    let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                    c10 = coopMultiplyAdd(x, w0, c10);
                    c11 = coopMultiplyAdd(x, w1, c11);
                }
                if TILES > 2u {
                    let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                    c20 = coopMultiplyAdd(x, w0, c20);
                    c21 = coopMultiplyAdd(x, w1, c21);
                }
                if TILES > 3u {
                    let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                    c30 = coopMultiplyAdd(x, w0, c30);
                    c31 = coopMultiplyAdd(x, w1, c31);
                }
            }
            {
                let at = x_at + x_tile(u + 1u, 2u) * 64u;
                let w0 = coopLoad<Right>(&tile[own + 8u], LINE);
                let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 8u], LINE);
                let x = coopLoadT<Left>(&x_half[at], 4u);
                c00 = coopMultiplyAdd(x, w0, c00);
                c01 = coopMultiplyAdd(x, w1, c01);
                if TILES > 1u {
                    let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                    c10 = coopMultiplyAdd(x, w0, c10);
                    c11 = coopMultiplyAdd(x, w1, c11);
                }
                if TILES > 2u {
                    let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                    c20 = coopMultiplyAdd(x, w0, c20);
                    c21 = coopMultiplyAdd(x, w1, c21);
                }
                if TILES > 3u {
                    let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                    c30 = coopMultiplyAdd(x, w0, c30);
                    c31 = coopMultiplyAdd(x, w1, c31);
                }
            }
            {
                let at = x_at + x_tile(u + 1u, 3u) * 64u;
                let w0 = coopLoad<Right>(&tile[own + 12u], LINE);
                let w1 = coopLoad<Right>(&tile[own + 16u * LINE + 12u], LINE);
                let x = coopLoadT<Left>(&x_half[at], 4u);
                c00 = coopMultiplyAdd(x, w0, c00);
                c01 = coopMultiplyAdd(x, w1, c01);
                if TILES > 1u {
                    let x = coopLoadT<Left>(&x_half[at + p.x.w], 4u);
                    c10 = coopMultiplyAdd(x, w0, c10);
                    c11 = coopMultiplyAdd(x, w1, c11);
                }
                if TILES > 2u {
                    let x = coopLoadT<Left>(&x_half[at + 2u * p.x.w], 4u);
                    c20 = coopMultiplyAdd(x, w0, c20);
                    c21 = coopMultiplyAdd(x, w1, c21);
                }
                if TILES > 3u {
                    let x = coopLoadT<Left>(&x_half[at + 3u * p.x.w], 4u);
                    c30 = coopMultiplyAdd(x, w0, c30);
                    c31 = coopMultiplyAdd(x, w1, c31);
                }
            }
            subgroupBarrier();
        }
    }
    // Results that are not whole tiles go through parts, which have room for them.
    if row0 >= m.rows && m.other == 0u {
        return;
    }
    let s = m.stride / 4u;
    let to = (m.to + token0 * m.stride + row0) / 4u;
    if m.residual != 0u {
        let r = (m.residual - 1u + token0 * m.stride + row0) / 4u;
        c00 = c00 + coopLoadT<Sums>(&arena[r], s);
        c01 = c01 + coopLoadT<Sums>(&arena[r + 4u], s);
        if TILES > 1u {
            c10 = c10 + coopLoadT<Sums>(&arena[r + 16u * s], s);
            c11 = c11 + coopLoadT<Sums>(&arena[r + 16u * s + 4u], s);
        }
        if TILES > 2u {
            c20 = c20 + coopLoadT<Sums>(&arena[r + 32u * s], s);
            c21 = c21 + coopLoadT<Sums>(&arena[r + 32u * s + 4u], s);
        }
        if TILES > 3u {
            c30 = c30 + coopLoadT<Sums>(&arena[r + 48u * s], s);
            c31 = c31 + coopLoadT<Sums>(&arena[r + 48u * s + 4u], s);
        }
    }
    let to00 = to;
    coopStoreT(c00, &arena[to00], s);
    let to01 = to + 4u;
    coopStoreT(c01, &arena[to01], s);
    if TILES > 1u {
        let to10 = to + 16u * s;
        coopStoreT(c10, &arena[to10], s);
        let to11 = to + 16u * s + 4u;
        coopStoreT(c11, &arena[to11], s);
    }
    if TILES > 2u {
        let to20 = to + 32u * s;
        coopStoreT(c20, &arena[to20], s);
        let to21 = to + 32u * s + 4u;
        coopStoreT(c21, &arena[to21], s);
    }
    if TILES > 3u {
        let to30 = to + 48u * s;
        coopStoreT(c30, &arena[to30], s);
        let to31 = to + 48u * s + 4u;
        coopStoreT(c31, &arena[to31], s);
    }
}
