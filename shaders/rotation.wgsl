// Rotations by position. A table holds those of every value of each of a position's four bytes, see docs/gpu.md.

// Cosine and sine by which a pair rotates: the product of the rotations of the position's bytes.
fn rotation(table: u32, pairs: u32, pair: u32, pos: i32) -> vec2<f32> {
    let distance = u32(abs(pos));
    var z = vec2(1.0, 0.0);
    for (var level = 0u; level < 4u; level += 1u) {
        let byte = (distance >> (8u * level)) & 255u;
        if byte == 0u && level > 0u {
            continue;
        }
        let at = table + 2u * ((level * 256u + byte) * pairs + pair);
        let r = vec2(bitcast<f32>(tables[at]), bitcast<f32>(tables[at + 1u]));
        z = vec2(z.x * r.x - z.y * r.y, z.x * r.y + z.y * r.x);
    }
    return vec2(z.x, select(z.y, -z.y, pos < 0));
}
