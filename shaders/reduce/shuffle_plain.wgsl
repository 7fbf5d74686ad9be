// Without subgroups every thread is alone.
const SHUFFLE: u32 = 1;

fn shuffle_sum(x: f32) -> f32 {
    return x;
}
