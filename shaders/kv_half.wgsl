// Keys and values of `attention_coop`, `attention_few_coop` and `attention_prompt` in states of f16: eight elements from `at` on, a
// multiple of eight. Loaded as one vector, which the compiler takes for halves without converting them.

@group(0) @binding(3) var<storage, read_write> state: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> state_v: array<vec4<u32>>;

fn halves8(w: vec4<u32>) -> Half8 {
    let a = vec4(unpack2x16float(w.x), unpack2x16float(w.y));
    return Half8(vec4<f16>(a), vec4<f16>(vec4(unpack2x16float(w.z), unpack2x16float(w.w))));
}

fn key8(at: u32, scales: u32) -> Half8 {
    return halves8(state[at / 8u]);
}

fn value8(at: u32, scales: u32) -> Half8 {
    return halves8(state_v[at / 8u]);
}
