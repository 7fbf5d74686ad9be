// Activations of single tokens as bytes: per 32 elements eight words, and apart from them a scale `d` and `d` times the
// sums of both halves. A unit is 64 elements of a row: what a thread multiplies at a time.
//
// A format file gives x_blocks(u), the blocks of activations that a unit u meets; open64(m, row, u), the unit of a row taken
// apart; and dot_open(o, a, b), its product with those blocks. A unit is taken apart once for all tokens.

struct X32 {
    lo: vec4<u32>,
    hi: vec4<u32>,
    // d, d * sum of lo, d * sum of hi.
    s: vec4<f32>,
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

const LOW: u32 = 0x0f0f0f0f;

fn low(v: vec4<u32>) -> vec4<u32> {
    return v & vec4(LOW);
}

fn high(v: vec4<u32>) -> vec4<u32> {
    return (v >> vec4(4u)) & vec4(LOW);
}

// A unit of weights: bytes that meet the halves of the first block of activations and those of the second, and their scales.
struct Open {
    a0: vec4<u32>,
    a1: vec4<u32>,
    b0: vec4<u32>,
    b1: vec4<u32>,
    s: vec4<f32>,
}

// The product of weights `s.x * byte - s.y` of the first block, `s.z * byte - s.w` of the second.
fn dot_affine(o: Open, xa: X32, xb: X32) -> f32 {
    let a = f32(dot16(o.a0, xa.lo) + dot16(o.a1, xa.hi));
    let b = f32(dot16(o.b0, xb.lo) + dot16(o.b1, xb.hi));
    return o.s.x * xa.s.x * a + o.s.z * xb.s.x * b - (o.s.y * (xa.s.y + xa.s.z) + o.s.w * (xb.s.y + xb.s.z));
}
