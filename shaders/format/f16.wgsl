// f16: rows padded to 8 elements; a block is 8 elements.
fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let at = m.planes.x + (row * m.blocks * 8u + k) / 2u;
    return vec4(unpack2x16float(weight_word(at)), unpack2x16float(weight_word(at + 1u)));
}
