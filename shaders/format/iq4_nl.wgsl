// iq4_nl. Planes: d (f16), qs.
const LEVELS = array<f32, 16>(-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0);

fn levels4(w: u32) -> vec4<f32> {
    let i = byte4(w & 0x0f0f0f0fu);
    var levels = LEVELS;
    return vec4(levels[i.x], levels[i.y], levels[i.z], levels[i.w]);
}

fn load4(m: Matrix, row: u32, k: u32) -> vec4<f32> {
    let b = row * m.blocks + k / 32u;
    let w = weight_word(m.planes.y + b * 4u + (k & 15u) / 4u);
    return levels4(w >> ((k & 16u) / 4u)) * weight_half(m.planes.x, b);
}
