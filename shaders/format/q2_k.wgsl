// q2_K. Planes: d and dmin (f16), scales, qs.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 256u;
    let e = k & 255u;
    let dm = unpack2x16float(weight_word(m.planes.x + b));
    let sc = weight_byte(4u * (m.planes.y + b * 4u) + e / 16u);
    let w = weight_word(m.planes.z + b * 16u + e / 128u * 8u + (e & 31u) / 4u);
    let q = vec4<f32>(byte4((w >> ((e & 127u) / 32u * 2u)) & 0x03030303u));
    return q * (dm.x * f32(sc & 15u)) - dm.y * f32(sc >> 4u);
}
