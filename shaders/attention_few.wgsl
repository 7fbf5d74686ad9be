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
// Rows of a team's step.
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

struct Visible {
    start: u32,
    end: u32,
    bits: u32,
}

// The mask buffer: per mask eight words (offsets of its rows, words, row positions, token positions), then their data.
fn visible_rows(t: u32) -> Visible {
    let at = constants[p.out.w * 8u] + 4u * t;
    return Visible(constants[at], constants[at + 1u], constants[at + 2u]);
}

fn sees(v: Visible, row: u32) -> bool {
    if row < v.start || row >= v.end {
        return false;
    }
    if v.bits == 0xffffffffu {
        return true;
    }
    let i = row - (v.start & ~63u);
    return ((constants[constants[p.out.w * 8u + 1u] + 2u * v.bits + i / 32u] >> (i & 31u)) & 1u) == 1u;
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
fn team_sum(v: array<f32, HEADS>, lane: u32) -> f32 {
    if HEADS == 1u {
        return sum_from(v[0], 1u);
    }
    // Keep one head of two, give the other away.
    let odd = (lane & 1u) != 0u;
    let a = select(v[0], v[1u % HEADS], odd) + subgroupShuffleXor(select(v[1u % HEADS], v[0], odd), 1u);
    if HEADS == 2u {
        return sum_from(a, 2u);
    }
    let b = select(v[2u % HEADS], v[3u % HEADS], odd) + subgroupShuffleXor(select(v[3u % HEADS], v[2u % HEADS], odd), 1u);
    let late = (lane & 2u) != 0u;
    return sum_from(select(a, b, late) + subgroupShuffleXor(select(b, a, late), 2u), 4u);
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

    find_turns(lane);
    var own = Rows(0xffffffffu, 0xffffffffu);
    if OWN == 1u {
        own = own_rows();
        if group.z == 0u && team == 0u {
            store_unseen(own, kv, visible, lane, place);
        }
    }
    var qa: array<vec4<f32>, HEADS>;
    var qb: array<vec4<f32>, HEADS>;
    for (var h = 0u; h < HEADS; h += 1u) {
        var q = source8(p.q.x + (head + min(h, n_heads - 1u)) * p.q.y + t * p.q.z + 8u * lane);
        if OWN == 1u {
            q = prepared(q, p.norms.x, p.own_x.x, p.own_x.w, lane, place);
        }
        qa[h] = q.a * p.x.x;
        qb[h] = q.b * p.x.x;
    }
    let my_head = lane % HEADS;
    var most = NONE;
    var weight = 0.0;
    var sa: array<vec4<f32>, HEADS>;
    var sb: array<vec4<f32>, HEADS>;
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
        var keys: array<Eight, STEP>;
        var values: array<Eight, STEP>;
        for (var j = 0u; j < STEP; j += 1u) {
            keys[j] = key8(k_at + min(base + j, end - 1u) * p.k.z, p.k.w);
        }
        for (var j = 0u; j < STEP; j += 1u) {
            values[j] = value8(v_at + min(base + j, end - 1u) * p.v.z, p.v.w);
        }
        // The token's own row is not in the cache yet.
        if OWN == 1u && own.k - base < STEP && own.k < end {
            let key = store_key(own.k, kv, lane, place);
            for (var j = 0u; j < STEP; j += 1u) {
                if base + j == own.k {
                    keys[j] = key;
                }
            }
        }
        if OWN == 1u && own.v - base < STEP && own.v < end {
            let value = store_value(own.v, kv, lane);
            for (var j = 0u; j < STEP; j += 1u) {
                if base + j == own.v {
                    values[j] = value;
                }
            }
        }
        var scores: array<f32, STEP>;
        var top = most;
        for (var j = 0u; j < STEP; j += 1u) {
            var dots: array<f32, HEADS>;
            for (var h = 0u; h < HEADS; h += 1u) {
                dots[h] = dot(keys[j].a, qa[h]) + dot(keys[j].b, qb[h]);
            }
            var s = team_sum(dots, lane);
            if p.x.y > 0.0 {
                s = p.x.y * tanh(clamp(s / p.x.y, -20.0, 20.0));
            }
            if p.x.z != 0.0 {
                s += bias(head + min(my_head, n_heads - 1u), t, min(base + j, end - 1u));
            }
            scores[j] = select(NONE, s, base + j < end && (visible.bits == 0xffffffffu || sees(visible, base + j)));
            top = max(top, scores[j]);
        }
        let shrink = exp(most - top);
        most = top;
        weight *= shrink;
        for (var j = 0u; j < STEP; j += 1u) {
            scores[j] = select(exp(scores[j] - top), 0.0, scores[j] <= NONE);
            weight += scores[j];
        }
        // Head `h` is with the thread of that number in every run of HEADS: from there to all.
        for (var h = 0u; h < HEADS; h += 1u) {
            let from_ = place / LANES * LANES + h;
            let s = subgroupShuffle(shrink, from_);
            sa[h] *= s;
            sb[h] *= s;
            for (var j = 0u; j < STEP; j += 1u) {
                let w = subgroupShuffle(scores[j], from_);
                sa[h] += w * values[j].a;
                sb[h] += w * values[j].b;
            }
        }
    }

    for (var h = 0u; h < HEADS; h += 1u) {
        let at = team * WORDS + h * (D / 4u) + 2u * lane;
        sums[at] = sa[h];
        sums[at + 1u] = sb[h];
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

// Sums of the parts; every side leaves its own in `sums`.
fn join_parts(block: u32, used: u32, lid: u32) {
    for (var i = lid; i < WORDS * SIDES; i += WG) {
        let word = i % WORDS;
        let h = word / (D / 4u);
        var x = vec4(0.0);
        let at = (p.out.y + block * p.ne.w * RESULTS) / 4u + word;
        for (var first = i / WORDS; first < used; first += 8u * SIDES) {
            var v: array<vec4<u32>, 8>;
            for (var j = 0u; j < 8u; j += 1u) {
                v[j] = arena[at + min(first + j * SIDES, used - 1u) * WORDS];
            }
            for (var j = 0u; j < 8u; j += 1u) {
                let part = first + j * SIDES;
                if part < used {
                    x += stats[part * HEADS + h].x * bitcast<vec4<f32>>(v[j]);
                }
            }
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
