// Keys and values of `attention_coop` in states of any type: eight elements from `at` on, a multiple of eight. `scales` is the
// first word of a quantized state's scales. The arena stands in for keys and values that no state holds.

@group(0) @binding(3) var<storage, read_write> state: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> state_v: array<vec4<u32>>;

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

fn halves8(a: vec4<f32>, b: vec4<f32>) -> Half8 {
    return Half8(half4(a), half4(b));
}

fn unpack8(w: vec4<u32>) -> Half8 {
    return halves8(vec4(unpack2x16float(w.x), unpack2x16float(w.y)), vec4(unpack2x16float(w.z), unpack2x16float(w.w)));
}

fn key8(at: u32, scales: u32) -> Half8 {
    switch K_TYPE {
        case KV_F32: {
            return halves8(bitcast<vec4<f32>>(state[at / 4u]), bitcast<vec4<f32>>(state[at / 4u + 1u]));
        }
        case KV_F16: { return unpack8(state[at / 8u]); }
        case KV_Q8_0: {
            let v = state[at / 16u];
            let w = select(v.xy, v.zw, (at & 8u) != 0u);
            let s = scales + at / 32u;
            let d = bitcast<f32>(state[s / 4u][s & 3u]);
            return halves8(bytes4(w.x) * d, bytes4(w.y) * d);
        }
        case KV_Q4_0: {
            let v = state[at / 32u];
            let w = select(v.xy, v.zw, (at & 8u) != 0u) >> vec2((at & 16u) / 4u);
            let s = scales + at / 32u;
            let d = bitcast<f32>(state[s / 4u][s & 3u]);
            return halves8(nibbles4(w.x) * d, nibbles4(w.y) * d);
        }
        default: { return halves8(arena[at / 4u], arena[at / 4u + 1u]); }
    }
}

fn value8(at: u32, scales: u32) -> Half8 {
    switch V_TYPE {
        case KV_F32: {
            return halves8(bitcast<vec4<f32>>(state_v[at / 4u]), bitcast<vec4<f32>>(state_v[at / 4u + 1u]));
        }
        case KV_F16: { return unpack8(state_v[at / 8u]); }
        case KV_Q8_0: {
            let v = state_v[at / 16u];
            let w = select(v.xy, v.zw, (at & 8u) != 0u);
            let s = scales + at / 32u;
            let d = bitcast<f32>(state_v[s / 4u][s & 3u]);
            return halves8(bytes4(w.x) * d, bytes4(w.y) * d);
        }
        case KV_Q4_0: {
            let v = state_v[at / 32u];
            let w = select(v.xy, v.zw, (at & 8u) != 0u) >> vec2((at & 16u) / 4u);
            let s = scales + at / 32u;
            let d = bitcast<f32>(state_v[s / 4u][s & 3u]);
            return halves8(nibbles4(w.x) * d, nibbles4(w.y) * d);
        }
        default: { return halves8(arena[at / 4u], arena[at / 4u + 1u]); }
    }
}
