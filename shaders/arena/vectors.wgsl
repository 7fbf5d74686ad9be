// Results of a run, inputs and scratch, for kernels that load four words at a time.
@group(0) @binding(0) var<storage, read_write> arena: array<vec4<u32>>;

fn arena_word(i: u32) -> u32 {
    return arena[i >> 2u][i & 3u];
}

fn set_word(i: u32, x: u32) {
    arena[i >> 2u][i & 3u] = x;
}

fn set_vector(i: u32, x: vec4<f32>) {
    arena[i >> 2u] = bitcast<vec4<u32>>(x);
}

fn set_number(i: u32, x: f32) {
    arena[i >> 2u][i & 3u] = bitcast<u32>(x);
}
