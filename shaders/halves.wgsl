// Numbers as halves, four and eight at a time.

// The largest number of a half.
const MOST: f32 = 65504.0;

fn half4(x: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(clamp(x, vec4(-MOST), vec4(MOST)));
}

struct Half8 {
    a: vec4<f16>,
    b: vec4<f16>,
}
