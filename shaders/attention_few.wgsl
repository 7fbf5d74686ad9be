// Attention of few tokens over a cache, read once for HEADS query heads that share it. A team of D / 8 threads goes along the
// rows of the cache two at a time with a running maximum of its own: a thread has eight elements of a row, 16 bytes of f16.
// Teams of a workgroup are joined at the end, parts of the rows by the workgroup that is ready last.

struct Params {
    // Query heads, query heads per key head, tokens, parts.
    ne: vec4<u32>,
    // Queries: offset, stride of heads, of tokens; offset of the sinks plus one.
    q: vec4<u32>,
    // Keys: offset, stride of heads, of rows; words before the scales.
    k: vec4<u32>,
    v: vec4<u32>,
    // Offset of the result; of the parts' results, of their maxima and sums; number of the mask.
    out: vec4<u32>,
    // Scale, soft cap (0: off), ALiBi slope base of the first heads and of those between, see `slope`.
    x: vec4<f32>,
    // Heads whose slopes are powers of the first base; results as bytes: offset plus one (0: not), offset of their scales.
    alibi: vec4<u32>,
    // With OWN: the token's key and value, each its offset and stride of heads.
    own: vec4<u32>,
    // Rotated dimensions, pairing (0: none, 1: neighbours, 2: halves), offset of the position, of the table.
    rope: vec4<u32>,
    // Where the rows of keys and values to be written are told; rows of their states.
    rows: vec4<u32>,
    // Norms of queries and keys, see `prepared`.
    norms: vec4<u32>,
    // Epsilons of their norms; scales of keys and queries.
    own_x: vec4<f32>,
}

struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

const LANES: u32 = D / 8;
const TEAMS: u32 = WG / LANES;
// Rows of a team's step. What belongs to a row or a head has names of its own below, no place in an array: compilers keep
// arrays in memory where they do not unroll every loop around them.
const STEP: u32 = 2;
const NONE: f32 = -1.0e30;
const WORDS: u32 = HEADS * D / 4;
const RESULTS: u32 = HEADS * D;
const MAX_PARTS: u32 = 64;
const STATS: u32 = max(TEAMS, MAX_PARTS) * HEADS;

// [team][head][element]
var<workgroup> sums: array<vec4<f32>, TEAMS * WORDS>;
// Maximum and sum of weights. [team or part][head]
var<workgroup> stats: array<vec2<f32>, STATS>;
// Maximum and sum of weights of a head over all teams or parts.
var<workgroup> whole: array<vec2<f32>, HEADS>;
var<workgroup> arrived: u32;

@group(0) @binding(6) var<storage, read_write> counters: array<atomic<u32>>;

// Rows that a token sees, and the first word of their bits: none, if it sees them all.
struct Visible {
    start: u32,
    end: u32,
    bits: u32,
}

// The mask buffer: per mask eight words (offsets of its rows, words, row positions, token positions), then their data.
fn visible_rows(t: u32) -> Visible {
    let at = constants[p.out.w * 8u] + 4u * t;
    let bits = constants[at + 2u];
    let word = constants[p.out.w * 8u + 1u] + 2u * bits;
    return Visible(constants[at], constants[at + 1u], select(word, bits, bits == 0xffffffffu));
}

fn sees(v: Visible, row: u32) -> bool {
    if row < v.start || row >= v.end {
        return false;
    }
    if v.bits == 0xffffffffu {
        return true;
    }
    let i = row - (v.start & ~63u);
    return ((constants[v.bits + i / 32u] >> (i & 31u)) & 1u) == 1u;
}

fn slope(h: u32) -> f32 {
    if h < p.alibi.x {
        return pow(p.x.z, f32(h + 1u));
    }
    return pow(p.x.w, f32(2u * (h - p.alibi.x) + 1u));
}

fn bias(h: u32, t: u32, row: u32) -> f32 {
    let row_pos = i32(constants[constants[p.out.w * 8u + 2u] + row]);
    let pos = i32(constants[constants[p.out.w * 8u + 3u] + t]);
    return -f32(abs(row_pos - pos)) * slope(h);
}

