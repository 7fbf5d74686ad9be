// Sums and maxima over a workgroup of WG threads (a power of two) through its memory.

var<workgroup> parts: array<f32, WG>;

fn reduce_sum(x: f32, lid: u32) -> f32 {
    parts[lid] = x;
    workgroupBarrier();
    for (var n = WG / 2u; n > 0u; n /= 2u) {
        if lid < n {
            parts[lid] += parts[lid + n];
        }
        workgroupBarrier();
    }
    let sum = workgroupUniformLoad(&parts[0]);
    workgroupBarrier();
    return sum;
}

fn reduce_max(x: f32, lid: u32) -> f32 {
    parts[lid] = x;
    workgroupBarrier();
    for (var n = WG / 2u; n > 0u; n /= 2u) {
        if lid < n {
            parts[lid] = max(parts[lid], parts[lid + n]);
        }
        workgroupBarrier();
    }
    let most = workgroupUniformLoad(&parts[0]);
    workgroupBarrier();
    return most;
}
