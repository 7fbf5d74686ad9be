// q4_K. Planes: d and dmin (f16); per 64 elements scale, min, scale, min as bytes; qs.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 256u;
    let e = k & 255u;
    let dm = unpack2x16float(weight_word(m.planes.x + b));
    let sc = weight_word(m.planes.y + b * 4u + e / 64u) >> ((e & 32u) / 2u);
    let w = weight_word(m.planes.z + b * 32u + e / 64u * 8u + (e & 31u) / 4u);
    return nibble4(w, (e & 32u) / 8u) * (dm.x * f32(sc & 255u)) - dm.y * f32((sc >> 8u) & 255u);
}

fn x_blocks(u: u32) -> vec2<u32> {
    return vec2(2u * u, 2u * u + 1u);
}

fn open64(m: Matrix, row: u32, u: u32) -> Open {
    let b = row * m.blocks + u / 4u;
    let at = (m.planes.z >> 2u) + (row * m.blocks * 4u + u) * 2u;
    let q0 = weights[at];
    let q1 = weights[at + 1u];
    let dm = unpack2x16float(weight_word(m.planes.x + b));
    let sc = vec4<f32>(byte4(weight_word(m.planes.y + row * m.blocks * 4u + u)));
    return Open(low(q0), low(q1), high(q0), high(q1), sc * dm.xyxy);
}

fn dot_open(o: Open, xa: X32, xb: X32) -> f32 {
    return dot_affine(o, xa, xb);
}
