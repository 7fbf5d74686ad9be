// Joins the parts of an attention: a workgroup has a head of a token, of D elements. SIDES threads share an element's parts.

struct Params {
    // Query heads, parts, offset of the sinks plus one (0: none).
    ne: vec4<u32>,
    // Offset of the parts' results, of the result; results as bytes: offset plus one (0: not), offset of their scales.
    at: vec4<u32>,
    // Result as halves in tiles of 16 x 16: offset plus one (0: not), tiles of a token.
    halves: vec4<u32>,
}

const MOST: f32 = 65504.0;
const WG: u32 = 256;
const SIDES: u32 = max(WG / D, 1);
const MAX_PARTS: u32 = 64;
const RESULTS: u32 = D;
const NONE: f32 = -1.0e30;

// Maximum and sum of each part; then what it is multiplied by.
var<workgroup> stats: array<vec2<f32>, MAX_PARTS>;
var<workgroup> factors: array<f32, MAX_PARTS>;
var<workgroup> sums: array<f32, WG>;

fn part_at(from_: u32, part: u32) -> f32 {
    let i = min(part, p.ne.y - 1u);
    return select(0.0, factors[i], part < p.ne.y) * number_at(ARENA, from_ + i * (D + 2u));
}

// The sum over the parts of a side; four loads do not wait for each other.
fn side_sum(from_: u32, side: u32) -> f32 {
    var x = 0.0;
    for (var part = side; part < p.ne.y; part += 4u * SIDES) {
        x += part_at(from_, part) + part_at(from_, part + SIDES) + part_at(from_, part + 2u * SIDES)
            + part_at(from_, part + 3u * SIDES);
    }
    return x;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = group.y * p.ne.x + group.x;
    let from_ = p.at.x + at * p.ne.y * (D + 2u);
    if lid < p.ne.y {
        let part = from_ + lid * (D + 2u);
        stats[lid] = vec2(number_at(ARENA, part), number_at(ARENA, part + 1u));
    }
    workgroupBarrier();
    var most = NONE;
    for (var i = 0u; i < p.ne.y; i += 1u) {
        most = max(most, stats[i].x);
    }
    var sum = 0.0;
    if p.ne.z != 0u {
        let sink = number_at(WEIGHTS, p.ne.z - 1u + group.x);
        most = max(most, sink);
        sum = exp(sink - most);
    }
    if lid < p.ne.y {
        factors[lid] = exp(stats[lid].x - most);
    }
    workgroupBarrier();
    for (var i = 0u; i < p.ne.y; i += 1u) {
        sum += factors[i] * stats[i].y;
    }
    let inverse = select(0.0, 1.0 / sum, sum > 0.0);
    let to = p.at.y + at * D;
    if D > WG {
        for (var d = lid; d < D; d += WG) {
            set_number(to + d, side_sum(from_ + 2u + d, 0u) * inverse);
        }
        return;
    }
    if lid < SIDES * D {
        sums[lid] = side_sum(from_ + 2u + lid % D, lid / D);
    }
    workgroupBarrier();
    if lid < D {
        var x = 0.0;
        for (var i = 0u; i < SIDES; i += 1u) {
            x += sums[lid + i * D];
        }
        set_number(to + lid, x * inverse);
        keep(lid, x * inverse, 1.0);
    }
    if p.at.z != 0u {
        workgroupBarrier();
        for (var i = lid; i < D / 4u; i += WG) {
            emit_word(i, at * D + 4u * i, p.at.z - 1u, p.at.w, 0u);
        }
    }
    if p.halves.x != 0u {
        workgroupBarrier();
        for (var i = lid; i < D / 4u; i += WG) {
            let e = group.x * D + 4u * i;
            let word = (group.y / 16u * p.halves.y + e / 16u) * 128u + group.y % 16u * 8u + e % 16u / 2u;
            let x = clamp(kept[i], vec4(-MOST), vec4(MOST));
            set_word(p.halves.x - 1u + word, pack2x16float(x.xy));
            set_word(p.halves.x + word, pack2x16float(x.zw));
        }
    }
}
