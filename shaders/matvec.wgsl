// Products of any format with a few tokens: a workgroup has ROWS rows and one token, or one expert's slot.

const NSUM: u32 = ROWS;

fn x4(at: u32, k: u32) -> vec4<f32> {
    var x = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        if k + i < p.x.x {
            x[i] = bitcast<f32>(arena_word(at + k + i));
        }
    }
    return x;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let where_ = find_rows(row_group(group, groups), ROWS);
    let m = p.mats[where_.x];
    let t = group.y;
    let first = first_row(m, t);
    let x = p.x.z + x_row(t) * p.how.z;
    var sums: array<f32, NSUM>;
    for (var k = 4u * lid; k < p.x.x; k += 4u * WG) {
        let v = x4(x, k);
        for (var r = 0u; r < ROWS; r += 1u) {
            sums[r] += dot(load4(m, first + min(where_.y + r, m.rows - 1u), k), v);
        }
    }
    reduce_sums(sums, lid);
    if lid < ROWS && where_.y + lid < m.rows {
        finish(m, where_.y + lid, t, totals[lid]);
    }
}
