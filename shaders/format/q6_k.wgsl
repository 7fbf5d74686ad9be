// q6_K. Planes: d (f16), scales (signed bytes), qh, ql.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 256u;
    let e = k & 255u;
    let scales = weight_word(m.planes.y + b * 4u + e / 64u);
    let scale = f32(extractBits(i32(scales), 8u * ((e & 63u) / 16u), 8u)) * weight_half(m.planes.x, b);
    let q = (e & 127u) / 32u;
    let l = weight_word(m.planes.w + b * 32u + e / 128u * 16u + (e & 63u) / 4u) >> (4u * (q / 2u));
    let h = weight_word(m.planes.z + b * 16u + e / 128u * 8u + (e & 31u) / 4u) >> (2u * q);
    return (numbers4((l & 0x0f0f0f0fu) | ((h & 0x03030303u) << 4u)) - 32.0) * scale;
}

// Unit u: run u/2 of 128 elements, quarters u%2 and u%2 + 2 of it.
fn x_blocks(u: u32) -> vec2<u32> {
    let first = u / 2u * 4u + (u & 1u);
    return vec2(first, first + 2u);
}

fn top(h: vec4<u32>, shift: u32) -> vec4<u32> {
    return ((h >> vec4(shift)) & vec4(0x03030303u)) << vec4(4u);
}

fn open64(m: Matrix, row: u32, u: u32) -> Open {
    let b = row * m.blocks + u / 4u;
    let at = (m.planes.w >> 2u) + (row * m.blocks * 4u + u) * 2u;
    let q0 = weights[at];
    let q1 = weights[at + 1u];
    let hat = (m.planes.z >> 2u) + (b * 2u + (u & 3u) / 2u) * 2u;
    let h0 = weights[hat];
    let h1 = weights[hat + 1u];
    let shift = 2u * (u & 1u);
    let sat = m.planes.y + b * 4u + (u & 3u) / 2u * 2u;
    // Scales of quarter q of the run: bytes 2q and 2q + 1 of its eight.
    let sa = i32(weight_word(sat) >> (16u * (u & 1u)));
    let sb = i32(weight_word(sat + 1u) >> (16u * (u & 1u)));
    let sc = vec4(f32(extractBits(sa, 0u, 8u)), f32(extractBits(sa, 8u, 8u)), f32(extractBits(sb, 0u, 8u)),
        f32(extractBits(sb, 8u, 8u)));
    return Open(low(q0) | top(h0, shift), low(q1) | top(h1, shift), high(q0) | top(h0, shift + 4u),
        high(q1) | top(h1, shift + 4u), sc * weight_half(m.planes.x, b));
}

fn dot_open(o: Open, xa: X32, xb: X32) -> f32 {
    let a0 = xa.s.x * f32(dot16(o.a0, xa.lo)) - 32.0 * xa.s.y;
    let a1 = xa.s.x * f32(dot16(o.a1, xa.hi)) - 32.0 * xa.s.z;
    let b0 = xb.s.x * f32(dot16(o.b0, xb.lo)) - 32.0 * xb.s.y;
    let b1 = xb.s.x * f32(dot16(o.b1, xb.hi)) - 32.0 * xb.s.z;
    return o.s.x * a0 + o.s.y * a1 + o.s.z * b0 + o.s.w * b1;
}
