// Eight elements of a cache of f16.
@group(0) @binding(3) var<storage, read_write> cache: array<vec4<u32>>;

fn raw8(at: u32, scales: u32) -> Raw8 {
    return Raw8(cache[at / 8u], vec4(0u));
}

fn open8(raw: Raw8, at: u32) -> Eight {
    let w = raw.a;
    return Eight(vec4(unpack2x16float(w.x), unpack2x16float(w.y)), vec4(unpack2x16float(w.z), unpack2x16float(w.w)));
}

fn store8(at: u32, scales: u32, x: Eight) -> Eight {
    let w = vec4(pack2x16float(x.a.xy), pack2x16float(x.a.zw), pack2x16float(x.b.xy), pack2x16float(x.b.zw));
    cache[at / 8u] = w;
    return Eight(vec4(unpack2x16float(w.x), unpack2x16float(w.y)), vec4(unpack2x16float(w.z), unpack2x16float(w.w)));
}
