// What a team of `matvec_fast` sums up for two to eight tokens: [part][token][row], of two rows (`products.wgsl` has one token).
// Weights stay in registers while tokens pass by. Sums have names of their own: arrays would not stay in registers.

// A token's products with a unit: both rows, then both of the second part.
fn products_of(t: u32, b: vec2<u32>, wa: Open, wb: Open, wc: Open, wd: Open) -> vec4<f32> {
    let x = x_row(min(t, p.x.y - 1u));
    let xa = x32(x, b.x);
    let xb = x32(x, b.y);
    let sums = vec2(dot_open(wa, xa, xb), dot_open(wb, xa, xb));
    if GATED {
        return vec4(sums, dot_open(wc, xa, xb), dot_open(wd, xa, xb));
    }
    return vec4(sums, 0.0, 0.0);
}

fn put(sums: ptr<function, array<f32, NSUM>>, i: u32, s: vec4<f32>) {
    (*sums)[i * 2u] = s.x;
    (*sums)[i * 2u + 1u] = s.y;
    if GATED {
        (*sums)[(TOKENS + i) * 2u] = s.z;
        (*sums)[(TOKENS + i) * 2u + 1u] = s.w;
    }
}

fn products(m: Matrix, first: u32, line: u32, t: u32, start: u32) -> array<f32, NSUM> {
    let row_a = first + min(line, m.rows - 1u);
    let row_b = first + min(line + 1u, m.rows - 1u);
    var s0 = vec4(0.0);
    var s1 = vec4(0.0);
    var s2 = vec4(0.0);
    var s3 = vec4(0.0);
    var s4 = vec4(0.0);
    var s5 = vec4(0.0);
    var s6 = vec4(0.0);
    var s7 = vec4(0.0);
    for (var u = start; u < p.x.x / 64u; u += LANES * SPLIT) {
        let b = x_blocks(u);
        let wa = open64(m, row_a, u);
        let wb = open64(m, row_b, u);
        // Read by no one if there is one part.
        let wc = open64(p.mats[1], row_a, u);
        let wd = open64(p.mats[1], row_b, u);
        s0 += products_of(t, b, wa, wb, wc, wd);
        s1 += products_of(t + 1u, b, wa, wb, wc, wd);
        if TOKENS > 2u {
            s2 += products_of(t + 2u, b, wa, wb, wc, wd);
        }
        if TOKENS > 3u {
            s3 += products_of(t + 3u, b, wa, wb, wc, wd);
        }
        if TOKENS > 4u {
            s4 += products_of(t + 4u, b, wa, wb, wc, wd);
        }
        if TOKENS > 5u {
            s5 += products_of(t + 5u, b, wa, wb, wc, wd);
        }
        if TOKENS > 6u {
            s6 += products_of(t + 6u, b, wa, wb, wc, wd);
        }
        if TOKENS > 7u {
            s7 += products_of(t + 7u, b, wa, wb, wc, wd);
        }
    }
    var sums: array<f32, NSUM>;
    put(&sums, 0u, s0);
    put(&sums, 1u, s1);
    if TOKENS > 2u {
        put(&sums, 2u, s2);
    }
    if TOKENS > 3u {
        put(&sums, 3u, s3);
    }
    if TOKENS > 4u {
        put(&sums, 4u, s4);
    }
    if TOKENS > 5u {
        put(&sums, 5u, s5);
    }
    if TOKENS > 6u {
        put(&sums, 6u, s6);
    }
    if TOKENS > 7u {
        put(&sums, 7u, s7);
    }
    return sums;
}
