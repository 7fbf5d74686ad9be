// Results of a run, inputs and scratch, word by word.
@group(0) @binding(0) var<storage, read_write> arena: array<u32>;

fn arena_word(i: u32) -> u32 {
    return arena[i];
}

fn set_number(i: u32, x: f32) {
    arena[i] = bitcast<u32>(x);
}