// A sum over threads of a team whose numbers differ in the bits from `from_` on. Loops that halve are not unrolled by all
// compilers, and arrays in them would lie in memory: hence one by one.
fn sum_from(x: f32, from_: u32) -> f32 {
    var sum = x;
    if from_ <= 1u {
        sum += subgroupShuffleXor(sum, 1u);
    }
    if from_ <= 2u {
        sum += subgroupShuffleXor(sum, 2u);
    }
    sum += subgroupShuffleXor(sum, 4u);
    if LANES > 8u {
        sum += subgroupShuffleXor(sum, 8u);
    }
    if LANES > 16u {
        sum += subgroupShuffleXor(sum, 16u);
    }
    return sum;
}

// Sums over a team of one value per head; thread `lane` gets the sum of head `lane % HEADS`.
fn team_sum(v: vec4<f32>, lane: u32) -> f32 {
    if HEADS == 1u {
        return sum_from(v.x, 1u);
    }
    // Keep one head of two, give the other away.
    let odd = (lane & 1u) != 0u;
    let a = select(v.x, v.y, odd) + subgroupShuffleXor(select(v.y, v.x, odd), 1u);
    if HEADS == 2u {
        return sum_from(a, 2u);
    }
    let b = select(v.z, v.w, odd) + subgroupShuffleXor(select(v.w, v.z, odd), 1u);
    let late = (lane & 2u) != 0u;
    return sum_from(select(a, b, late) + subgroupShuffleXor(select(b, a, late), 2u), 4u);
}

// Eight elements of up to four heads.
struct Heads {
    a0: vec4<f32>,
    b0: vec4<f32>,
    a1: vec4<f32>,
    b1: vec4<f32>,
    a2: vec4<f32>,
    b2: vec4<f32>,
    a3: vec4<f32>,
    b3: vec4<f32>,
}

// What a thread needs to find its queries.
fn query(h: u32, n_heads: u32, head: u32, t: u32, lane: u32, place: u32) -> Eight {
    var q = source8(p.q.x + (head + min(h, n_heads - 1u)) * p.q.y + t * p.q.z + 8u * lane);
    if OWN == 1u {
        q = prepared(q, p.norms.x, p.own_x.x, p.own_x.w, lane, place);
    }
    return Eight(q.a * p.x.x, q.b * p.x.x);
}

