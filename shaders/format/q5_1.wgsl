// q5_1. Planes: d and m (f16), qh, qs.
fn fifth4(qh: u32, k: u32) -> vec4<f32> {
    let bits = qh >> (k & 31u);
    return vec4<f32>(vec4(bits & 1u, (bits >> 1u) & 1u, (bits >> 2u) & 1u, (bits >> 3u) & 1u)) * 16.0;
}

fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 32u;
    let dm = unpack2x16float(weight_word(m.planes.x + b));
    let w = weight_word(m.planes.z + b * 4u + (k & 15u) / 4u);
    let qh = weight_word(m.planes.y + b);
    return (nibble4(w, (k & 16u) / 4u) + fifth4(qh, k)) * dm.x + dm.y;
}
