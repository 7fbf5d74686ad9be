// Rows of a weight matrix by index: a thread has four elements.

struct Params {
    table: Matrix,
    // Elements of a row, first row that is here, offset of the ids, offset of the result.
    x: vec4<u32>,
}

const WG: u32 = 64;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let k = 4u * (group.x * WG + lid);
    let row = arena_word(p.x.z + group.y) - p.x.y;
    if k >= p.x.x || row >= p.table.rows {
        return;
    }
    let v = load4(p.table, row, k);
    for (var i = 0u; i < 4u && k + i < p.x.x; i += 1u) {
        set_number(p.x.w + group.y * p.x.x + k + i, v[i]);
    }
}
