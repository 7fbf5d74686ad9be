// Joins the parts of an attention: a workgroup has a head of a token.

struct Params {
    // Elements of a value, query heads, parts, offset of the sinks plus one (0: none).
    ne: vec4<u32>,
    // Offset of the parts' results, of the result.
    at: vec4<u32>,
}

const WG: u32 = 64;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = p.ne.x;
    let at = group.y * p.ne.y + group.x;
    let from_ = p.at.x + at * p.ne.z * (n + 2u);
    var most = -1.0e30;
    for (var i = 0u; i < p.ne.z; i += 1u) {
        most = max(most, number_at(ARENA, from_ + i * (n + 2u)));
    }
    var sum = 0.0;
    if p.ne.w != 0u {
        let sink = number_at(WEIGHTS, p.ne.w - 1u + group.x);
        most = max(most, sink);
        sum = exp(sink - most);
    }
    for (var i = 0u; i < p.ne.z; i += 1u) {
        let part = from_ + i * (n + 2u);
        sum += exp(number_at(ARENA, part) - most) * number_at(ARENA, part + 1u);
    }
    let inverse = select(0.0, 1.0 / sum, sum > 0.0);
    for (var d = lid; d < n; d += WG) {
        var x = 0.0;
        for (var i = 0u; i < p.ne.z; i += 1u) {
            let part = from_ + i * (n + 2u);
            x += exp(number_at(ARENA, part) - most) * number_at(ARENA, part + 2u + d);
        }
        set_number(p.at.y + at * n + d, x * inverse);
    }
}
