// Keys and values of `attention_coop` in states of types that are not both f16: eight elements from `at` on, a multiple of
// eight, by functions of the files of `state/`.

const KV_F32: u32 = 1;
const KV_Q8_0: u32 = 3;

fn halves8(x: Eight, kind: u32) -> Half8 {
    if kind == KV_F32 {
        return Half8(half4(x.a), half4(x.b));
    }
    return Half8(vec4<f16>(x.a), vec4<f16>(x.b));
}

// Four bytes of q8_0 as halves: plus 1152 each they are the last bits of halves, and both steps back are exact but the last.
fn bytes4(word: u32, d: f16) -> vec4<f16> {
    let even = vec2<f16>(unpack2x16float((word & 0x00ff00ffu) ^ 0x64806480u)) - 1152.0h;
    let odd = vec2<f16>(unpack2x16float(((word >> 8u) & 0x00ff00ffu) ^ 0x64806480u)) - 1152.0h;
    return vec4(even.x, odd.x, even.y, odd.y) * d;
}

fn bytes8(raw: Raw8) -> Half8 {
    // Scales of a cache are halves.
    let d = f16(bitcast<f32>(raw.a.z));
    return Half8(bytes4(raw.a.x, d), bytes4(raw.a.y, d));
}

fn key_halves(raw: Raw8, at: u32) -> Half8 {
    if K_TYPE == KV_Q8_0 {
        return bytes8(raw);
    }
    return halves8(open_key8(raw, at), K_TYPE);
}

fn value_halves(raw: Raw8, at: u32) -> Half8 {
    if V_TYPE == KV_Q8_0 {
        return bytes8(raw);
    }
    return halves8(open_value8(raw, at), V_TYPE);
}

fn key8(at: u32, scales: u32) -> Half8 {
    return key_halves(raw_key8(at, scales), at);
}

fn value8(at: u32, scales: u32) -> Half8 {
    return value_halves(raw_value8(at, scales), at);
}
