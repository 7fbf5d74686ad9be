// q8_0. Planes: d (f16), qs.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 32u;
    let w = weight_word(m.planes.y + b * 8u + (k & 31u) / 4u);
    return signed4(w) * weight_half(m.planes.x, b);
}

fn x_blocks(u: u32) -> vec2<u32> {
    return vec2(2u * u, 2u * u + 1u);
}

fn open64(m: Matrix, row: u32, u: u32) -> Open {
    let b = row * m.blocks + 2u * u;
    let at = (m.planes.y >> 2u) + 2u * b;
    let d = vec2(weight_half(m.planes.x, b), weight_half(m.planes.x, b + 1u));
    return Open(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u], vec4(d.x, 0.0, d.y, 0.0));
}

fn dot_open(o: Open, xa: X32, xb: X32) -> f32 {
    let a = f32(dot16(o.a0, xa.lo) + dot16(o.a1, xa.hi));
    let b = f32(dot16(o.b0, xb.lo) + dot16(o.b1, xb.hi));
    return o.s.x * xa.s.x * a + o.s.z * xb.s.x * b;
}
