// Rotations by position. A table holds those of every value of each of a position's four bytes, see docs/gpu.md.

fn rotation_of(table: u32, pairs: u32, pair: u32, level: u32, distance: u32) -> vec2<f32> {
    let at = table + 2u * ((level * 256u + ((distance >> (8u * level)) & 255u)) * pairs + pair);
    return vec2(bitcast<f32>(tables[at]), bitcast<f32>(tables[at + 1u]));
}

fn both(z: vec2<f32>, r: vec2<f32>) -> vec2<f32> {
    return vec2(z.x * r.x - z.y * r.y, z.x * r.y + z.y * r.x);
}

// Cosine and sine by which a pair rotates: the product of the rotations of the position's bytes. Positions beyond 65535 are
// rare: only they wait for the upper bytes.
fn rotation(table: u32, pairs: u32, pair: u32, pos: i32) -> vec2<f32> {
    let distance = u32(abs(pos));
    var z = both(rotation_of(table, pairs, pair, 0u, distance), rotation_of(table, pairs, pair, 1u, distance));
    if distance > 65535u {
        z = both(z, rotation_of(table, pairs, pair, 2u, distance));
        z = both(z, rotation_of(table, pairs, pair, 3u, distance));
    }
    return vec2(z.x, select(z.y, -z.y, pos < 0));
}
