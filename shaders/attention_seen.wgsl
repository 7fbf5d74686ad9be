// What `attention_coop` and `attention_prompt` are told, and what tokens see of the rows of a cache.

struct Params {
    // Elements of a key, of a value, query heads, query heads per key head.
    ne: vec4<u32>,
    // Queries: offset, stride of heads, of tokens; tokens.
    q: vec4<u32>,
    // Keys: offset, stride of heads, of rows; words before the scales.
    k: vec4<u32>,
    v: vec4<u32>,
    // Offset of the result; of the parts' results plus one (0: there is one part); parts; offset of the sinks plus one.
    out: vec4<u32>,
    // Number of the mask.
    mask: vec4<u32>,
    // Scale, soft cap (0: off).
    x: vec4<f32>,
    unused: vec4<u32>,
}

// What a token sees: start, end, and where the word of row 0 would lie in the bitmap (none: all of them).
struct Seen {
    start: u32,
    end: u32,
    bits: u32,
}

// See `attention.wgsl`. No token sees nothing.
fn seen_by(t: u32) -> Seen {
    if t >= p.q.w {
        return Seen(0u, 0u, 0xffffffffu);
    }
    let at = constants[p.mask.x * 8u] + 4u * t;
    let row = vec3(constants[at], constants[at + 1u], constants[at + 2u]);
    let word = constants[p.mask.x * 8u + 1u] + 2u * row.z - (row.x & ~63u) / 32u;
    return Seen(row.x, row.y, select(word, row.z, row.z == 0xffffffffu));
}

fn first_seen(s: Seen) -> u32 {
    return select(0xffffffffu, s.start, s.end > s.start);
}

// The rows that a token sees of 32 from `base` on, a multiple of 32, as bits.
fn visible(s: Seen, base: u32) -> u32 {
    let low = clamp(s.start, base, base + 32u) - base;
    let high = clamp(s.end, base, base + 32u) - base;
    if low >= high {
        return 0u;
    }
    let bits = (0xffffffffu >> (32u - (high - low))) << low;
    if s.bits == 0xffffffffu {
        return bits;
    }
    return bits & constants[s.bits + base / 32u];
}
