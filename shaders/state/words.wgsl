// Persistent state that is written, or the keys.
@group(0) @binding(3) var<storage, read_write> state: array<u32>;
// The values.
@group(0) @binding(4) var<storage, read_write> state_v: array<u32>;
