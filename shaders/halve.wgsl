// Activations to f16, for `matmul_coop`: a workgroup has a row. It normalizes it first if asked, or multiplies it by an
// activation of another.

struct Params {
    // Elements of a row, a multiple of 8; offset of the rows, of the result, of what gates the rows plus one (0: nothing).
    x: vec4<u32>,
    // Norm (0: none, 1 + kind), offset of its weight plus one (0: none), of its bias plus one; activation of the gate.
    norm: vec4<u32>,
    // Epsilon; the offset plus one of where what becomes halves goes too (0: nowhere); elements of a row of the result, which
    // is padded with zeros.
    more: vec4<u32>,
}

const WG: u32 = 256;
const MOST: f32 = 65504.0;

fn numbers(at: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(arena[at >> 2u]);
}

fn prepared(i: u32, row: u32, mean: f32, scale: f32) -> vec4<f32> {
    var x = numbers(p.x.y + row * p.x.x + i);
    if p.x.w != 0u {
        let gate = numbers(p.x.w - 1u + row * p.x.x + i);
        for (var j = 0u; j < 4u; j += 1u) {
            x[j] *= activate(p.norm.w, gate[j]);
        }
    }
    if p.norm.x == 0u {
        return x;
    }
    x = (x - mean) * scale;
    for (var j = 0u; j < 4u; j += 1u) {
        if p.norm.y != 0u {
            x[j] *= number_at(WEIGHTS, p.norm.y - 1u + i + j);
        }
        if p.norm.z != 0u {
            x[j] += number_at(CONSTANTS, p.norm.z - 1u + i + j);
        }
    }
    return x;
}

fn halves(x: vec4<f32>) -> vec2<u32> {
    let v = clamp(x, vec4(-MOST), vec4(MOST));
    return vec2(pack2x16float(v.xy), pack2x16float(v.zw));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = p.x.x;
    let row = group.x;
    var mean = 0.0;
    var scale = 1.0;
    if p.norm.x != 0u {
        if p.norm.x == 2u {
            var sum = 0.0;
            for (var i = 4u * lid; i < n; i += 4u * WG) {
                sum += dot(numbers(p.x.y + row * n + i), vec4(1.0));
            }
            mean = reduce_sum(sum, lid) / f32(n);
        }
        var squares = 0.0;
        for (var i = 4u * lid; i < n; i += 4u * WG) {
            let x = numbers(p.x.y + row * n + i) - mean;
            squares += dot(x, x);
        }
        squares = reduce_sum(squares, lid);
        scale = inverseSqrt(squares / f32(n) + bitcast<f32>(p.more.x));
        if p.norm.x == 3u {
            scale = 1.0 / max(sqrt(squares), bitcast<f32>(p.more.x));
        }
    }
    let also = p.more.y;
    let padded = p.more.z;
    for (var i = 8u * lid; i < padded; i += 8u * WG) {
        let to = (p.x.z + (row * padded + i) / 2u) / 4u;
        if i >= n {
            arena[to] = vec4(0u);
            continue;
        }
        let a = prepared(i, row, mean, scale);
        let b = prepared(i + 4u, row, mean, scale);
        arena[to] = vec4(halves(a), halves(b));
        if also != 0u {
            let at = (also - 1u + row * n + i) / 4u;
            arena[at] = bitcast<vec4<u32>>(a);
            arena[at + 1u] = bitcast<vec4<u32>>(b);
        }
    }
}
