// Where all matrices of a dispatch are of one type.
fn products_b(m: Matrix, first: u32, line: u32, t: u32, start: u32) -> array<f32, NSUM> {
    return products(m, first, line, t, start);
}
