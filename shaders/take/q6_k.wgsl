// Units of q6_K: unit u is the quarters u % 2 and u % 2 + 2 of run u / 2 of 128 elements.

struct Taken {
    l: vec4<u32>,
    h: vec4<u32>,
    first: u32,
    second: u32,
    d: u32,
}

fn take(m: Matrix, row: u32, u: u32, half: u32) -> Taken {
    let b = row * m.blocks + u / 4u;
    let run = (u & 3u) / 2u;
    let scales = m.planes.y + 4u * b + 2u * run;
    return Taken(weights[(m.planes.w >> 2u) + 2u * (row * m.blocks * 4u + u) + half],
        weights[(m.planes.z >> 2u) + 2u * (2u * b + run) + half],
        weight_word(scales), weight_word(scales + 1u), weight_word(m.planes.x + b / 2u));
}

// Scale and offset of both runs.
fn factors(m: Matrix, row: u32, u: u32, half: u32, t: Taken) -> vec4<f32> {
    let b = row * m.blocks + u / 4u;
    let d = unpack2x16float(t.d >> (16u * (b & 1u))).x;
    let byte = 8u * (2u * (u & 1u) + half);
    let a = d * f32(extractBits(i32(t.first), byte, 8u));
    let c = d * f32(extractBits(i32(t.second), byte, 8u));
    // 1024 of the halves, 32 of the type.
    return vec4(a, -1056.0 * a, c, -1056.0 * c);
}

fn first4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    let h = t.h[j] >> (2u * (u & 1u));
    return bytes_as_halves((t.l[j] & 0x0f0f0f0fu) | ((h & 0x03030303u) << 4u)) * f.x + f.y;
}

fn second4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    let h = t.h[j] >> (2u * (u & 1u));
    return bytes_as_halves(((t.l[j] >> 4u) & 0x0f0f0f0fu) | (h & 0x30303030u)) * f.z + f.w;
}

fn x_tile(u: u32, i: u32) -> u32 {
    return u / 2u * 8u + (u & 1u) * 2u + (i & 1u) + i / 2u * 4u;
}
