// What every kernel is given. Offsets and strides are in elements (32-bit words of the arena).

// Weights: a matrix in planes, or vectors.
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
// More vectors, or masks.
@group(0) @binding(2) var<storage, read> constants: array<u32>;
// Tables of rotations.
@group(0) @binding(7) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<uniform> p: Params;

// Where an operand lies.
const ARENA: u32 = 0;
const WEIGHTS: u32 = 1;
const CONSTANTS: u32 = 2;

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

fn bits_at(space: u32, i: u32) -> u32 {
    switch space {
        case WEIGHTS: { return weight_word(i); }
        case CONSTANTS: { return constants[i]; }
        default: { return arena_word(i); }
    }
}

fn number_at(space: u32, i: u32) -> f32 {
    return bitcast<f32>(bits_at(space, i));
}