// The score of a row for the thread's head, NONE if it is not seen.
fn score(key: Eight, q: Heads, row: u32, end: u32, visible: Visible, head: u32, t: u32, lane: u32) -> f32 {
    var dots = vec4(dot(key.a, q.a0) + dot(key.b, q.b0), 0.0, 0.0, 0.0);
    if HEADS > 1u {
        dots.y = dot(key.a, q.a1) + dot(key.b, q.b1);
    }
    if HEADS > 2u {
        dots.z = dot(key.a, q.a2) + dot(key.b, q.b2);
        dots.w = dot(key.a, q.a3) + dot(key.b, q.b3);
    }
    var s = team_sum(dots, lane);
    if p.x.y > 0.0 {
        s = p.x.y * tanh(clamp(s / p.x.y, -20.0, 20.0));
    }
    if p.x.z != 0.0 {
        s += bias(head, t, min(row, end - 1u));
    }
    return select(NONE, s, row < end && (visible.bits == 0xffffffffu || sees(visible, row)));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    let per_kv = (p.ne.y + HEADS - 1u) / HEADS;
    let kv = group.y / per_kv;
    let first_head = group.y % per_kv * HEADS;
    let n_heads = min(HEADS, p.ne.y - first_head);
    let head = kv * p.ne.y + first_head;
    let t = group.x;
    let lane = lid % LANES;
    let team = lid / LANES;

    // Position and rows are asked for before anybody waits for the mask.
    var own = Rows(0xffffffffu, 0xffffffffu);
    if OWN == 1u {
        own = own_rows();
        find_turns(lane, i32(arena_word(p.rope.z)));
    }

    // This part's share, in whole steps of all teams.
    let visible = visible_rows(t);
    let n = max(visible.end, visible.start) - visible.start;
    let share = max((n + p.ne.w - 1u) / p.ne.w, 1u) + STEP * TEAMS - 1u;
    let rows = share - share % (STEP * TEAMS);
    let used = max((n + rows - 1u) / rows, 1u);
    if group.z >= used {
        return;
    }
    let start = visible.start + group.z * rows;
    let end = min(visible.end, start + rows);

    if OWN == 1u {
        if group.z == 0u && team == 0u {
            store_unseen(own, kv, visible, lane, place);
        }
    }
    var q: Heads;
    let q0 = query(0u, n_heads, head, t, lane, place);
    q.a0 = q0.a;
    q.b0 = q0.b;
    if HEADS > 1u {
        let q1 = query(1u, n_heads, head, t, lane, place);
        q.a1 = q1.a;
        q.b1 = q1.b;
    }
    if HEADS > 2u {
        let q2 = query(2u, n_heads, head, t, lane, place);
        q.a2 = q2.a;
        q.b2 = q2.b;
        let q3 = query(3u, n_heads, head, t, lane, place);
        q.a3 = q3.a;
        q.b3 = q3.b;
    }
    let my_head = head + min(lane % HEADS, n_heads - 1u);
    // Head `h` is with the thread of that number in every run of HEADS.
    let from_ = place / LANES * LANES;
    var most = NONE;
    var weight = 0.0;
    var sum: Heads;
    let k_at = p.k.x + kv * p.k.y + 8u * lane;
    let v_at = p.v.x + kv * p.v.y + 8u * lane;
    for (var base = start + team * STEP; base < end; base += TEAMS * STEP) {
        if visible.bits != 0xffffffffu {
            var any = OWN == 1u && (own.k - base < STEP || own.v - base < STEP);
            for (var j = 0u; j < STEP; j += 1u) {
                any |= sees(visible, base + j);
            }
            if !any {
                continue;
            }
        }
        let next = min(base + 1u, end - 1u);
        var k0 = key8(k_at + base * p.k.z, p.k.w);
        var k1 = key8(k_at + next * p.k.z, p.k.w);
        var v0 = value8(v_at + base * p.v.z, p.v.w);
        var v1 = value8(v_at + next * p.v.z, p.v.w);
        // The token's own row is not in the cache yet.
        if OWN == 1u && own.k - base < STEP && own.k < end {
            let key = store_key(own.k, kv, lane, place);
            if own.k == base {
                k0 = key;
            } else {
                k1 = key;
            }
        }
        if OWN == 1u && own.v - base < STEP && own.v < end {
            let value = store_value(own.v, kv, lane);
            if own.v == base {
                v0 = value;
            } else {
                v1 = value;
            }
        }
        let s0 = score(k0, q, base, end, visible, my_head, t, lane);
        let s1 = score(k1, q, base + 1u, end, visible, my_head, t, lane);
        let top = max(most, max(s0, s1));
        let shrink = exp(most - top);
        let w0 = select(exp(s0 - top), 0.0, s0 <= NONE);
        let w1 = select(exp(s1 - top), 0.0, s1 <= NONE);
        most = top;
        weight = weight * shrink + w0 + w1;
        {
            let by = subgroupShuffle(shrink, from_);
            let x0 = subgroupShuffle(w0, from_);
            let x1 = subgroupShuffle(w1, from_);
            sum.a0 = sum.a0 * by + x0 * v0.a + x1 * v1.a;
            sum.b0 = sum.b0 * by + x0 * v0.b + x1 * v1.b;
        }
        if HEADS > 1u {
            let by = subgroupShuffle(shrink, from_ + 1u);
            let x0 = subgroupShuffle(w0, from_ + 1u);
            let x1 = subgroupShuffle(w1, from_ + 1u);
            sum.a1 = sum.a1 * by + x0 * v0.a + x1 * v1.a;
            sum.b1 = sum.b1 * by + x0 * v0.b + x1 * v1.b;
        }
        if HEADS > 2u {
            let by = subgroupShuffle(shrink, from_ + 2u);
            let x0 = subgroupShuffle(w0, from_ + 2u);
            let x1 = subgroupShuffle(w1, from_ + 2u);
            sum.a2 = sum.a2 * by + x0 * v0.a + x1 * v1.a;
            sum.b2 = sum.b2 * by + x0 * v0.b + x1 * v1.b;
            let by3 = subgroupShuffle(shrink, from_ + 3u);
            let x03 = subgroupShuffle(w0, from_ + 3u);
            let x13 = subgroupShuffle(w1, from_ + 3u);
            sum.a3 = sum.a3 * by3 + x03 * v0.a + x13 * v1.a;
            sum.b3 = sum.b3 * by3 + x03 * v0.b + x13 * v1.b;
        }
    }

    let left = team * WORDS + 2u * lane;
    sums[left] = sum.a0;
    sums[left + 1u] = sum.b0;
    if HEADS > 1u {
        sums[left + D / 4u] = sum.a1;
        sums[left + D / 4u + 1u] = sum.b1;
    }
    if HEADS > 2u {
        sums[left + D / 2u] = sum.a2;
        sums[left + D / 2u + 1u] = sum.b2;
        sums[left + D / 4u * 3u] = sum.a3;
        sums[left + D / 4u * 3u + 1u] = sum.b3;
    }
    if lane < HEADS {
        stats[team * HEADS + lane] = vec2(most, weight);
    }
    join_stats(TEAMS, team, lane);
    // A thread has four elements of a head, and goes on with them alone.
    let block = t * (p.ne.x / p.ne.y * per_kv) + group.y;
    for (var i = lid; i < WORDS; i += WG) {
        let h = i / (D / 4u);
        var x = vec4(0.0);
        for (var j = 0u; j < TEAMS; j += 1u) {
            x += stats[j * HEADS + h].x * sums[j * WORDS + i];
        }
        if used == 1u {
            result(i, head, n_heads, t, x);
        } else {
            let part = block * p.ne.w + group.z;
            set_vector(p.out.y + part * RESULTS + 4u * i, x);
            if i % (D / 4u) == 0u {
                let at = p.out.z + 2u * (part * HEADS + h);
                set_number(at, whole[h].x);
                set_number(at + 1u, whole[h].y);
            }
        }
    }
    if used > 1u {
        storageBarrier();
        if lid == 0u {
            arrived = atomicAdd(&counters[block], 1u);
        }
        if workgroupUniformLoad(&arrived) != used - 1u {
            return;
        }
        if lid == 0u {
            atomicStore(&counters[block], 0u);
        }
        storageBarrier();
        for (var i = lid; i < used * HEADS; i += WG) {
            let at = p.out.z + 2u * (block * p.ne.w * HEADS + i);
            stats[i] = vec2(bitcast<f32>(arena_word(at)), bitcast<f32>(arena_word(at + 1u)));
        }
        join_stats(used, team, lane);
        join_parts(block, used, lid);
        for (var i = lid; i < WORDS; i += WG) {
            var x = vec4(0.0);
            for (var j = 0u; j < SIDES; j += 1u) {
                x += sums[j * WORDS + i];
            }
            result(i, head, n_heads, t, x);
        }
    }
    if p.alibi.y != 0u {
        workgroupBarrier();
        hand_on(head, n_heads, t, lid);
    }
}

