// Sums of NSUM values over a workgroup of WG threads, through its memory.

var<workgroup> parts: array<f32, NSUM * WG>;
var<workgroup> totals: array<f32, NSUM>;

fn reduce_sums(values: array<f32, NSUM>, lid: u32) {
    var mine = values;
    for (var i = 0u; i < NSUM; i += 1u) {
        parts[i * WG + lid] = mine[i];
    }
    workgroupBarrier();
    for (var n = WG / 2u; n > 0u; n /= 2u) {
        if lid < n {
            for (var i = 0u; i < NSUM; i += 1u) {
                parts[i * WG + lid] += parts[i * WG + lid + n];
            }
        }
        workgroupBarrier();
    }
    for (var i = lid; i < NSUM; i += WG) {
        totals[i] = parts[i * WG];
    }
    workgroupBarrier();
}
