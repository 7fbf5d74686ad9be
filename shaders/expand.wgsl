// Rows of a weight matrix to f16, for `matmul_coop`: a thread has eight elements.

struct Params {
    mat: Matrix,
    // Elements of a row, a multiple of 8; first row; rows; offset of the result.
    x: vec4<u32>,
    // Elements of a row of the result, which is padded with zeros.
    padded: vec4<u32>,
}

const WG: u32 = 256;
const MOST: f32 = 65504.0;

fn halves(x: vec4<f32>) -> vec2<u32> {
    let v = clamp(x, vec4(-MOST), vec4(MOST));
    return vec2(pack2x16float(v.xy), pack2x16float(v.zw));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let pieces = p.padded.x / 8u;
    let piece = group.x * WG + lid;
    if piece >= pieces {
        return;
    }
    let to = p.x.w / 4u + group.y * pieces + piece;
    let k = piece * 8u;
    if k >= p.x.x {
        arena[to] = vec4(0u);
        return;
    }
    let a = load4(p.mat, p.x.y + group.y, k);
    let b = load4(p.mat, p.x.y + group.y, k + 4u);
    arena[to] = vec4(halves(a), halves(b));
}
