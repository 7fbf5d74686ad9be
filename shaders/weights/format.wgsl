// Weights of `matmul_coop` of a format, which become halves on their way.

fn w4(m: Matrix, row: u32, k: u32) -> vec4<f16> {
    return half4(load4(m, row, k));
}
