// A weight matrix on the device. The fields of its blocks lie in planes, each aligned to 16 bytes, so that every load is
// aligned and neighbours in a workgroup load neighbours in memory. A format file gives, for blocks of its type,
//   load4(m, row, k): elements k..k+4 of a row, k a multiple of 4;
// and those that few tokens are fast with, what `fast.wgsl` names.

struct Matrix {
    // First word of each plane.
    planes: vec4<u32>,
    // Blocks of a row.
    blocks: u32,
    // Rows.
    rows: u32,
    // Where the product goes.
    to: u32,
    // Offset of the bias plus one; 0: none.
    bias: u32,
    // Elements from one token's product to the next.
    stride: u32,
    // Offset of what is added last plus one; 0: nothing.
    residual: u32,
    // Whether it is of the second type of a dispatch of two.
    other: u32,
    unused: u32,
}

fn byte4(word: u32) -> vec4<u32> {
    return vec4(word & 255u, (word >> 8u) & 255u, (word >> 16u) & 255u, word >> 24u);
}

// Bytes as numbers, by the last bits of 2^23: integers are converted slowly.
fn numbers4(word: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(byte4(word) | vec4(0x4b000000u)) - 8388608.0;
}

fn nibble4(word: u32, shift: u32) -> vec4<f32> {
    return numbers4((word >> shift) & 0x0f0f0f0fu);
}

// Bytes plus 1024 each: the last bits of halves, which become numbers two at a time.
fn bytes_as_halves(word: u32) -> vec4<f32> {
    let even = unpack2x16float((word & 0x00ff00ffu) | 0x64006400u);
    let odd = unpack2x16float(((word >> 8u) & 0x00ff00ffu) | 0x64006400u);
    return vec4(even.x, odd.x, even.y, odd.y);
}

fn signed4(word: u32) -> vec4<f32> {
    return bytes_as_halves(word ^ 0x80808080u) - 1152.0;
}
