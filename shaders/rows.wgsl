// One workgroup per row: norms (with weight, bias and a residual), softmax, sums, the largest elements.

struct Params {
    // Rows per dimension; elements of a row.
    ne: vec4<u32>,
    nb: vec4<u32>,
    // Offset of the operand, its space, offset of the result, the largest k.
    at: vec4<u32>,
    // Offset of the weight plus one (0: none), its space, the same of the bias.
    affine: vec4<u32>,
    // Offset of the residual plus one.
    more: vec4<u32>,
    // Epsilon, scale.
    x: vec4<f32>,
}

const WG: u32 = 256;

const RMS: u32 = 0;
const LAYER: u32 = 1;
const L2: u32 = 2;
const SOFT_MAX: u32 = 3;
const SUM: u32 = 4;
const TOP_K: u32 = 5;

const NONE: f32 = -3.0e38;

var<workgroup> best: array<vec2<f32>, WG>;

fn element(base: u32, i: u32) -> f32 {
    return number_at(p.at.y, base + i * p.nb.x);
}

// Whether element `a` (value, index) comes before `b` in descending order.
fn before(a: vec2<f32>, b: vec2<f32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

fn top_k(base: u32, out: u32, lid: u32) {
    var last = vec2(3.4e38, -1.0);
    for (var j = 0u; j < p.at.w; j += 1u) {
        var mine = vec2(-3.4e38, 1.0e9);
        for (var i = lid; i < p.ne.x; i += WG) {
            let x = vec2(element(base, i), f32(i));
            if before(last, x) && before(x, mine) {
                mine = x;
            }
        }
        best[lid] = mine;
        workgroupBarrier();
        for (var n = WG / 2u; n > 0u; n /= 2u) {
            if lid < n && before(best[lid + n], best[lid]) {
                best[lid] = best[lid + n];
            }
            workgroupBarrier();
        }
        last = workgroupUniformLoad(&best[0]);
        if lid == 0u {
            arena[out + j] = u32(last.y);
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.ne.y * p.ne.z * p.ne.w {
        return;
    }
    let n = p.ne.x;
    let i1 = row % p.ne.y;
    let i2 = row / p.ne.y % p.ne.z;
    let i3 = row / p.ne.y / p.ne.z;
    let base = p.at.x + i1 * p.nb.y + i2 * p.nb.z + i3 * p.nb.w;
    if OP == TOP_K {
        top_k(base, p.at.z + row * p.at.w, lid);
        return;
    }
    var sum = 0.0;
    var most = NONE;
    for (var i = lid; i < n; i += WG) {
        let x = element(base, i);
        switch OP {
            case RMS, L2: { sum += x * x; }
            case SOFT_MAX: { most = max(most, x * p.x.y); }
            default: { sum += x; }
        }
    }
    if OP == SOFT_MAX {
        most = reduce_max(most, lid);
        for (var i = lid; i < n; i += WG) {
            sum += exp(element(base, i) * p.x.y - most);
        }
    }
    sum = reduce_sum(sum, lid);
    if OP == SUM {
        if lid == 0u {
            set_number(p.at.z + row, sum);
        }
        return;
    }
    var mean = 0.0;
    if OP == LAYER {
        mean = sum / f32(n);
        var squares = 0.0;
        for (var i = lid; i < n; i += WG) {
            let x = element(base, i) - mean;
            squares += x * x;
        }
        sum = reduce_sum(squares, lid);
    }
    var scale = 1.0 / sum;
    switch OP {
        case RMS, LAYER: { scale = inverseSqrt(sum / f32(n) + p.x.x); }
        case L2: { scale = 1.0 / max(sqrt(sum), p.x.x); }
        default: {}
    }
    for (var i = lid; i < n; i += WG) {
        var x = element(base, i);
        if OP == SOFT_MAX {
            x = exp(x * p.x.y - most);
        }
        x = (x - mean) * scale;
        if p.affine.x != 0u {
            x *= number_at(p.affine.y, p.affine.x - 1u + i);
        }
        if p.affine.z != 0u {
            x += number_at(p.affine.w, p.affine.z - 1u + i);
        }
        if p.more.x != 0u {
            x += number_at(ARENA, p.more.x - 1u + row * n + i);
        }
        set_number(p.at.z + row * n + i, x);
    }
}
