// What products of weights with activations share: which rows a workgroup has, and what follows a product.

struct Params {
    mats: array<Matrix, 3>,
    // Elements of a row, tokens, offset of the activations, offset of their scales.
    x: vec4<u32>,
    // Activation, matrices, words of a token's activations, rows of an expert.
    how: vec4<u32>,
    // Experts: offset of the ids plus one (0: none), ids of a token, rows of activations of a token.
    experts: vec4<u32>,
    // The sums of squares of the activations: offset plus one (0: they are normalized already), epsilon, sums of a token.
    norm: vec4<u32>,
    // Results as bytes: offset of the bytes, of their scales, of the sums of squares plus one (0: none), of the weight of the
    // next norm plus one (0: none).
    emit: vec4<u32>,
    // Space of that weight.
    emit_norm: vec4<u32>,
}

// Which group of rows a workgroup has: large matrices have more than a dimension of the grid holds.
fn row_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.z * groups.x + group.x;
}

// The matrix of row group `g`, where groups of `n` rows are counted over all matrices, and the first of its rows.
fn find_rows(g: u32, n: u32) -> vec2<u32> {
    var rest = g;
    var mat = 0u;
    loop {
        let groups = (p.mats[mat].rows + n - 1u) / n;
        if rest < groups || mat + 1u >= p.how.y {
            break;
        }
        rest -= groups;
        mat += 1u;
    }
    return vec2(mat, rest * n);
}

// The rows of activations and of the matrix (of its expert) for token or slot `t`.
fn x_row(t: u32) -> u32 {
    if p.experts.x == 0u {
        return t;
    }
    return t / p.experts.y * p.experts.z + t % p.experts.y % p.experts.z;
}

fn first_row(m: Matrix, t: u32) -> u32 {
    if p.experts.x == 0u {
        return 0u;
    }
    return arena_word(p.experts.x - 1u + t) * p.how.w;
}

// What is added to a result last.
fn residual_of(m: Matrix, row: u32, t: u32) -> f32 {
    if m.residual == 0u {
        return 0.0;
    }
    return bitcast<f32>(arena_word(m.residual - 1u + t * m.stride + row));
}

fn activated(m: Matrix, row: u32, sum: f32) -> f32 {
    var x = sum;
    if m.bias != 0u {
        x += bitcast<f32>(constants[m.bias - 1u + row]);
    }
    return activate(p.how.x, x);
}

fn finish(m: Matrix, row: u32, t: u32, sum: f32) {
    set_number(m.to + t * m.stride + row, activated(m, row, sum) + residual_of(m, row, t));
}
