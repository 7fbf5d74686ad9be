// Units of q5_K: low nibbles are the first runs, high nibbles the second.

struct Taken {
    q: vec4<u32>,
    h: vec4<u32>,
    scales: u32,
    d: u32,
}

fn take(m: Matrix, row: u32, u: u32, half: u32) -> Taken {
    let b = row * m.blocks + u / 4u;
    let at = row * m.blocks * 4u + u;
    return Taken(weights[(m.planes.w >> 2u) + 2u * at + half], weights[(m.planes.z >> 2u) + 2u * b + half],
        weight_word(m.planes.y + at), weight_word(m.planes.x + b));
}

// Scale and offset of both runs.
fn factors(m: Matrix, row: u32, u: u32, half: u32, t: Taken) -> vec4<f32> {
    let d = unpack2x16float(t.d);
    let s = vec4<f32>(byte4(t.scales)) * vec4(d, d);
    return vec4(s.x, -s.y - 1024.0 * s.x, s.z, -s.w - 1024.0 * s.z);
}

fn first4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    let h = (t.h[j] >> (2u * (u & 3u))) & 0x01010101u;
    return bytes_as_halves((t.q[j] & 0x0f0f0f0fu) | (h << 4u)) * f.x + f.y;
}

fn second4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    let h = (t.h[j] >> (2u * (u & 3u) + 1u)) & 0x01010101u;
    return bytes_as_halves(((t.q[j] >> 4u) & 0x0f0f0f0fu) | (h << 4u)) * f.z + f.w;
}

fn x_tile(u: u32, i: u32) -> u32 {
    return 4u * u + i;
}
