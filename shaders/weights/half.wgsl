// Weights of `matmul_coop` that are halves: `planes.x` is the first vector, `blocks` the vectors of a row.

@group(0) @binding(1) var<storage, read> w_half: array<vec4<f16>>;

fn w4(m: Matrix, row: u32, k: u32) -> vec4<f16> {
    return w_half[m.planes.x + row * m.blocks + k / 4u];
}
