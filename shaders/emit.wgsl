// Results handed on as activations of bytes for `matvec_fast`, as `quantize.wgsl` makes them, but without a norm's scale:
// that is a factor of all of a token's elements, so bytes do not depend on it. Sums of squares go along, one per 32 elements.

var<workgroup> kept: array<vec4<f32>, RESULTS / 4>;
var<workgroup> kept_squares: array<vec4<f32>, RESULTS / 4>;

// Result `i` of the workgroup, of a row.
fn keep(i: u32, x: f32, row: u32) {
    var y = x;
    if p.emit.w != 0u && row < p.mats[0].rows {
        y *= number_at(p.emit_norm.x, p.emit.w - 1u + row);
    }
    kept[i >> 2u][i & 3u] = y;
    kept_squares[i >> 2u][i & 3u] = x * x;
}

// The rows of a workgroup are from `first` on, its tokens from `t` on.
fn emit(first: u32, t: u32, lid: u32) {
    workgroupBarrier();
    for (var i = lid; i < RESULTS / 4u; i += WG) {
        let row = first + i * 4u % GROUP_ROWS;
        let token = t + i * 4u / GROUP_ROWS;
        if row >= p.mats[0].rows || token >= p.x.y {
            continue;
        }
        let block = i & ~7u;
        var top = vec4(0.0);
        for (var j = 0u; j < 8u; j += 1u) {
            top = max(top, abs(kept[block + j]));
        }
        let d = max(max(top.x, top.y), max(top.z, top.w)) / 127.0;
        let inverse = select(0.0, 1.0 / d, d > 0.0);
        let at = token * p.mats[0].rows + row;
        set_word(p.emit.x + at / 4u, packed(vec4<i32>(round(kept[i] * inverse))));
        if (i & 7u) == 0u {
            var low_sum = vec4(0.0);
            var high_sum = vec4(0.0);
            var square = vec4(0.0);
            for (var j = 0u; j < 4u; j += 1u) {
                low_sum += round(kept[block + j] * inverse);
                high_sum += round(kept[block + 4u + j] * inverse);
                square += kept_squares[block + j] + kept_squares[block + 4u + j];
            }
            let one = vec4(1.0);
            set_vector(p.emit.y + at / 8u, vec4(d, d * dot(low_sum, one), d * dot(high_sum, one), 0.0));
            if p.emit.z != 0u {
                set_number(p.emit.z - 1u + at / 32u, dot(square, one));
            }
        }
    }
}

fn packed(q: vec4<i32>) -> u32 {
    let b = vec4<u32>(q) & vec4(255u);
    return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
