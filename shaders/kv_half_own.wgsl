// What `attention_few_coop` does with states of f16 besides `kv_half.wgsl`: rows that it loads long before it uses them lie in
// registers as they are, and the token's own are stored; what comes back is what the state holds then.

alias Raw = Half8;

fn raw_key(at: u32) -> Raw {
    return key8(at, 0u);
}

fn raw_value(at: u32) -> Raw {
    return value8(at, 0u);
}

fn key_halves(raw: Raw, at: u32) -> Half8 {
    return raw;
}

fn value_halves(raw: Raw, at: u32) -> Half8 {
    return raw;
}

fn halves_of(x: Eight) -> Half8 {
    return Half8(vec4<f16>(x.a), vec4<f16>(x.b));
}

fn store_key8(at: u32, scales: u32, x: Eight) -> Eight {
    let h = halves_of(x);
    state[at / 8u] = h;
    return Eight(vec4<f32>(h.a), vec4<f32>(h.b));
}

fn store_value8(at: u32, scales: u32, x: Eight) -> Eight {
    let h = halves_of(x);
    state_v[at / 8u] = h;
    return Eight(vec4<f32>(h.a), vec4<f32>(h.b));
}
