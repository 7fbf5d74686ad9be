// mxfp4. Planes: exponents (one word each), qs.
const LEVELS = array<f32, 16>(0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0);

fn levels4(w: u32) -> vec4<f32> {
    let i = byte4(w & 0x0f0f0f0fu);
    var levels = LEVELS;
    return vec4(levels[i.x], levels[i.y], levels[i.z], levels[i.w]);
}

fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 32u;
    let d = bitcast<f32>(weight_word(m.planes.x + b));
    let w = weight_word(m.planes.y + b * 4u + (k & 15u) / 4u);
    return levels4(w >> ((k & 16u) / 4u)) * d;
}
