// Results handed on as activations of bytes for `matvec_fast`, as `quantize.wgsl` makes them, but without a norm's scale:
// that is a factor of all of a token's elements, so bytes do not depend on it. Sums of squares go along, one per 32 elements.
// A workgroup has RESULTS of them, in whole blocks of 32.

var<workgroup> kept: array<vec4<f32>, (RESULTS + 3) / 4>;
var<workgroup> kept_squares: array<vec4<f32>, (RESULTS + 3) / 4>;

fn keep4(i: u32, x: vec4<f32>) {
    kept[i] = x;
}

// Result `i` of the workgroup and what it is multiplied by.
fn keep(i: u32, x: f32, weight: f32) {
    kept[i >> 2u][i & 3u] = x * weight;
    kept_squares[i >> 2u][i & 3u] = x * x;
}

// The bytes of the four results from 4 * i on, which are elements `at` to `at + 4` of all; the first four of a block bring
// its scale, and its sum of squares if there is a place for it.
fn emit_word(i: u32, at: u32, bytes: u32, scales: u32, sums_of_squares: u32) {
    let block = i & ~7u;
    var top = vec4(0.0);
    for (var j = 0u; j < 8u; j += 1u) {
        top = max(top, abs(kept[block + j]));
    }
    let d = max(max(top.x, top.y), max(top.z, top.w)) / 127.0;
    let inverse = select(0.0, 1.0 / d, d > 0.0);
    set_word(bytes + at / 4u, packed(vec4<i32>(round(kept[i] * inverse))));
    if (i & 7u) != 0u {
        return;
    }
    var low_sum = vec4(0.0);
    var high_sum = vec4(0.0);
    var square = vec4(0.0);
    for (var j = 0u; j < 4u; j += 1u) {
        low_sum += round(kept[block + j] * inverse);
        high_sum += round(kept[block + 4u + j] * inverse);
        square += kept_squares[block + j] + kept_squares[block + 4u + j];
    }
    let one = vec4(1.0);
    set_vector(scales + at / 8u, vec4(d, d * dot(low_sum, one), d * dot(high_sum, one), 0.0));
    if sums_of_squares != 0u {
        set_number(sums_of_squares - 1u + at / 32u, dot(square, one));
    }
}

fn packed(q: vec4<i32>) -> u32 {
    let b = vec4<u32>(q) & vec4(255u);
    return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
