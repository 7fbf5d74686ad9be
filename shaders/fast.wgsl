// Activations of single tokens as bytes: per 32 elements eight words, and apart from them a scale `d` and `d` times the
// sums of both halves. A unit is 64 elements of a row: what a thread multiplies at a time.

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
