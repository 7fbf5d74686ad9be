// One thread per element of the result, which is contiguous; operands are strided. OP says what is computed.

struct Tensor {
    ne: vec4<u32>,
    nb: vec4<u32>,
    // Offset, space.
    at: vec4<u32>,
}

struct Params {
    a: Tensor,
    b: Tensor,
    c: Tensor,
    ne: vec4<u32>,
    // Offset of the result, number of elements, activation, dimension.
    out: vec4<u32>,
    x: vec4<f32>,
}

const WG: u32 = 256;

const ADD: u32 = 0;
const SUB: u32 = 1;
const MUL: u32 = 2;
const DIV: u32 = 3;
const ADD_ID: u32 = 4;
const SCALE: u32 = 5;
const CLAMP: u32 = 6;
const UNARY: u32 = 7;
const GLU: u32 = 8;
const COPY: u32 = 9;
const CONCAT: u32 = 10;
const GET_ROWS: u32 = 11;
const MATMUL: u32 = 12;

fn bits(t: Tensor, i: vec4<u32>) -> u32 {
    let n = i * t.nb;
    return bits_at(t.at.y, t.at.x + n.x + n.y + n.z + n.w);
}

fn number(t: Tensor, i: vec4<u32>) -> f32 {
    return bitcast<f32>(bits(t, i));
}

// Element `i` of a result from the bits it has.
fn element(i: vec4<u32>) -> u32 {
    switch OP {
        case COPY: { return bits(p.a, i % p.a.ne); }
        case CONCAT: {
            let d = p.out.w;
            if i[d] < p.a.ne[d] {
                return bits(p.a, i);
            }
            var j = i;
            j[d] -= p.a.ne[d];
            return bits(p.b, j);
        }
        case GET_ROWS: {
            let row = bits(p.b, vec4(i.y, i.z, i.w, 0u));
            if row >= p.a.ne.y {
                return 0u;
            }
            return bits(p.a, vec4(i.x, row, select(i.z, 0u, p.a.ne.z == 1u), 0u));
        }
        default: { return bitcast<u32>(compute(i)); }
    }
}

fn compute(i: vec4<u32>) -> f32 {
    switch OP {
        case ADD: { return number(p.a, i) + number(p.b, i % p.b.ne); }
        case SUB: { return number(p.a, i) - number(p.b, i % p.b.ne); }
        case MUL: { return number(p.a, i) * number(p.b, i % p.b.ne); }
        case DIV: { return number(p.a, i) / number(p.b, i % p.b.ne); }
        case ADD_ID: {
            let row = min(bits(p.c, vec4(i.y, i.z, 0u, 0u)), p.b.ne.y - 1u);
            return number(p.a, i) + number(p.b, vec4(i.x, row, 0u, 0u));
        }
        case SCALE: { return number(p.a, i) * p.x.x + p.x.y; }
        case CLAMP: { return min(max(number(p.a, i), p.x.x), p.x.y); }
        case UNARY: { return activate(p.out.z, number(p.a, i)); }
        case GLU: { return activate(p.out.z, number(p.a, i)) * number(p.b, i); }
        case MATMUL: {
            let batch = vec2(i.z / (p.b.ne.z / p.a.ne.z), i.w / (p.b.ne.w / p.a.ne.w));
            var sum = 0.0;
            for (var k = 0u; k < p.a.ne.x; k += 1u) {
                sum += number(p.a, vec4(k, i.x, batch)) * number(p.b, vec4(k, i.y, i.z, i.w));
            }
            return sum;
        }
        default: { return 0.0; }
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let n = (group.y * groups.x + group.x) * WG + lid;
    if n >= p.out.y {
        return;
    }
    let i = vec4(n, n / p.ne.x, n / (p.ne.x * p.ne.y), n / (p.ne.x * p.ne.y * p.ne.z)) % p.ne;
    arena[p.out.x + n] = element(i);
}
