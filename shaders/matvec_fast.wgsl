// Products with a few tokens whose activations are bytes. A workgroup has ROWS rows and TOKENS tokens; with two PARTS, the
// same rows of two matrices, gate first.

const GATED: bool = PARTS == 2;
const NSUM: u32 = ROWS * TOKENS * PARTS;

fn x32(row: u32, b: u32) -> X32 {
    let at = row * (p.x.x / 32u) + b;
    let q = (p.x.z >> 2u) + 2u * at;
    return X32(arena[q], arena[q + 1u], bitcast<vec4<f32>>(arena[(p.x.w >> 2u) + at]));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let rows = find_rows(row_group(group, groups), ROWS);
    let mat = select(rows.x, 0u, GATED);
    let m = p.mats[mat];
    let t = group.y * TOKENS;
    let first = first_row(m, t);
    var sums: array<f32, NSUM>;
    for (var u = lid; u < p.x.x / 64u; u += WG) {
        let b = x_blocks(u);
        for (var i = 0u; i < TOKENS; i += 1u) {
            let x = x_row(min(t + i, p.x.y - 1u));
            let xa = x32(x, b.x);
            let xb = x32(x, b.y);
            for (var r = 0u; r < ROWS; r += 1u) {
                let row = first + min(rows.y + r, m.rows - 1u);
                sums[i * ROWS + r] += dot64(m, row, u, xa, xb);
                if GATED {
                    sums[(TOKENS + i) * ROWS + r] += dot64(p.mats[1], row, u, xa, xb);
                }
            }
        }
    }
    reduce_sums(sums, lid);
    let row = rows.y + lid % ROWS;
    let token = t + lid / ROWS;
    if lid >= ROWS * TOKENS || row >= m.rows || token >= p.x.y {
        return;
    }
    if GATED {
        let gate = activate(p.how.x, totals[lid]);
        set_number(m.to + token * m.stride + row, gate * totals[ROWS * TOKENS + lid]);
    } else {
        finish(m, row, token, totals[lid]);
    }
}
