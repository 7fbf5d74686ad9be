// Eight elements of a cache of q8_0, whose blocks four threads share.
@group(0) @binding(3) var<storage, read_write> cache: array<vec2<u32>>;

fn raw8(at: u32, scales: u32) -> Raw8 {
    let i = scales + at / 32u;
    return Raw8(vec4(cache[at / 8u], cache[i >> 1u][i & 1u], 0u), vec4(0u));
}

fn open8(raw: Raw8, at: u32) -> Eight {
    let d = bitcast<f32>(raw.a.z);
    return Eight(d * signed4(raw.a.x), d * signed4(raw.a.y));
}

fn store8(at: u32, scales: u32, x: Eight) -> Eight {
    let top = max(abs(x.a), abs(x.b));
    var most = max(max(top.x, top.y), max(top.z, top.w));
    most = max(most, subgroupShuffleXor(most, 1u));
    most = max(most, subgroupShuffleXor(most, 2u));
    let d = most / 127.0;
    let inverse = select(0.0, 1.0 / d, d != 0.0);
    var w = vec2(0u);
    for (var i = 0u; i < 4u; i += 1u) {
        w.x |= (u32(nearest(x.a[i] * inverse)) & 255u) << (8u * i);
        w.y |= (u32(nearest(x.b[i] * inverse)) & 255u) << (8u * i);
    }
    cache[at / 8u] = w;
    if (at & 31u) == 0u {
        let i = scales + at / 32u;
        cache[i >> 1u][i & 1u] = bitcast<u32>(half_precision(d));
    }
    return Eight(half_precision(d) * signed4(w.x), half_precision(d) * signed4(w.y));
}
