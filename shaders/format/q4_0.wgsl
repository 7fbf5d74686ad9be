// q4_0. Planes: d (f16), qs.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 32u;
    let w = weight_word(m.planes.y + b * 4u + (k & 15u) / 4u);
    return (nibble4(w, (k & 16u) / 4u) - 8.0) * weight_half(m.planes.x, b);
}

fn x_blocks(u: u32) -> vec2<u32> {
    return vec2(2u * u, 2u * u + 1u);
}

fn dot32(m: Matrix, b: u32, d: f32, x: X32) -> f32 {
    let qs = weights[(m.planes.y >> 2u) + b];
    return d * (x.s.x * f32(dot16(low(qs), x.lo) + dot16(high(qs), x.hi)) - 8.0 * (x.s.y + x.s.z));
}

fn dot64(m: Matrix, row: u32, u: u32, xa: X32, xb: X32) -> f32 {
    let b = row * m.blocks + 2u * u;
    return dot32(m, b, weight_half(m.planes.x, b), xa) + dot32(m, b + 1u, weight_half(m.planes.x, b + 1u), xb);
}
