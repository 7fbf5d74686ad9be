// Products of matrices of halves with many tokens by cooperative matrices of 16 x 16. A workgroup has TOKEN_TEAMS x ROW_TEAMS
// subgroups, a subgroup 64 tokens and 32 rows. DEPTH elements of both sides go through registers, a step ahead of their use,
// into workgroup memory. Where tiles are few, parts of the sums go to workgroups of their own, see `parts.wgsl`. Sums are named
// one by one: in arrays they would not stay in registers.

struct Params {
    mats: array<Matrix, 3>,
    // Elements of a row, a multiple of DEPTH; tokens; first vector of the activations, vectors of a token.
    x: vec4<u32>,
    // Activation, matrices, steps of a part, words between the results of parts.
    how: vec4<u32>,
}

// Activations; weights by `w4` of a file of `weights/`.
@group(0) @binding(3) var<storage, read_write> x_half: array<vec4<f16>>;

const TOKENS: u32 = 64 * TOKEN_TEAMS;
const ROWS: u32 = 32 * ROW_TEAMS;
const WG: u32 = 32 * TOKEN_TEAMS * ROW_TEAMS;
const DEPTH: u32 = 64;
// Vectors of a row of a tile.
const PIECES: u32 = DEPTH / 4;
// Vectors from one row of a tile to the next: rows begin in different banks.
const LINE: u32 = DEPTH / 4 + 2;
// Vectors that a thread moves.
const X_MOVES: u32 = TOKENS * PIECES / WG;
const W_MOVES: u32 = ROWS * PIECES / WG;
// Vectors of a subgroup for sums on their way out, and from one row of them to the next.
const STAGE: u32 = 80;
const STAGE_LINE: u32 = 5;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

var<workgroup> x_tile: array<vec4<f16>, TOKENS * LINE>;
var<workgroup> w_tile: array<vec4<f16>, ROWS * LINE>;
var<workgroup> stage: array<vec4<f32>, WG / 32 * STAGE>;

// The matrix of group `g`, where groups of ROWS rows are counted over all matrices, and the first of its rows.
fn find_rows(g: u32) -> vec2<u32> {
    var rest = g;
    var mat = 0u;
    loop {
        let groups = (p.mats[mat].rows + ROWS - 1u) / ROWS;
        if rest < groups || mat + 1u >= p.how.y {
            break;
        }
        rest -= groups;
        mat += 1u;
    }
    return vec2(mat, rest * ROWS);
}

