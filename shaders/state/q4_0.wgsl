// Eight elements of a cache of q4_0.
@group(0) @binding(3) var<storage, read_write> cache: array<vec2<u32>>;

fn raw8(at: u32, scales: u32) -> Raw8 {
    let w = cache[at / 32u * 2u + (at & 15u) / 8u];
    let i = scales + at / 32u;
    return Raw8(vec4(w, cache[i >> 1u][i & 1u], 0u), vec4(0u));
}

fn open8(raw: Raw8, at: u32) -> Eight {
    let d = bitcast<f32>(raw.a.z);
    return Eight(d * (nibble4(raw.a.x, (at & 16u) / 4u) - 8.0), d * (nibble4(raw.a.y, (at & 16u) / 4u) - 8.0));
}

// Not stored by this kernel: a word has elements of two threads.
fn store8(at: u32, scales: u32, x: Eight) -> Eight {
    return x;
}
