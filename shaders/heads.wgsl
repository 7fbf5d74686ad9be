// One workgroup per head of a token: norm, rotation, scale, Hadamard transform; then to the arena, or into a state as TO says.
// Queries, keys and values of a layer go together: up to three jobs, of which the last writes to `state_v`.

struct Job {
    // Strides of the source: element, head, token; its offset.
    src: vec4<u32>,
    // Elements of a head, heads, rotated dimensions, norm (0: none, 1 + kind).
    ne: vec4<u32>,
    // Offset of the norm's weight plus one (0: none); Hadamard size (0: none); pairing of a rotation (0: none,
    // 1: neighbours, 2: halves); epsilon.
    how: vec4<u32>,
    // Offset of the result; elements of a state's row; words before a state's scales; rows of the state.
    to: vec4<u32>,
    // Offset of the positions, of the state's rows, of the rotation table; scale.
    at: vec4<u32>,
}

struct Params {
    jobs: array<Job, 3>,
}

const WG: u32 = 64;

// Where heads go.
const TO_ARENA: u32 = 0;
const TO_F32: u32 = 1;
const TO_F16: u32 = 2;
const TO_Q8_0: u32 = 3;
const TO_Q4_0: u32 = 4;

var<workgroup> head: array<f32, 1024>;

var<private> job: Job;
// Whether results go to `state_v`.
var<private> second: bool;

fn set_state(i: u32, x: u32) {
    if second {
        state_v[i] = x;
    } else {
        state[i] = x;
    }
}

fn normalize(lid: u32) {
    let n = job.ne.x;
    let kind = job.ne.w - 1u;
    let eps = bitcast<f32>(job.how.w);
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
    var scale = inverseSqrt(squares / f32(n) + eps);
    if kind == 2u {
        scale = 1.0 / max(sqrt(squares), eps);
    }
    for (var i = lid; i < n; i += WG) {
        var x = (head[i] - mean) * scale;
        if job.how.x != 0u {
            x *= number_at(WEIGHTS, job.how.x - 1u + i);
        }
        head[i] = x;
    }
    workgroupBarrier();
}

fn rotate(token: u32, lid: u32) {
    let pos = i32(arena[job.at.x + token]);
    let pairs = job.ne.z / 2u;
    for (var pair = lid; pair < pairs; pair += WG) {
        let z = rotation(job.at.z, pairs, pair, pos);
        let a = select(pair, 2u * pair, job.how.z == 1u);
        let b = select(pair + pairs, 2u * pair + 1u, job.how.z == 1u);
        let x = head[a];
        let y = head[b];
        head[a] = x * z.x - y * z.y;
        head[b] = x * z.y + y * z.x;
    }
    workgroupBarrier();
}

fn hadamard(lid: u32) {
    for (var step = 1u; step < job.how.y; step *= 2u) {
        for (var i = lid; i < job.ne.x / 2u; i += WG) {
            let a = i / step * 2u * step + i % step;
            let x = head[a];
            let y = head[a + step];
            head[a] = x + y;
            head[a + step] = x - y;
        }
        workgroupBarrier();
    }
}

// Writes word `w` of the head, whose first element in the state is `at`: four elements of a block of 32.
fn store_q8_0(at: u32, w: u32) {
    let b = w / 8u;
    var most = 0.0;
    for (var i = 0u; i < 32u; i += 1u) {
        most = max(most, abs(head[32u * b + i]));
    }
    let d = most / 127.0;
    let inverse = select(0.0, 1.0 / d, d != 0.0);
    var word = 0u;
    for (var i = 0u; i < 4u; i += 1u) {
        word |= (u32(nearest(head[4u * w + i] * inverse)) & 255u) << (8u * i);
    }
    set_state(at / 4u + w, word);
    if w % 8u == 0u {
        set_state(job.to.z + at / 32u + b, bitcast<u32>(half_precision(d)));
    }
}

// Word `w` of four of a block, which has eight elements.
fn store_q4_0(at: u32, w: u32) {
    let b = w / 4u;
    var most = 0.0;
    for (var i = 0u; i < 32u; i += 1u) {
        let x = head[32u * b + i];
        most = select(most, x, abs(x) > abs(most));
    }
    let d = most / -8.0;
    let inverse = select(0.0, 1.0 / d, d != 0.0);
    var word = 0u;
    for (var i = 0u; i < 4u; i += 1u) {
        let low = min(15, i32(head[32u * b + 4u * (w % 4u) + i] * inverse + 8.5));
        let high = min(15, i32(head[32u * b + 16u + 4u * (w % 4u) + i] * inverse + 8.5));
        word |= u32(low | (high << 4u)) << (8u * i);
    }
    set_state(at / 8u + w, word);
    if w % 4u == 0u {
        set_state(job.to.z + at / 32u + b, bitcast<u32>(half_precision(d)));
    }
}

fn store(to: u32, at: u32, lid: u32) {
    let n = job.ne.x;
    switch to {
        case TO_F32: {
            for (var i = lid; i < n; i += WG) {
                set_state(at + i, bitcast<u32>(head[i]));
            }
        }
        case TO_F16: {
            for (var i = lid; i < n / 2u; i += WG) {
                set_state(at / 2u + i, pack2x16float(vec2(head[2u * i], head[2u * i + 1u])));
            }
        }
        case TO_Q8_0: {
            for (var w = lid; w < n / 4u; w += WG) {
                store_q8_0(at, w);
            }
        }
        case TO_Q4_0: {
            for (var w = lid; w < n / 8u; w += WG) {
                store_q4_0(at, w);
            }
        }
        default: {}
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    var number = 0u;
    var h = group.x;
    while number < 2u && h >= p.jobs[number].ne.y {
        h -= p.jobs[number].ne.y;
        number += 1u;
    }
    job = p.jobs[number];
    second = number == 2u;
    let to = select(select(TO_VALUES, TO_KEYS, number == 1u), TO, number == 0u);
    let n = job.ne.x;
    let base = job.src.w + h * job.src.y + group.y * job.src.z;
    let scale = bitcast<f32>(job.at.w);
    for (var i = lid; i < n; i += WG) {
        head[i] = number_at(ARENA, base + i * job.src.x);
    }
    workgroupBarrier();
    if job.ne.w != 0u {
        normalize(lid);
    }
    if job.how.z != 0u {
        rotate(group.y, lid);
    }
    if job.how.y != 0u {
        hadamard(lid);
    }
    if scale != 1.0 {
        for (var i = lid; i < n; i += WG) {
            head[i] *= scale;
        }
        workgroupBarrier();
    }
    if to == TO_ARENA {
        let first = job.to.x + (group.y * job.ne.y + h) * n;
        for (var i = lid; i < n; i += WG) {
            set_number(first + i, head[i]);
        }
        return;
    }
    let row = arena[job.at.y + group.y];
    if row < job.to.w {
        store(to, row * job.to.y + job.to.x + h * n, lid);
    }
}
