// f32: rows padded to 8 elements; a block is 8 elements.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(weights[(m.planes.x >> 2u) + (row * m.blocks * 8u + k) / 4u]);
}
