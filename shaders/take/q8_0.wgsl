// Units of q8_0: a block for each half.

struct Taken {
    a: vec4<u32>,
    b: vec4<u32>,
    d: u32,
}

fn take(m: Matrix, row: u32, u: u32, half: u32) -> Taken {
    let b = row * m.blocks + 2u * u + half;
    let at = (m.planes.y >> 2u) + 2u * b;
    return Taken(weights[at], weights[at + 1u], weight_word(m.planes.x + b / 2u));
}

fn factors(m: Matrix, row: u32, u: u32, half: u32, t: Taken) -> vec4<f32> {
    let b = row * m.blocks + 2u * u + half;
    let d = unpack2x16float(t.d >> (16u * (b & 1u))).x;
    // 1024 of the halves, 128 of the bytes without a sign.
    return vec4(d, -1152.0 * d, 0.0, 0.0);
}

fn first4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    return bytes_as_halves(t.a[j] ^ 0x80808080u) * f.x + f.y;
}

fn second4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    return bytes_as_halves(t.b[j] ^ 0x80808080u) * f.x + f.y;
}

fn x_tile(u: u32, i: u32) -> u32 {
    return 4u * u + 2u * (i & 1u) + i / 2u;
}
