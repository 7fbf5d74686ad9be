// One workgroup per head of a token: norm, rotation, scale, Hadamard transform; then to the arena, or into a state as TO says.

struct Params {
    // Elements of a head, heads, tokens, rotated dimensions.
    ne: vec4<u32>,
    // Strides of the source: element, head, token; its offset.
    src: vec4<u32>,
    // Offset of the result; elements of a state's row; words before a state's scales; its space for the source.
    to: vec4<u32>,
    // Offset of the norm's weight plus one (0: none); norm (0: none, 1 + kind); Hadamard size (0: none); pairing of a
    // rotation (0: none, 1: neighbours, 2: halves).
    how: vec4<u32>,
    // Offset of the positions, of the state's rows, of the rotation table; rows of the state.
    at: vec4<u32>,
    // Epsilon, scale.
    x: vec4<f32>,
}

const WG: u32 = 64;

// Where heads go.
const TO_ARENA: u32 = 0;
const TO_F32: u32 = 1;
const TO_F16: u32 = 2;
const TO_Q8_0: u32 = 3;
const TO_Q4_0: u32 = 4;

var<workgroup> head: array<f32, 1024>;

// Cosine and sine by which a pair rotates: the product of the rotations of the position's four bytes.
fn rotation(pair: u32, pos: i32) -> vec2<f32> {
    let pairs = p.ne.w / 2u;
    let distance = u32(abs(pos));
    var z = vec2(1.0, 0.0);
    for (var level = 0u; level < 4u; level += 1u) {
        let byte = (distance >> (8u * level)) & 255u;
        if byte == 0u && level > 0u {
            continue;
        }
        let at = p.at.z + 2u * ((level * 256u + byte) * pairs + pair);
        let r = vec2(bitcast<f32>(constants[at]), bitcast<f32>(constants[at + 1u]));
        z = vec2(z.x * r.x - z.y * r.y, z.x * r.y + z.y * r.x);
    }
    return vec2(z.x, select(z.y, -z.y, pos < 0));
}

fn normalize(lid: u32) {
    let n = p.ne.x;
    let kind = p.how.y - 1u;
    var mean = 0.0;
    if kind == 1u {
        var sum = 0.0;
        for (var i = lid; i < n; i += WG) {
            sum += head[i];
        }
        mean = reduce_sum(sum, lid) / f32(n);
    }
    var squares = 0.0;
    for (var i = lid; i < n; i += WG) {
        let x = head[i] - mean;
        squares += x * x;
    }
    squares = reduce_sum(squares, lid);
    var scale = inverseSqrt(squares / f32(n) + p.x.x);
    if kind == 2u {
        scale = 1.0 / max(sqrt(squares), p.x.x);
    }
    for (var i = lid; i < n; i += WG) {
        var x = (head[i] - mean) * scale;
        if p.how.x != 0u {
            x *= number_at(WEIGHTS, p.how.x - 1u + i);
        }
        head[i] = x;
    }
    workgroupBarrier();
}

fn rotate(token: u32, lid: u32) {
    let pos = i32(arena[p.at.x + token]);
    let pairs = p.ne.w / 2u;
    for (var pair = lid; pair < pairs; pair += WG) {
        let z = rotation(pair, pos);
        let a = select(pair, 2u * pair, p.how.w == 1u);
        let b = select(pair + pairs, 2u * pair + 1u, p.how.w == 1u);
        let x = head[a];
        let y = head[b];
        head[a] = x * z.x - y * z.y;
        head[b] = x * z.y + y * z.x;
    }
    workgroupBarrier();
}

fn hadamard(lid: u32) {
    for (var step = 1u; step < p.how.z; step *= 2u) {
        for (var i = lid; i < p.ne.x / 2u; i += WG) {
            let a = i / step * 2u * step + i % step;
            let x = head[a];
            let y = head[a + step];
            head[a] = x + y;
            head[a + step] = x - y;
        }
        workgroupBarrier();
    }
}

// As C's `roundf`.
fn nearest(x: f32) -> i32 {
    return i32(select(ceil(x - 0.5), floor(x + 0.5), x >= 0.0));
}

fn half_precision(x: f32) -> f32 {
    return unpack2x16float(pack2x16float(vec2(x, 0.0))).x;
}

// Writes the 32 elements of block `b` of the head, whose first element of the state is `at`.
fn store_q8_0(at: u32, b: u32) {
    var most = 0.0;
    for (var i = 0u; i < 32u; i += 1u) {
        most = max(most, abs(head[32u * b + i]));
    }
    let d = most / 127.0;
    let inverse = select(0.0, 1.0 / d, d != 0.0);
    for (var w = 0u; w < 8u; w += 1u) {
        var word = 0u;
        for (var i = 0u; i < 4u; i += 1u) {
            word |= (u32(nearest(head[32u * b + 4u * w + i] * inverse)) & 255u) << (8u * i);
        }
        state[at / 4u + w] = word;
    }
    state[p.to.z + at / 32u] = bitcast<u32>(half_precision(d));
}

fn store_q4_0(at: u32, b: u32) {
    var most = 0.0;
    for (var i = 0u; i < 32u; i += 1u) {
        let x = head[32u * b + i];
        most = select(most, x, abs(x) > abs(most));
    }
    let d = most / -8.0;
    let inverse = select(0.0, 1.0 / d, d != 0.0);
    for (var w = 0u; w < 4u; w += 1u) {
        var word = 0u;
        for (var i = 0u; i < 4u; i += 1u) {
            let low = min(15, i32(head[32u * b + 4u * w + i] * inverse + 8.5));
            let high = min(15, i32(head[32u * b + 16u + 4u * w + i] * inverse + 8.5));
            word |= u32(low | (high << 4u)) << (8u * i);
        }
        state[at / 8u + w] = word;
    }
    state[p.to.z + at / 32u] = bitcast<u32>(half_precision(d));
}

fn store(at: u32, lid: u32) {
    let n = p.ne.x;
    switch TO {
        case TO_F32: {
            for (var i = lid; i < n; i += WG) {
                state[at + i] = bitcast<u32>(head[i]);
            }
        }
        case TO_F16: {
            for (var i = lid; i < n / 2u; i += WG) {
                state[at / 2u + i] = pack2x16float(vec2(head[2u * i], head[2u * i + 1u]));
            }
        }
        case TO_Q8_0: {
            for (var b = lid; b < n / 32u; b += WG) {
                store_q8_0(at + 32u * b, b);
            }
        }
        case TO_Q4_0: {
            for (var b = lid; b < n / 32u; b += WG) {
                store_q4_0(at + 32u * b, b);
            }
        }
        default: {}
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = p.ne.x;
    let base = p.src.w + group.x * p.src.y + group.y * p.src.z;
    for (var i = lid; i < n; i += WG) {
        head[i] = number_at(p.to.w, base + i * p.src.x);
    }
    workgroupBarrier();
    if p.how.y != 0u {
        normalize(lid);
    }
    if p.how.w != 0u {
        rotate(group.y, lid);
    }
    if p.how.z != 0u {
        hadamard(lid);
    }
    for (var i = lid; i < n; i += WG) {
        head[i] *= p.x.y;
    }
    workgroupBarrier();
    if TO == TO_ARENA {
        let to = p.to.x + (group.y * p.ne.y + group.x) * n;
        for (var i = lid; i < n; i += WG) {
            set_number(to + i, head[i]);
        }
        return;
    }
    let row = arena[p.at.y + group.y];
    if row < p.at.w {
        store(row * p.to.y + p.to.x + group.x * n, lid);
    }
}
