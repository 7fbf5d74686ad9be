// Eight neighbouring elements of a head.
struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

// The same as they lie in a cache, with what they are multiplied by: for those who load them long before they use them.
struct Raw8 {
    a: vec4<u32>,
    b: vec4<u32>,
}