// Sixteen rows of sixteen tokens out of the stage of a subgroup.
fn flush(m: Matrix, token0: u32, row0: u32, at: u32, lane: u32) {
    for (var i = lane; i < 64u; i += 32u) {
        let token = token0 + i / 4u;
        let sums = stage[at + i / 4u * STAGE_LINE + i % 4u];
        for (var j = 0u; j < 4u; j += 1u) {
            let row = row0 + i % 4u * 4u + j;
            if row < m.rows && token < p.x.y {
                var x = sums[j];
                if m.bias != 0u {
                    x += bitcast<f32>(constants[m.bias - 1u + row]);
                }
                x = activate(p.how.x, x);
                if m.residual != 0u {
                    x += bitcast<f32>(arena_word(m.residual - 1u + token * m.stride + row));
                }
                set_number(m.to + token * m.stride + row, x);
            }
        }
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let place = find_rows(group.y);
    var m = p.mats[place.x];
    m.to += group.z * p.how.w;
    let first_token = group.x * TOKENS;
    let team = lid / 32u;
    let lane = lid % 32u;
    let tokens = team % TOKEN_TEAMS * 64u;
    let rows = team / TOKEN_TEAMS * 32u;
    let line = lid / PIECES;
    let piece = lid % PIECES;
    // The part of the sum that is this workgroup's.
    let start = group.z * p.how.z * DEPTH;
    let size = min(p.how.z * DEPTH, p.x.x - start);
    var x_at: array<u32, X_MOVES>;
    var w_row: array<u32, W_MOVES>;
    var x: array<vec4<f16>, X_MOVES>;
    var w: array<vec4<f16>, W_MOVES>;
    for (var i = 0u; i < X_MOVES; i += 1u) {
        x_at[i] = p.x.z + min(first_token + line + i * (WG / PIECES), p.x.y - 1u) * p.x.w + start / 4u + piece;
        x[i] = x_half[x_at[i]];
    }
    for (var i = 0u; i < W_MOVES; i += 1u) {
        w_row[i] = min(place.y + line + i * (WG / PIECES), m.rows - 1u);
        w[i] = w4(m, w_row[i], start + 4u * piece);
    }
    var c00 = Sums();
    var c01 = Sums();
    var c10 = Sums();
    var c11 = Sums();
    var c20 = Sums();
    var c21 = Sums();
    var c30 = Sums();
    var c31 = Sums();
    for (var k = 0u; k < size; k += DEPTH) {
        for (var i = 0u; i < X_MOVES; i += 1u) {
            let at = (line + i * (WG / PIECES)) * LINE + piece;
            x_tile[at] = x[i];
        }
        for (var i = 0u; i < W_MOVES; i += 1u) {
            let at = (line + i * (WG / PIECES)) * LINE + piece;
            w_tile[at] = w[i];
        }
        workgroupBarrier();
        let next = k + DEPTH;
        if next < size {
            for (var i = 0u; i < X_MOVES; i += 1u) {
                x[i] = x_half[x_at[i] + next / 4u];
            }
            for (var i = 0u; i < W_MOVES; i += 1u) {
                w[i] = w4(m, w_row[i], start + next + 4u * piece);
            }
        }
        {
            let a0 = coopLoadT<Left>(&x_tile[(tokens + 0u) * LINE + 0u], LINE);
            let a1 = coopLoadT<Left>(&x_tile[(tokens + 16u) * LINE + 0u], LINE);
            let a2 = coopLoadT<Left>(&x_tile[(tokens + 32u) * LINE + 0u], LINE);
            let a3 = coopLoadT<Left>(&x_tile[(tokens + 48u) * LINE + 0u], LINE);
            let b0 = coopLoad<Right>(&w_tile[(rows + 0u) * LINE + 0u], LINE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c20 = coopMultiplyAdd(a2, b0, c20);
            c30 = coopMultiplyAdd(a3, b0, c30);
            let b1 = coopLoad<Right>(&w_tile[(rows + 16u) * LINE + 0u], LINE);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c11 = coopMultiplyAdd(a1, b1, c11);
            c21 = coopMultiplyAdd(a2, b1, c21);
            c31 = coopMultiplyAdd(a3, b1, c31);
        }
        {
            let a0 = coopLoadT<Left>(&x_tile[(tokens + 0u) * LINE + 4u], LINE);
            let a1 = coopLoadT<Left>(&x_tile[(tokens + 16u) * LINE + 4u], LINE);
            let a2 = coopLoadT<Left>(&x_tile[(tokens + 32u) * LINE + 4u], LINE);
            let a3 = coopLoadT<Left>(&x_tile[(tokens + 48u) * LINE + 4u], LINE);
            let b0 = coopLoad<Right>(&w_tile[(rows + 0u) * LINE + 4u], LINE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c20 = coopMultiplyAdd(a2, b0, c20);
            c30 = coopMultiplyAdd(a3, b0, c30);
            let b1 = coopLoad<Right>(&w_tile[(rows + 16u) * LINE + 4u], LINE);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c11 = coopMultiplyAdd(a1, b1, c11);
            c21 = coopMultiplyAdd(a2, b1, c21);
            c31 = coopMultiplyAdd(a3, b1, c31);
        }
        {
            let a0 = coopLoadT<Left>(&x_tile[(tokens + 0u) * LINE + 8u], LINE);
            let a1 = coopLoadT<Left>(&x_tile[(tokens + 16u) * LINE + 8u], LINE);
            let a2 = coopLoadT<Left>(&x_tile[(tokens + 32u) * LINE + 8u], LINE);
            let a3 = coopLoadT<Left>(&x_tile[(tokens + 48u) * LINE + 8u], LINE);
            let b0 = coopLoad<Right>(&w_tile[(rows + 0u) * LINE + 8u], LINE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c20 = coopMultiplyAdd(a2, b0, c20);
            c30 = coopMultiplyAdd(a3, b0, c30);
            let b1 = coopLoad<Right>(&w_tile[(rows + 16u) * LINE + 8u], LINE);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c11 = coopMultiplyAdd(a1, b1, c11);
            c21 = coopMultiplyAdd(a2, b1, c21);
            c31 = coopMultiplyAdd(a3, b1, c31);
        }
        {
            let a0 = coopLoadT<Left>(&x_tile[(tokens + 0u) * LINE + 12u], LINE);
            let a1 = coopLoadT<Left>(&x_tile[(tokens + 16u) * LINE + 12u], LINE);
            let a2 = coopLoadT<Left>(&x_tile[(tokens + 32u) * LINE + 12u], LINE);
            let a3 = coopLoadT<Left>(&x_tile[(tokens + 48u) * LINE + 12u], LINE);
            let b0 = coopLoad<Right>(&w_tile[(rows + 0u) * LINE + 12u], LINE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c20 = coopMultiplyAdd(a2, b0, c20);
            c30 = coopMultiplyAdd(a3, b0, c30);
            let b1 = coopLoad<Right>(&w_tile[(rows + 16u) * LINE + 12u], LINE);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c11 = coopMultiplyAdd(a1, b1, c11);
            c21 = coopMultiplyAdd(a2, b1, c21);
            c31 = coopMultiplyAdd(a3, b1, c31);
        }
        workgroupBarrier();
    }
    let token0 = first_token + tokens;
    let row0 = place.y + rows;
    let to = m.to + token0 * m.stride + row0;
    let aligned = ((m.to | m.stride | row0) & 3u) == 0u && (m.residual == 0u || ((m.residual - 1u) & 3u) == 0u);
    if aligned && place.y + ROWS <= m.rows && first_token + TOKENS <= p.x.y && m.bias == 0u && p.how.x == 0u {
        let s = m.stride / 4u;
        if m.residual != 0u {
            let r = (m.residual - 1u + token0 * m.stride + row0) / 4u;
            c00 = c00 + coopLoadT<Sums>(&arena[r + 0u * s + 0u], s);
            c01 = c01 + coopLoadT<Sums>(&arena[r + 0u * s + 4u], s);
            c10 = c10 + coopLoadT<Sums>(&arena[r + 16u * s + 0u], s);
            c11 = c11 + coopLoadT<Sums>(&arena[r + 16u * s + 4u], s);
            c20 = c20 + coopLoadT<Sums>(&arena[r + 32u * s + 0u], s);
            c21 = c21 + coopLoadT<Sums>(&arena[r + 32u * s + 4u], s);
            c30 = c30 + coopLoadT<Sums>(&arena[r + 48u * s + 0u], s);
            c31 = c31 + coopLoadT<Sums>(&arena[r + 48u * s + 4u], s);
        }
        let to00 = to / 4u + 0u * s + 0u;
        coopStoreT(c00, &arena[to00], s);
        let to01 = to / 4u + 0u * s + 4u;
        coopStoreT(c01, &arena[to01], s);
        let to10 = to / 4u + 16u * s + 0u;
        coopStoreT(c10, &arena[to10], s);
        let to11 = to / 4u + 16u * s + 4u;
        coopStoreT(c11, &arena[to11], s);
        let to20 = to / 4u + 32u * s + 0u;
        coopStoreT(c20, &arena[to20], s);
        let to21 = to / 4u + 32u * s + 4u;
        coopStoreT(c21, &arena[to21], s);
        let to30 = to / 4u + 48u * s + 0u;
        coopStoreT(c30, &arena[to30], s);
        let to31 = to / 4u + 48u * s + 4u;
        coopStoreT(c31, &arena[to31], s);
        return;
    }
    let at = team * STAGE;
    coopStoreT(c00, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 0u, row0 + 0u, at, lane);
    subgroupBarrier();
    coopStoreT(c01, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 0u, row0 + 16u, at, lane);
    subgroupBarrier();
    coopStoreT(c10, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 16u, row0 + 0u, at, lane);
    subgroupBarrier();
    coopStoreT(c11, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 16u, row0 + 16u, at, lane);
    subgroupBarrier();
    coopStoreT(c20, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 32u, row0 + 0u, at, lane);
    subgroupBarrier();
    coopStoreT(c21, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 32u, row0 + 16u, at, lane);
    subgroupBarrier();
    coopStoreT(c30, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 48u, row0 + 0u, at, lane);
    subgroupBarrier();
    coopStoreT(c31, &stage[at], STAGE_LINE);
    subgroupBarrier();
    flush(m, token0 + 48u, row0 + 16u, at, lane);
    subgroupBarrier();
}
