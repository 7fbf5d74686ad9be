// q3_K. Planes: d (f16), scales (12 bytes), hmask, qs.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 256u;
    let e = k & 255u;
    let s = e / 16u;
    let at = 4u * (m.planes.y + b * 3u);
    let low = (weight_byte(at + s % 8u) >> (4u * (s / 8u))) & 15u;
    let high = (weight_byte(at + 8u + s % 4u) >> (2u * (s / 4u))) & 3u;
    let scale = f32(i32(low | (high << 4u)) - 32) * weight_half(m.planes.x, b);
    let h = weight_word(m.planes.z + b * 8u + (e & 31u) / 4u) >> (e / 32u);
    let w = weight_word(m.planes.w + b * 16u + e / 128u * 8u + (e & 31u) / 4u) >> ((e & 127u) / 32u * 2u);
    return (vec4<f32>(byte4((w & 0x03030303u) | ((h & 0x01010101u) << 2u))) - 4.0) * scale;
}
