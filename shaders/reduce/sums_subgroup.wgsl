// Sums of NSUM values over a workgroup of WG threads: within subgroups of at least SUBGROUP threads, then through memory.

const SLOTS: u32 = WG / SUBGROUP;

var<workgroup> parts: array<f32, NSUM * SLOTS>;
var<workgroup> totals: array<f32, NSUM>;

fn reduce_sums(values: array<f32, NSUM>, lid: u32) {
    var mine = values;
    for (var i = lid; i < NSUM * SLOTS; i += WG) {
        parts[i] = 0.0;
    }
    workgroupBarrier();
    let first = subgroupMin(lid) == lid;
    for (var i = 0u; i < NSUM; i += 1u) {
        let sum = subgroupAdd(mine[i]);
        if first {
            parts[i * SLOTS + lid / SUBGROUP] = sum;
        }
    }
    workgroupBarrier();
    for (var i = lid; i < NSUM; i += WG) {
        var sum = 0.0;
        for (var j = 0u; j < SLOTS; j += 1u) {
            sum += parts[i * SLOTS + j];
        }
        totals[i] = sum;
    }
    workgroupBarrier();
}
