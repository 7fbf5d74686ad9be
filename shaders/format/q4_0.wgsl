// q4_0. Planes: d (f16), qs.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 32u;
    let w = weight_word(m.planes.y + b * 4u + (k & 15u) / 4u);
    return (nibble4(w, (k & 16u) / 4u) - 8.0) * weight_half(m.planes.x, b);
}

fn x_blocks(u: u32) -> vec2<u32> {
    return vec2(2u * u, 2u * u + 1u);
}

fn open64(m: Matrix, row: u32, u: u32) -> Open {
    let b = row * m.blocks + 2u * u;
    let q0 = weights[(m.planes.y >> 2u) + b];
    let q1 = weights[(m.planes.y >> 2u) + b + 1u];
    let d = vec2(weight_half(m.planes.x, b), weight_half(m.planes.x, b + 1u));
    return Open(low(q0), high(q0), low(q1), high(q1), vec4(d.x, 8.0 * d.x, d.y, 8.0 * d.y));
}

fn dot_open(o: Open, xa: X32, xb: X32) -> f32 {
    return dot_affine(o, xa, xb);
}
