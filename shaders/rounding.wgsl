// Rounding as blocks of caches are made with.

// As C's `roundf`.
fn nearest(x: f32) -> i32 {
    return i32(select(ceil(x - 0.5), floor(x + 0.5), x >= 0.0));
}

fn half_precision(x: f32) -> f32 {
    return unpack2x16float(pack2x16float(vec2(x, 0.0))).x;
}
