// What `attention_few_coop` does with states of f16 besides `kv_half.wgsl`: rows that it loads long before it uses them lie in
// registers as they are, and the token's own are stored; what comes back is what the state holds then.

alias Raw = vec4<u32>;

fn raw_key(at: u32) -> Raw {
    return state[at / 8u];
}

fn raw_value(at: u32) -> Raw {
    return state_v[at / 8u];
}

fn key_halves(raw: Raw, at: u32) -> Half8 {
    return halves8(raw);
}

fn value_halves(raw: Raw, at: u32) -> Half8 {
    return halves8(raw);
}

fn packed8(x: Eight) -> vec4<u32> {
    return vec4(pack2x16float(x.a.xy), pack2x16float(x.a.zw), pack2x16float(x.b.xy), pack2x16float(x.b.zw));
}

fn unpacked8(w: vec4<u32>) -> Eight {
    return Eight(vec4(unpack2x16float(w.x), unpack2x16float(w.y)), vec4(unpack2x16float(w.z), unpack2x16float(w.w)));
}

fn store_key8(at: u32, scales: u32, x: Eight) -> Eight {
    state[at / 8u] = packed8(x);
    return unpacked8(packed8(x));
}

fn store_value8(at: u32, scales: u32, x: Eight) -> Eight {
    state_v[at / 8u] = packed8(x);
    return unpacked8(packed8(x));
}
