// What kernels of `attention_few` share: what tokens see, a token's queries, its own row, and the join of the sums that teams
// leave in the memory of a workgroup, then of parts of the rows, by the workgroup that is ready last. LANES threads have a head,
// eight elements each. Of the kernel's file:
//   SUMS: sums that a workgroup leaves; SUMS_LINE: vectors from one to the next; ALIGN, ROUND: rows that a workgroup's first
//   row and number of rows are multiples of.

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

const LANES: u32 = D / 8;
const NONE: f32 = -1.0e30;
const WORDS: u32 = HEADS * D / 4;
const RESULTS: u32 = HEADS * D;
const MAX_PARTS: u32 = 64;
const STATS: u32 = max(SUMS, MAX_PARTS) * HEADS;

// [team][head][element]
var<workgroup> sums: array<vec4<f32>, SUMS * SUMS_LINE>;
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

// A thread's elements of a query, times the scale of scores.
fn query(h: u32, w: Task, lane: u32, place: u32) -> Eight {
    var q = source8(p.q.x + (w.head + min(h, w.n_heads - 1u)) * p.q.y + w.t * p.q.z + 8u * lane);
    if OWN == 1u {
        q = prepared(q, p.norms.x, p.own_x.x, p.own_x.w, lane, place);
    }
    return Eight(q.a * p.x.x, q.b * p.x.x);
}

// What a workgroup attends: a token, query heads of one key head, a part of the rows; `used` parts have any.
struct Task {
    t: u32,
    kv: u32,
    // First head, and how many of HEADS there are.
    head: u32,
    n_heads: u32,
    visible: Visible,
    start: u32,
    end: u32,
    used: u32,
    part: u32,
    // Number of token and heads.
    block: u32,
}

fn task(group: vec3<u32>) -> Task {
    let per_kv = (p.ne.y + HEADS - 1u) / HEADS;
    let kv = group.y / per_kv;
    let first_head = group.y % per_kv * HEADS;
    let visible = visible_rows(group.x);
    let first = visible.start - visible.start % ALIGN;
    let n = max(visible.end, visible.start) - first;
    // This part's share, in whole steps of all teams.
    let share = max((n + p.ne.w - 1u) / p.ne.w, 1u) + ROUND - 1u;
    let rows = share - share % ROUND;
    let start = first + group.z * rows;
    return Task(
        group.x,
        kv,
        kv * p.ne.y + first_head,
        min(HEADS, p.ne.y - first_head),
        visible,
        start,
        min(visible.end, start + rows),
        max((n + rows - 1u) / rows, 1u),
        group.z,
        group.x * (p.ne.x / p.ne.y * per_kv) + group.y,
    );
}

// Joins the sums and statistics that teams left, and those of other parts.
fn finish(w: Task, lid: u32) {
    join_stats(SUMS, lid);
    // A thread has four elements of a head, and goes on with them alone.
    for (var i = lid; i < WORDS; i += WG) {
        let h = i / (D / 4u);
        var x = vec4(0.0);
        for (var j = 0u; j < SUMS; j += 1u) {
            x += stats[j * HEADS + h].x * sums[j * SUMS_LINE + i];
        }
        if w.used == 1u {
            result(i, w, x);
        } else {
            let part = w.block * p.ne.w + w.part;
            set_vector(p.out.y + part * RESULTS + 4u * i, x);
            if i % (D / 4u) == 0u {
                let at = stats_at(w.block) + 2u * (w.part * HEADS + h);
                set_number(at, whole[h].x);
                set_number(at + 1u, whole[h].y);
            }
        }
    }
    if w.used > 1u {
        storageBarrier();
        if lid == 0u {
            arrived = atomicAdd(&counters[w.block], 1u);
        }
        if workgroupUniformLoad(&arrived) != w.used - 1u {
            return;
        }
        if lid == 0u {
            atomicStore(&counters[w.block], 0u);
        }
        storageBarrier();
        for (var i = lid; i < w.used * HEADS; i += WG) {
            let at = stats_at(w.block) + 2u * i;
            stats[i] = vec2(bitcast<f32>(arena_word(at)), bitcast<f32>(arena_word(at + 1u)));
        }
        join_stats(w.used, lid);
        join_parts(w.block, w.used, lid);
        for (var i = lid; i < WORDS; i += WG) {
            var x = vec4(0.0);
            for (var j = 0u; j < SIDES; j += 1u) {
                x += sums[j * WORDS + i];
            }
            result(i, w, x);
        }
    }
    if p.alibi.y != 0u {
        workgroupBarrier();
        hand_on(w, lid);
    }
}

// Where the statistics of a block's parts lie: blocks share no line of a cache, so that nobody has another's old ones.
fn stats_at(block: u32) -> u32 {
    return p.out.z + block * ((2u * HEADS * p.ne.w + 31u) / 32u * 32u);
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
fn join_stats(n: u32, lid: u32) {
    let team = lid / LANES;
    let lane = lid % LANES;
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
fn result(i: u32, w: Task, x: vec4<f32>) {
    let h = i / (D / 4u);
    var scale = 1.0;
    var weight = whole[h].y;
    if p.q.w != 0u {
        let sink = number_at(WEIGHTS, p.q.w - 1u + w.head + min(h, w.n_heads - 1u));
        let top = max(whole[h].x, sink);
        scale = exp(whole[h].x - top);
        weight = weight * scale + exp(sink - top);
    }
    let y = x * select(0.0, scale / weight, weight > 0.0);
    keep4(i, y);
    if h < w.n_heads {
        set_vector(p.out.x + (w.t * p.ne.x + w.head) * D + 4u * i, y);
    }
}

fn hand_on(w: Task, lid: u32) {
    for (var i = lid; i < w.n_heads * D / 4u; i += WG) {
        emit_word(i, (w.t * p.ne.x + w.head) * D + 4u * i, p.alibi.y - 1u, p.alibi.z, 0u);
    }
}
