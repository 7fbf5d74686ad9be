// What a team of `matvec_fast` sums up: [part][token][row]. Its rows begin at row `line` of the matrix, or of an expert whose
// first row is `first`. Tokens are innermost, so that weights are taken apart once for all of them.
fn products(m: Matrix, first: u32, line: u32, t: u32, start: u32) -> array<f32, NSUM> {
    var sums: array<f32, NSUM>;
    for (var u = start; u < p.x.x / 64u; u += LANES * SPLIT) {
        let b = x_blocks(u);
        var xa: array<X32, TOKENS>;
        var xb: array<X32, TOKENS>;
        for (var i = 0u; i < TOKENS; i += 1u) {
            let x = x_row(min(t + i, p.x.y - 1u));
            xa[i] = x32(x, b.x);
            xb[i] = x32(x, b.y);
        }
        for (var r = 0u; r < ROWS; r += 1u) {
            let row = first + min(line + r, m.rows - 1u);
            for (var i = 0u; i < TOKENS; i += 1u) {
                sums[i * ROWS + r] += dot64(m, row, u, xa[i], xb[i]);
            }
            if GATED {
                for (var i = 0u; i < TOKENS; i += 1u) {
                    sums[(TOKENS + i) * ROWS + r] += dot64(p.mats[1], row, u, xa[i], xb[i]);
                }
            }
        }
    }
    return sums;
}
