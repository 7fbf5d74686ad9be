// Eight elements of a cache of f32. Names and binding are those of the keys or values.
@group(0) @binding(3) var<storage, read_write> cache: array<vec4<u32>>;

fn raw8(at: u32, scales: u32) -> Raw8 {
    return Raw8(cache[at / 4u], cache[at / 4u + 1u]);
}

fn open8(raw: Raw8, at: u32) -> Eight {
    return Eight(bitcast<vec4<f32>>(raw.a), bitcast<vec4<f32>>(raw.b));
}

fn store8(at: u32, scales: u32, x: Eight) -> Eight {
    cache[at / 4u] = bitcast<vec4<u32>>(x.a);
    cache[at / 4u + 1u] = bitcast<vec4<u32>>(x.b);
    return x;
}
