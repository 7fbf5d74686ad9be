// Reading persistent states. `at` counts elements from the state's start; `scales` is the first word of a quantized state's
// scales. The arena stands in for keys and values that no state holds.

const KV_ARENA: u32 = 0;
const KV_F32: u32 = 1;
const KV_F16: u32 = 2;
const KV_Q8_0: u32 = 3;
const KV_Q4_0: u32 = 4;

fn bytes4(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4(extractBits(i32(word), 0u, 8u), extractBits(i32(word), 8u, 8u),
        extractBits(i32(word), 16u, 8u), extractBits(i32(word), 24u, 8u)));
}

fn nibbles4(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4(word & 15u, (word >> 8u) & 15u, (word >> 16u) & 15u, (word >> 24u) & 15u)) - 8.0;
}

// Keys at..at+4, `at` a multiple of 4.
fn key4(at: u32, scales: u32) -> vec4<f32> {
    switch K_TYPE {
        case KV_F32: { return bitcast<vec4<f32>>(vec4(state[at], state[at + 1u], state[at + 2u], state[at + 3u])); }
        case KV_F16: { return vec4(unpack2x16float(state[at / 2u]), unpack2x16float(state[at / 2u + 1u])); }
        case KV_Q8_0: { return bytes4(state[at / 4u]) * bitcast<f32>(state[scales + at / 32u]); }
        case KV_Q4_0: {
            let word = state[at / 32u * 4u + (at & 15u) / 4u] >> ((at & 16u) / 4u);
            return nibbles4(word) * bitcast<f32>(state[scales + at / 32u]);
        }
        default: {
            return bitcast<vec4<f32>>(vec4(arena_word(at), arena_word(at + 1u), arena_word(at + 2u), arena_word(at + 3u)));
        }
    }
}

// Values at and at + 1, `at` even.
fn value2(at: u32, scales: u32) -> vec2<f32> {
    switch V_TYPE {
        case KV_F32: { return bitcast<vec2<f32>>(vec2(state_v[at], state_v[at + 1u])); }
        case KV_F16: { return unpack2x16float(state_v[at / 2u]); }
        case KV_Q8_0: {
            let v = bytes4(state_v[at / 4u]) * bitcast<f32>(state_v[scales + at / 32u]);
            return select(v.xy, v.zw, (at & 2u) != 0u);
        }
        case KV_Q4_0: {
            let word = state_v[at / 32u * 4u + (at & 15u) / 4u] >> ((at & 16u) / 4u);
            let v = nibbles4(word) * bitcast<f32>(state_v[scales + at / 32u]);
            return select(v.xy, v.zw, (at & 2u) != 0u);
        }
        default: { return bitcast<vec2<f32>>(vec2(arena_word(at), arena_word(at + 1u))); }
    }
}
