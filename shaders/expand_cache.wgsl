// Rows of a cache to f16, for attention many of whose workgroups read each of them: a thread has eight elements.

struct Params {
    // First element, elements from one row to the next, first word of the scales, rows.
    cache: vec4<u32>,
    // Pieces of eight elements of a row, first vector of the result.
    to: vec4<u32>,
}

const WG: u32 = 256;
const MOST: f32 = 65504.0;

fn halves(x: vec4<f32>) -> vec2<u32> {
    let v = clamp(x, vec4(-MOST), vec4(MOST));
    return vec2(pack2x16float(v.xy), pack2x16float(v.zw));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let piece = (group.y * groups.x + group.x) * WG + lid;
    let row = piece / p.to.x;
    if row >= p.cache.w {
        return;
    }
    let at = p.cache.x + row * p.cache.y + piece % p.to.x * 8u;
    let x = open8(raw8(at, p.cache.z), at);
    arena[p.to.y + piece] = vec4(halves(x.a), halves(x.b));
}
