// Units of q4_1: a block for each half, low nibbles are its first run.

struct Taken {
    q: vec4<u32>,
    d: u32,
}

fn take(m: Matrix, row: u32, u: u32, half: u32) -> Taken {
    let b = row * m.blocks + 2u * u + half;
    return Taken(weights[(m.planes.y >> 2u) + b], weight_word(m.planes.x + b));
}

fn factors(m: Matrix, row: u32, u: u32, half: u32, t: Taken) -> vec4<f32> {
    let d = unpack2x16float(t.d);
    let offset = d.y - 1024.0 * d.x;
    return vec4(d.x, offset, d.x, offset);
}

fn first4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    return bytes_as_halves(t.q[j] & 0x0f0f0f0fu) * f.x + f.y;
}

fn second4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    return bytes_as_halves((t.q[j] >> 4u) & 0x0f0f0f0fu) * f.z + f.w;
}

fn x_tile(u: u32, i: u32) -> u32 {
    return 4u * u + 2u * (i & 1u) + i / 2u;
}
