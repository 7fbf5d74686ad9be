// Products of any format with many tokens, in f32: a workgroup has 64 rows and 64 tokens, a thread 4 of each.

const WG: u32 = 256;
const TILE: u32 = 64;
const DEPTH: u32 = 16;

var<workgroup> w_tile: array<vec4<f32>, DEPTH * TILE / 4>;
var<workgroup> x_tile: array<vec4<f32>, DEPTH * TILE / 4>;

// Word `row` of tile line `k`.
fn put(x: bool, k: u32, row: u32, v: f32) {
    let at = k * (TILE / 4u) + row / 4u;
    if x {
        x_tile[at][row & 3u] = v;
    } else {
        w_tile[at][row & 3u] = v;
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let rows = find_rows(row_group(group, groups), TILE);
    let m = p.mats[rows.x];
    let first_token = group.y * TILE;
    let k4 = lid % 4u * 4u;
    let line = lid / 4u;
    let w_row = min(rows.y + line, m.rows - 1u);
    let x_at = p.x.z + min(first_token + line, p.x.y - 1u) * p.how.z;
    var sums: array<vec4<f32>, 4>;
    let r4 = lid % 16u;
    let t4 = lid / 16u;
    for (var k = 0u; k < p.x.x; k += DEPTH) {
        var w = vec4(0.0);
        var x = vec4(0.0);
        if k + k4 < p.x.x {
            w = load4(m, w_row, k + k4);
            for (var i = 0u; i < 4u; i += 1u) {
                if k + k4 + i < p.x.x {
                    x[i] = bitcast<f32>(arena_word(x_at + k + k4 + i));
                }
            }
        }
        for (var i = 0u; i < 4u; i += 1u) {
            put(false, k4 + i, line, w[i]);
            put(true, k4 + i, line, x[i]);
        }
        workgroupBarrier();
        for (var i = 0u; i < DEPTH; i += 1u) {
            let a = w_tile[i * (TILE / 4u) + r4];
            let b = x_tile[i * (TILE / 4u) + t4];
            sums[0] += a * b.x;
            sums[1] += a * b.y;
            sums[2] += a * b.z;
            sums[3] += a * b.w;
        }
        workgroupBarrier();
    }
    for (var j = 0u; j < 4u; j += 1u) {
        let token = first_token + 4u * t4 + j;
        for (var i = 0u; i < 4u; i += 1u) {
            let row = rows.y + 4u * r4 + i;
            if row < m.rows && token < p.x.y {
                finish(m, row, token, sums[j][i]);
            }
        }
    }
}
