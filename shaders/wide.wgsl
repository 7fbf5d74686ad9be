// What kernels over cooperative matrices are given: as `bindings.wgsl`, but four words at a time, and the arena as numbers,
// since a matrix has the type of what it is loaded from and stored to.

// Results of a run, inputs and scratch.
@group(0) @binding(0) var<storage, read_write> arena: array<vec4<f32>>;
// Weights: a matrix in planes, or vectors.
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
// More vectors, or masks.
@group(0) @binding(2) var<storage, read> constants: array<u32>;
@group(0) @binding(5) var<uniform> p: Params;

fn arena_word(i: u32) -> u32 {
    return bitcast<u32>(arena[i >> 2u][i & 3u]);
}

fn arena_words4(i: u32) -> vec4<u32> {
    return bitcast<vec4<u32>>(arena[i >> 2u]);
}

fn set_number(i: u32, x: f32) {
    arena[i >> 2u][i & 3u] = x;
}

fn weight_word(i: u32) -> u32 {
    return weights[i >> 2u][i & 3u];
}

fn weight_byte(i: u32) -> u32 {
    return (weight_word(i >> 2u) >> ((i & 3u) * 8u)) & 255u;
}

// Half-precision number `i` of an array that begins at word `at`.
fn weight_half(at: u32, i: u32) -> f32 {
    return unpack2x16float(weight_word(at + (i >> 1u)))[i & 1u];
}
