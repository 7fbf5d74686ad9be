// Keys and values of `attention_coop` in states of f16: eight elements from `at` on, a multiple of eight.

@group(0) @binding(3) var<storage, read_write> state: array<Half8>;
@group(0) @binding(4) var<storage, read_write> state_v: array<Half8>;

fn key8(at: u32, scales: u32) -> Half8 {
    return state[at / 8u];
}

fn value8(at: u32, scales: u32) -> Half8 {
    return state_v[at / 8u];
}
