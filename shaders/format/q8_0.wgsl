// q8_0. Planes: d (f16), qs.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 32u;
    let w = weight_word(m.planes.y + b * 8u + (k & 31u) / 4u);
    return signed4(w) * weight_half(m.planes.x, b);
}

fn x_blocks(u: u32) -> vec2<u32> {
    return vec2(2u * u, 2u * u + 1u);
}

fn dot32(m: Matrix, b: u32, x: X32) -> f32 {
    let at = (m.planes.y >> 2u) + 2u * b;
    return weight_half(m.planes.x, b) * x.s.x * f32(dot16(weights[at], x.lo) + dot16(weights[at + 1u], x.hi));
}

fn dot64(m: Matrix, row: u32, u: u32, xa: X32, xb: X32) -> f32 {
    let b = row * m.blocks + 2u * u;
    return dot32(m, b, xa) + dot32(m, b + 1u, xb);
}
