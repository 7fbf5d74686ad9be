// Activations to bytes, for `matvec_fast`: a workgroup has 4 * WG elements of a row, and normalizes them first if asked.

struct Params {
    // Elements of a row, offset of the rows, of the bytes, of the scales.
    x: vec4<u32>,
    // Norm (0: none, 1 + kind), offset of its weight plus one (0: none), of its bias plus one.
    norm: vec4<u32>,
    eps: vec4<f32>,
}

const WG: u32 = 256;

var<workgroup> most: array<f32, WG>;
var<workgroup> sums: array<i32, WG>;

fn normalized(row: u32, i: u32, mean: f32, scale: f32) -> f32 {
    if i >= p.x.x {
        return 0.0;
    }
    var x = (bitcast<f32>(arena_word(row + i)) - mean) * scale;
    if p.norm.y != 0u {
        x *= number_at(WEIGHTS, p.norm.y - 1u + i);
    }
    if p.norm.z != 0u {
        x += number_at(CONSTANTS, p.norm.z - 1u + i);
    }
    return x;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = p.x.x;
    let row = p.x.y + group.y * n;
    var mean = 0.0;
    var scale = 1.0;
    if p.norm.x != 0u {
        if p.norm.x == 2u {
            var sum = 0.0;
            for (var i = lid; i < n; i += WG) {
                sum += bitcast<f32>(arena_word(row + i));
            }
            mean = reduce_sum(sum, lid) / f32(n);
        }
        var squares = 0.0;
        for (var i = lid; i < n; i += WG) {
            let x = bitcast<f32>(arena_word(row + i)) - mean;
            squares += x * x;
        }
        squares = reduce_sum(squares, lid);
        scale = inverseSqrt(squares / f32(n) + p.eps.x);
        if p.norm.x == 3u {
            scale = 1.0 / max(sqrt(squares), p.eps.x);
        }
    }
    let i = (group.x * WG + lid) * 4u;
    let x = vec4(normalized(row, i, mean, scale), normalized(row, i + 1u, mean, scale),
        normalized(row, i + 2u, mean, scale), normalized(row, i + 3u, mean, scale));
    let a = abs(x);
    most[lid] = max(max(a.x, a.y), max(a.z, a.w));
    workgroupBarrier();
    let block = lid & ~7u;
    var top = 0.0;
    for (var j = 0u; j < 8u; j += 1u) {
        top = max(top, most[block + j]);
    }
    let d = top / 127.0;
    let q = vec4<i32>(round(x * select(0.0, 1.0 / d, d > 0.0)));
    sums[lid] = q.x + q.y + q.z + q.w;
    workgroupBarrier();
    if i >= n {
        return;
    }
    let b = vec4<u32>(q) & vec4(255u);
    arena[p.x.z + (group.y * n + i) / 4u] = b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
    if (lid & 7u) == 0u {
        let at = p.x.w + (group.y * n + i) / 8u;
        set_number(at, d);
        set_number(at + 1u, d * f32(sums[lid] + sums[lid + 1u] + sums[lid + 2u] + sums[lid + 3u]));
        set_number(at + 2u, d * f32(sums[lid + 4u] + sums[lid + 5u] + sums[lid + 6u] + sums[lid + 7u]));
    }
}
