// Activations to f16, for cooperative matrices: a workgroup has a row, or a part of one where nothing is normalized. Rows are
// normalized first if asked, or multiplied by an activation of others; they may be the parts of a product, whose sum is made
// here.

struct Params {
    // Elements of a row, a multiple of 8; offset of the rows, of the result, of what gates the rows plus one (0: nothing).
    x: vec4<u32>,
    // Norm (0: none, 1 + kind), offset of its weight plus one (0: none), of its bias plus one; activation of the gate.
    norm: vec4<u32>,
    // Epsilon; the offset plus one of where what becomes halves goes too, before it is normalized (0: nowhere); elements of a
    // row of the result, which is padded with zeros; tiles of 16 x 16 of a row, if the result is made of them (0: of rows).
    more: vec4<u32>,
    // Parts (0: rows lie there as they are), words from one part to the next, from one row to the next; offset of what is
    // added to their sum plus one (0: nothing).
    parts: vec4<u32>,
}

const WG: u32 = 512;
const MOST: f32 = 65504.0;

fn numbers(at: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(arena[at >> 2u]);
}

struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

fn numbers8(at: u32) -> Eight {
    return Eight(numbers(at), numbers(at + 4u));
}

// A part, or nothing beyond the last; loads of several parts do not wait for each other.
fn part8(at: u32, part: u32) -> Eight {
    let x = numbers8(at + min(part, p.parts.x - 1u) * p.parts.y);
    let by = select(0.0, 1.0, part < p.parts.x);
    return Eight(x.a * by, x.b * by);
}

// Eight elements from the offset of the rows or of the gate.
fn source8(from_: u32, row: u32, i: u32) -> Eight {
    if p.parts.x == 0u {
        return numbers8(from_ + row * p.x.x + i);
    }
    let at = from_ + row * p.parts.z + i;
    var x = Eight(vec4(0.0), vec4(0.0));
    for (var part = 0u; part < p.parts.x; part += 4u) {
        let x0 = part8(at, part);
        let x1 = part8(at, part + 1u);
        let x2 = part8(at, part + 2u);
        let x3 = part8(at, part + 3u);
        x = Eight(x.a + x0.a + x1.a + x2.a + x3.a, x.b + x0.b + x1.b + x2.b + x3.b);
    }
    return x;
}

fn gated8(row: u32, i: u32) -> Eight {
    var x = source8(p.x.y, row, i);
    if p.x.w != 0u {
        let gate = source8(p.x.w - 1u, row, i);
        for (var j = 0u; j < 4u; j += 1u) {
            x.a[j] *= activate(p.norm.w, gate.a[j]);
            x.b[j] *= activate(p.norm.w, gate.b[j]);
        }
    }
    if p.parts.w != 0u {
        let more = numbers8(p.parts.w - 1u + row * p.x.x + i);
        x = Eight(x.a + more.a, x.b + more.b);
    }
    return x;
}

// As it was stored, where there is a place for it.
fn again8(row: u32, i: u32) -> Eight {
    if p.more.y != 0u {
        return numbers8(p.more.y - 1u + row * p.x.x + i);
    }
    return gated8(row, i);
}

fn normalized(x: vec4<f32>, i: u32, mean: f32, scale: f32) -> vec4<f32> {
    var y = (x - mean) * scale;
    for (var j = 0u; j < 4u; j += 1u) {
        if p.norm.y != 0u {
            y[j] *= number_at(WEIGHTS, p.norm.y - 1u + i + j);
        }
        if p.norm.z != 0u {
            y[j] += number_at(CONSTANTS, p.norm.z - 1u + i + j);
        }
    }
    return y;
}

fn store8(at: u32, x: Eight) {
    arena[at / 4u] = bitcast<vec4<u32>>(x.a);
    arena[at / 4u + 1u] = bitcast<vec4<u32>>(x.b);
}

fn halves(x: vec4<f32>) -> vec2<u32> {
    let v = clamp(x, vec4(-MOST), vec4(MOST));
    return vec2(pack2x16float(v.xy), pack2x16float(v.zw));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let n = p.x.x;
    let row = group.x;
    // A thread has the same elements throughout: it reads again what it wrote.
    let first = 8u * (group.y * WG + lid);
    let step = 8u * WG * groups.y;
    let also = p.more.y;
    if also != 0u && p.norm.x != 0u {
        for (var i = first; i < n; i += step) {
            store8(also - 1u + row * n + i, gated8(row, i));
        }
    }
    var mean = 0.0;
    var scale = 1.0;
    if p.norm.x != 0u {
        if p.norm.x == 2u {
            var sum = 0.0;
            for (var i = first; i < n; i += step) {
                let x = again8(row, i);
                sum += dot(x.a + x.b, vec4(1.0));
            }
            mean = reduce_sum(sum, lid) / f32(n);
        }
        var squares = 0.0;
        for (var i = first; i < n; i += step) {
            let x = again8(row, i);
            squares += dot(x.a - mean, x.a - mean) + dot(x.b - mean, x.b - mean);
        }
        squares = reduce_sum(squares, lid);
        scale = inverseSqrt(squares / f32(n) + bitcast<f32>(p.more.x));
        if p.norm.x == 3u {
            scale = 1.0 / max(sqrt(squares), bitcast<f32>(p.more.x));
        }
    }
    let padded = p.more.z;
    for (var i = first; i < padded; i += step) {
        var to = (p.x.z + (row * padded + i) / 2u) / 4u;
        if p.more.w != 0u {
            to = p.x.z / 4u + (row / 16u * p.more.w + i / 16u) * 32u + row % 16u * 2u + i % 16u / 8u;
        }
        if i >= n {
            arena[to] = vec4(0u);
            continue;
        }
        if p.norm.x != 0u {
            let x = again8(row, i);
            let a = normalized(x.a, i, mean, scale);
            let b = normalized(x.b, i + 4u, mean, scale);
            arena[to] = vec4(halves(a), halves(b));
            continue;
        }
        let x = gated8(row, i);
        if also != 0u {
            store8(also - 1u + row * n + i, x);
        }
        arena[to] = vec4(halves(x.a), halves(x.b));
    }
}
