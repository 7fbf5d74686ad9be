// Units of any type, by `load4`.

struct Taken {
    a: vec4<f16>,
    b: vec4<f16>,
    c: vec4<f16>,
    d: vec4<f16>,
    e: vec4<f16>,
    f: vec4<f16>,
    g: vec4<f16>,
    h: vec4<f16>,
}

fn take(m: Matrix, row: u32, u: u32, half: u32) -> Taken {
    let k = 64u * u + 16u * half;
    return Taken(vec4<f16>(load4(m, row, k)), vec4<f16>(load4(m, row, k + 4u)), vec4<f16>(load4(m, row, k + 8u)),
        vec4<f16>(load4(m, row, k + 12u)), vec4<f16>(load4(m, row, k + 32u)), vec4<f16>(load4(m, row, k + 36u)),
        vec4<f16>(load4(m, row, k + 40u)), vec4<f16>(load4(m, row, k + 44u)));
}

fn factors(m: Matrix, row: u32, u: u32, half: u32, t: Taken) -> vec4<f32> {
    return vec4(0.0);
}

fn first4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    switch j {
        case 0u: { return vec4<f32>(t.a); }
        case 1u: { return vec4<f32>(t.b); }
        case 2u: { return vec4<f32>(t.c); }
        default: { return vec4<f32>(t.d); }
    }
}

fn second4(t: Taken, f: vec4<f32>, j: u32, u: u32) -> vec4<f32> {
    switch j {
        case 0u: { return vec4<f32>(t.e); }
        case 1u: { return vec4<f32>(t.f); }
        case 2u: { return vec4<f32>(t.g); }
        default: { return vec4<f32>(t.h); }
    }
}

fn x_tile(u: u32, i: u32) -> u32 {
    return 4u * u + i;
}
