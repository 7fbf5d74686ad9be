// Keys and values of `attention_coop` in states of types that are not both f16: eight elements from `at` on, a multiple of
// eight, by `load_key8` and `load_value8` of the files of `state/`.

struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

const KV_F32: u32 = 1;

fn halves8(x: Eight, kind: u32) -> Half8 {
    if kind == KV_F32 {
        return Half8(half4(x.a), half4(x.b));
    }
    return Half8(vec4<f16>(x.a), vec4<f16>(x.b));
}

fn key8(at: u32, scales: u32) -> Half8 {
    return halves8(load_key8(at, scales), K_TYPE);
}

fn value8(at: u32, scales: u32) -> Half8 {
    return halves8(load_value8(at, scales), V_TYPE);
}
