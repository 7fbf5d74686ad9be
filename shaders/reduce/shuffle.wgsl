// Sums over SHUFFLE neighbours within a subgroup of at least SUBGROUP threads; every one of them gets the sum.
const SHUFFLE: u32 = min(LANES, SUBGROUP);

fn shuffle_sum(x: f32) -> f32 {
    var sum = x;
    for (var n = SHUFFLE / 2u; n > 0u; n /= 2u) {
        sum += subgroupShuffleXor(sum, n);
    }
    return sum;
}
