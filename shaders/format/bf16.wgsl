// bf16: rows padded to 8 elements; a block is 8 elements.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let at = m.planes.x + (row * m.blocks * 8u + k) / 2u;
    let a = weight_word(at);
    let b = weight_word(at + 1u);
    return bitcast<vec4<f32>>(vec4(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}