// Threads that share the parts of an element.
const SIDES: u32 = max(WG / WORDS, 1u);

// What a part's sums are multiplied by, after `join_stats`.
fn factor(part: u32, h: u32, n: u32) -> f32 {
    return select(0.0, stats[min(part, n - 1u) * HEADS + h].x, part < n);
}

fn part4(at: u32, part: u32, n: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(arena[at + min(part, n - 1u) * WORDS]);
}

// Sums of the parts; every side leaves its own in `sums`.
fn join_parts(block: u32, used: u32, lid: u32) {
    for (var i = lid; i < WORDS * SIDES; i += WG) {
        let word = i % WORDS;
        let h = word / (D / 4u);
        var x = vec4(0.0);
        let at = (p.out.y + block * p.ne.w * RESULTS) / 4u + word;
        for (var part = i / WORDS; part < used; part += 8u * SIDES) {
            // Eight at a time; those beyond the last are multiplied by nothing.
            let x0 = part4(at, part, used);
            let x1 = part4(at, part + SIDES, used);
            let x2 = part4(at, part + 2u * SIDES, used);
            let x3 = part4(at, part + 3u * SIDES, used);
            let x4 = part4(at, part + 4u * SIDES, used);
            let x5 = part4(at, part + 5u * SIDES, used);
            let x6 = part4(at, part + 6u * SIDES, used);
            let x7 = part4(at, part + 7u * SIDES, used);
            x += factor(part, h, used) * x0 + factor(part + SIDES, h, used) * x1
                + factor(part + 2u * SIDES, h, used) * x2 + factor(part + 3u * SIDES, h, used) * x3
                + factor(part + 4u * SIDES, h, used) * x4 + factor(part + 5u * SIDES, h, used) * x5
                + factor(part + 6u * SIDES, h, used) * x6 + factor(part + 7u * SIDES, h, used) * x7;
        }
        sums[i] = x;
    }
    workgroupBarrier();
}

