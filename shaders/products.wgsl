// What a team of `matvec_fast` sums up for a token: [part][row]. Its rows begin at row `line` of the matrix, or of an expert whose
// first row is `first`.
fn products(m: Matrix, first: u32, line: u32, t: u32, start: u32) -> array<f32, NSUM> {
    var sums: array<f32, NSUM>;
    let x = x_row(min(t, p.x.y - 1u));
    for (var u = start; u < p.x.x / 64u; u += LANES * SPLIT) {
        let b = x_blocks(u);
        let xa = x32(x, b.x);
        let xb = x32(x, b.y);
        for (var r = 0u; r < ROWS; r += 1u) {
            let row = first + min(line + r, m.rows - 1u);
            sums[r] += dot_open(open64(m, row, u), xa, xb);
            if GATED {
                sums[ROWS + r] += dot_open(open64(p.mats[1], row, u), xa, xb);
            }
        }
    }
    return sums;
}
