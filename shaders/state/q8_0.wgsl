// Eight elements of a cache of q8_0.
@group(0) @binding(3) var<storage, read_write> cache: array<vec2<u32>>;

fn load8(at: u32, scales: u32) -> Eight {
    let w = cache[at / 8u];
    let i = scales + at / 32u;
    let d = bitcast<f32>(cache[i >> 1u][i & 1u]);
    return Eight(d * signed4(w.x), d * signed4(w.y));
}