// Joins the maxima and sums of `n` teams or parts, a team for each head: `whole` gets the joint ones, and instead of their
// maxima `stats` gets what their sums are multiplied by.
fn join_stats(n: u32, team: u32, lane: u32) {
    workgroupBarrier();
    if team < HEADS {
        var most = NONE;
        for (var j = lane; j < n; j += LANES) {
            most = max(most, stats[j * HEADS + team].x);
        }
        most = max(most, subgroupShuffleXor(most, 1u));
        most = max(most, subgroupShuffleXor(most, 2u));
        most = max(most, subgroupShuffleXor(most, 4u));
        if LANES > 8u {
            most = max(most, subgroupShuffleXor(most, 8u));
        }
        if LANES > 16u {
            most = max(most, subgroupShuffleXor(most, 16u));
        }
        var weight = 0.0;
        for (var j = lane; j < n; j += LANES) {
            let by = exp(stats[j * HEADS + team].x - most);
            weight += by * stats[j * HEADS + team].y;
            stats[j * HEADS + team].x = by;
        }
        weight = sum_from(weight, 1u);
        if lane == 0u {
            whole[team] = vec2(most, weight);
        }
    }
    workgroupBarrier();
}

// Writes four elements of a head, and keeps them to be handed on.
fn result(i: u32, head: u32, n_heads: u32, t: u32, x: vec4<f32>) {
    let h = i / (D / 4u);
    var scale = 1.0;
    var weight = whole[h].y;
    if p.q.w != 0u {
        let sink = number_at(WEIGHTS, p.q.w - 1u + head + min(h, n_heads - 1u));
        let top = max(whole[h].x, sink);
        scale = exp(whole[h].x - top);
        weight = weight * scale + exp(sink - top);
    }
    let y = x * select(0.0, scale / weight, weight > 0.0);
    keep4(i, y);
    if h < n_heads {
        set_vector(p.out.x + (t * p.ne.x + head) * D + 4u * i, y);
    }
}

fn hand_on(head: u32, n_heads: u32, t: u32, lid: u32) {
    for (var i = lid; i < n_heads * D / 4u; i += WG) {
        emit_word(i, (t * p.ne.x + head) * D + 4u * i, p.alibi.y - 1u, p.alibi.z, 0u);
    }
}
