// Products of any format with many tokens by cooperative matrices of 16 x 16. A workgroup of four subgroups has 128 rows and
// 128 tokens, a subgroup 64 of each. Weights are expanded to f16 on their way into workgroup memory, a step ahead of their
// use; activations are f16 already. Sums are named one by one, so that they stay in registers.

const WG: u32 = 128;
const TILE: u32 = 128;
const DEPTH: u32 = 32;
// Vectors from one row of a tile to the next: rows begin in different banks.
const LINE: u32 = 10;

alias Sums = coop_mat16x16<f32, C>;

var<workgroup> w_tile: array<vec4<f16>, TILE * LINE>;
var<workgroup> x_tile: array<vec4<f16>, TILE * LINE>;
var<workgroup> stage: array<f32, 4 * 256>;

fn halves4(words: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(vec4(unpack2x16float(words.x), unpack2x16float(words.y)));
}

fn flush(m: Matrix, row0: u32, token0: u32, subgroup: u32, lane: u32) {
    for (var i = lane; i < 256u; i += 32u) {
        let row = row0 + i % 16u;
        let token = token0 + i / 16u;
        if row < m.rows && token < p.x.y {
            finish(m, row, token, stage[subgroup * 256u + i]);
        }
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let rows_at = find_rows(group.y, TILE);
    let m = p.mats[rows_at.x];
    let first_token = group.x * TILE;
    let subgroup = lid / 32u;
    let lane = lid % 32u;
    let rows = (subgroup % 2u) * 64u;
    let tokens = (subgroup / 2u) * 64u;
    let w_row = min(rows_at.y + lid, m.rows - 1u);
    // Words of two elements.
    let x_at = (p.x.z + min(first_token + lid, p.x.y - 1u) * p.x.x / 2u) / 4u;
    var c00 = Sums();
    var c01 = Sums();
    var c02 = Sums();
    var c03 = Sums();
    var c10 = Sums();
    var c11 = Sums();
    var c12 = Sums();
    var c13 = Sums();
    var c20 = Sums();
    var c21 = Sums();
    var c22 = Sums();
    var c23 = Sums();
    var c30 = Sums();
    var c31 = Sums();
    var c32 = Sums();
    var c33 = Sums();
    var w: array<vec4<f32>, 8>;
    var x: array<vec4<u32>, 4>;
    for (var i = 0u; i < 8u; i += 1u) {
        w[i] = load4(m, w_row, 4u * i);
    }
    for (var i = 0u; i < 4u; i += 1u) {
        x[i] = arena[x_at + i];
    }
    for (var base = 0u; base < p.x.x; base += DEPTH) {
        for (var i = 0u; i < 8u; i += 1u) {
            w_tile[lid * LINE + i] = vec4<f16>(w[i]);
        }
        for (var i = 0u; i < 4u; i += 1u) {
            x_tile[lid * LINE + 2u * i] = halves4(x[i].xy);
            x_tile[lid * LINE + 2u * i + 1u] = halves4(x[i].zw);
        }
        workgroupBarrier();
        let next = base + DEPTH;
        if next < p.x.x {
            for (var i = 0u; i < 8u; i += 1u) {
                w[i] = load4(m, w_row, next + 4u * i);
            }
            for (var i = 0u; i < 4u; i += 1u) {
                x[i] = arena[x_at + next / 8u + i];
            }
        }
        for (var k = 0u; k < DEPTH; k += 16u) {
            let a0 = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[(rows + 0u) * LINE + k / 4u], LINE);
            let a1 = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[(rows + 16u) * LINE + k / 4u], LINE);
            let a2 = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[(rows + 32u) * LINE + k / 4u], LINE);
            let a3 = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[(rows + 48u) * LINE + k / 4u], LINE);
            let b0 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(tokens + 0u) * LINE + k / 4u], LINE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c20 = coopMultiplyAdd(a2, b0, c20);
            c30 = coopMultiplyAdd(a3, b0, c30);
            let b1 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(tokens + 16u) * LINE + k / 4u], LINE);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c11 = coopMultiplyAdd(a1, b1, c11);
            c21 = coopMultiplyAdd(a2, b1, c21);
            c31 = coopMultiplyAdd(a3, b1, c31);
            let b2 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(tokens + 32u) * LINE + k / 4u], LINE);
            c02 = coopMultiplyAdd(a0, b2, c02);
            c12 = coopMultiplyAdd(a1, b2, c12);
            c22 = coopMultiplyAdd(a2, b2, c22);
            c32 = coopMultiplyAdd(a3, b2, c32);
            let b3 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(tokens + 48u) * LINE + k / 4u], LINE);
            c03 = coopMultiplyAdd(a0, b3, c03);
            c13 = coopMultiplyAdd(a1, b3, c13);
            c23 = coopMultiplyAdd(a2, b3, c23);
            c33 = coopMultiplyAdd(a3, b3, c33);
        }
        workgroupBarrier();
    }
    coopStore(c00, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 0u, first_token + tokens + 0u, subgroup, lane);
    workgroupBarrier();
    coopStore(c01, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 0u, first_token + tokens + 16u, subgroup, lane);
    workgroupBarrier();
    coopStore(c02, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 0u, first_token + tokens + 32u, subgroup, lane);
    workgroupBarrier();
    coopStore(c03, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 0u, first_token + tokens + 48u, subgroup, lane);
    workgroupBarrier();
    coopStore(c10, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 16u, first_token + tokens + 0u, subgroup, lane);
    workgroupBarrier();
    coopStore(c11, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 16u, first_token + tokens + 16u, subgroup, lane);
    workgroupBarrier();
    coopStore(c12, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 16u, first_token + tokens + 32u, subgroup, lane);
    workgroupBarrier();
    coopStore(c13, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 16u, first_token + tokens + 48u, subgroup, lane);
    workgroupBarrier();
    coopStore(c20, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 32u, first_token + tokens + 0u, subgroup, lane);
    workgroupBarrier();
    coopStore(c21, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 32u, first_token + tokens + 16u, subgroup, lane);
    workgroupBarrier();
    coopStore(c22, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 32u, first_token + tokens + 32u, subgroup, lane);
    workgroupBarrier();
    coopStore(c23, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 32u, first_token + tokens + 48u, subgroup, lane);
    workgroupBarrier();
    coopStore(c30, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 48u, first_token + tokens + 0u, subgroup, lane);
    workgroupBarrier();
    coopStore(c31, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 48u, first_token + tokens + 16u, subgroup, lane);
    workgroupBarrier();
    coopStore(c32, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 48u, first_token + tokens + 32u, subgroup, lane);
    workgroupBarrier();
    coopStore(c33, &stage[subgroup * 256u], 16u);
    workgroupBarrier();
    flush(m, rows_at.y + rows + 48u, first_token + tokens + 48u, subgroup, lane);
    workgroupBarrier();
}
