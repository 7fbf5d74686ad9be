// Attention, one pass with running maximum and sum. A workgroup has one key/value head, HEADS of the query heads that share
// it, TOKENS tokens, and a part of the rows; it takes CHUNK rows at a time: scores, softmax, values.

struct Params {
    // Elements of a key, of a value, query heads, query heads per key head.
    ne: vec4<u32>,
    // Queries: offset, stride of heads, of tokens; tokens.
    q: vec4<u32>,
    // Keys: offset, stride of heads, of rows; words before the scales.
    k: vec4<u32>,
    v: vec4<u32>,
    // Offset of the result; of the parts' results plus one (0: there is one part); parts; offset of the sinks plus one.
    out: vec4<u32>,
    // Number of the mask.
    mask: vec4<u32>,
    // Scale, soft cap (0: off), ALiBi slope base of the first heads and of those between, see `slope`.
    x: vec4<f32>,
    // Heads whose slopes are powers of the first base.
    alibi: vec4<u32>,
}

const QUERIES: u32 = HEADS * TOKENS;
const WG: u32 = 128;
// Pairs of value elements, and rows that are read side by side.
const PAIRS: u32 = (D_V + 1) / 2;
const LANES: u32 = min(PAIRS, WG);
const SIDES: u32 = WG / LANES;
const PASSES: u32 = (PAIRS + LANES - 1) / LANES;
const NONE: f32 = -1.0e30;

var<workgroup> queries: array<vec4<f32>, QUERIES * D_K / 4>;
// [row][query]
var<workgroup> scores: array<f32, CHUNK * QUERIES>;
var<workgroup> pieces: array<f32, WG * QUERIES * 2>;
var<workgroup> most: array<f32, QUERIES>;
var<workgroup> total: array<f32, QUERIES>;
var<workgroup> shrink: array<f32, QUERIES>;

struct Visible {
    start: u32,
    end: u32,
    bits: u32,
}

// The mask buffer: per mask eight words (offsets of its rows, words, row positions, token positions), then their data.
fn visible_rows(t: u32) -> Visible {
    let at = constants[p.mask.x * 8u] + 4u * t;
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
    return ((constants[constants[p.mask.x * 8u + 1u] + 2u * v.bits + i / 32u] >> (i & 31u)) & 1u) == 1u;
}

fn slope(h: u32) -> f32 {
    if h < p.alibi.x {
        return pow(p.x.z, f32(h + 1u));
    }
    return pow(p.x.w, f32(2u * (h - p.alibi.x) + 1u));
}

fn bias(h: u32, t: u32, row: u32) -> f32 {
    if p.x.z == 0.0 {
        return 0.0;
    }
    let row_pos = i32(constants[constants[p.mask.x * 8u + 2u] + row]);
    let pos = i32(constants[constants[p.mask.x * 8u + 3u] + t]);
    return -f32(abs(row_pos - pos)) * slope(h);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let per_kv = (p.ne.w + HEADS - 1u) / HEADS;
    let kv = group.y / per_kv;
    let first_head = group.y % per_kv * HEADS;
    let n_heads = min(HEADS, p.ne.w - first_head);
    let head = kv * p.ne.w + first_head;
    let first_token = group.x * TOKENS;
    let n_tokens = min(TOKENS, p.q.w - first_token);

    for (var i = lid; i < QUERIES * D_K; i += WG) {
        let query = i / D_K;
        let h = min(query % HEADS, n_heads - 1u);
        let t = min(first_token + query / HEADS, p.q.w - 1u);
        queries[i / 4u][i % 4u] = bitcast<f32>(arena_word(p.q.x + (head + h) * p.q.y + t * p.q.z + i % D_K)) * p.x.x;
    }
    for (var i = lid; i < QUERIES; i += WG) {
        most[i] = NONE;
        total[i] = 0.0;
    }
    var start = 0xffffffffu;
    var end = 0u;
    for (var t = 0u; t < n_tokens; t += 1u) {
        let v = visible_rows(first_token + t);
        if v.end > v.start {
            start = min(start, v.start);
            end = max(end, v.end);
        }
    }
    start = min(start, end);
    // This part's share, in whole chunks.
    let chunks = (end - start + CHUNK - 1u) / CHUNK;
    let share = (chunks + p.out.z - 1u) / p.out.z;
    start = min(end, start + group.z * share * CHUNK);
    end = min(end, start + share * CHUNK);
    workgroupBarrier();

    var sums: array<vec2<f32>, QUERIES * PASSES>;
    for (var base = start; base < end; base += CHUNK) {
        let n = min(CHUNK, end - base);
        score(base, n, kv, head, first_token, lid);
        soften(n, lid);
        let lane = lid % LANES;
        let side = lid / LANES;
        for (var i = 0u; i < QUERIES; i += 1u) {
            let s = shrink[i];
            for (var pass_ = 0u; pass_ < PASSES; pass_ += 1u) {
                sums[pass_ * QUERIES + i] *= s;
            }
        }
        if side < SIDES {
            for (var row = side; row < n; row += SIDES) {
                for (var pass_ = 0u; pass_ < PASSES; pass_ += 1u) {
                    let pair = pass_ * LANES + lane;
                    if pair < PAIRS {
                        let v = value2(p.v.x + kv * p.v.y + (base + row) * p.v.z + 2u * pair, p.v.w);
                        for (var i = 0u; i < QUERIES; i += 1u) {
                            sums[pass_ * QUERIES + i] += v * scores[row * QUERIES + i];
                        }
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var pass_ = 0u; pass_ < PASSES; pass_ += 1u) {
        for (var i = 0u; i < QUERIES; i += 1u) {
            pieces[(lid * QUERIES + i) * 2u] = sums[pass_ * QUERIES + i].x;
            pieces[(lid * QUERIES + i) * 2u + 1u] = sums[pass_ * QUERIES + i].y;
        }
        workgroupBarrier();
        for (var i = lid; i < QUERIES * LANES; i += WG) {
            let query = i / LANES;
            let lane = i % LANES;
            let pair = pass_ * LANES + lane;
            let h = query % HEADS;
            let t = query / HEADS;
            if pair < PAIRS && h < n_heads && t < n_tokens {
                var sum = vec2(0.0);
                for (var side = 0u; side < SIDES; side += 1u) {
                    let at = ((side * LANES + lane) * QUERIES + query) * 2u;
                    sum += vec2(pieces[at], pieces[at + 1u]);
                }
                finish(first_token + t, head + h, query, pair, sum, group.z);
            }
        }
        workgroupBarrier();
    }
}

// Scores of `n` rows from `base` on, NONE where a token does not see a row.
fn score(base: u32, n: u32, kv: u32, head: u32, first_token: u32, lid: u32) {
    // Four threads share a row.
    let part = lid % 4u;
    for (var first = 0u; first < n; first += WG / 4u) {
        let row = first + lid / 4u;
        var sums: array<f32, QUERIES>;
        if row < n {
            let at = p.k.x + kv * p.k.y + (base + row) * p.k.z;
            for (var d = 4u * part; d < D_K; d += 16u) {
                let k = key4(at + d, p.k.w);
                for (var i = 0u; i < QUERIES; i += 1u) {
                    sums[i] += dot(k, queries[(i * D_K + d) / 4u]);
                }
            }
        }
        for (var i = 0u; i < QUERIES; i += 1u) {
            pieces[lid * QUERIES + i] = sums[i];
        }
        workgroupBarrier();
        for (var i = lid; i < WG / 4u * QUERIES; i += WG) {
            let r = i / QUERIES;
            let query = i % QUERIES;
            var s = 0.0;
            for (var j = 0u; j < 4u; j += 1u) {
                s += pieces[(4u * r + j) * QUERIES + query];
            }
            let t = min(first_token + query / HEADS, p.q.w - 1u);
            if p.x.y > 0.0 {
                s = p.x.y * tanh(clamp(s / p.x.y, -20.0, 20.0));
            }
            let seen = first + r < n && sees(visible_rows(t), base + first + r);
            if first + r < CHUNK {
                scores[i + first * QUERIES] = select(NONE, s + bias(head + query % HEADS, t, base + first + r), seen);
            }
        }
        workgroupBarrier();
    }
}

// Scores to weights relative to the running maximum; `shrink` is what earlier sums are multiplied by.
fn soften(n: u32, lid: u32) {
    // Threads of a query follow each other.
    let team = WG / QUERIES;
    let query = lid / team;
    let member = lid % team;
    var top = NONE;
    if query < QUERIES {
        for (var row = member; row < n; row += team) {
            top = max(top, scores[row * QUERIES + query]);
        }
    }
    pieces[lid] = top;
    workgroupBarrier();
    if lid < QUERIES {
        top = most[lid];
        for (var i = 0u; i < team; i += 1u) {
            top = max(top, pieces[lid * team + i]);
        }
        shrink[lid] = exp(most[lid] - top);
        most[lid] = top;
    }
    workgroupBarrier();
    var sum = 0.0;
    if query < QUERIES {
        top = most[query];
        for (var row = member; row < n; row += team) {
            let s = scores[row * QUERIES + query];
            let w = select(exp(s - top), 0.0, s <= NONE);
            scores[row * QUERIES + query] = w;
            sum += w;
        }
    }
    pieces[lid] = sum;
    workgroupBarrier();
    if lid < QUERIES {
        sum = total[lid] * shrink[lid];
        for (var i = 0u; i < team; i += 1u) {
            sum += pieces[lid * team + i];
        }
        total[lid] = sum;
    }
    workgroupBarrier();
}

fn finish(t: u32, h: u32, query: u32, pair: u32, sum: vec2<f32>, part: u32) {
    let at = (t * p.ne.z + h);
    if p.out.y != 0u {
        let to = p.out.y - 1u + (at * p.out.z + part) * (D_V + 2u);
        set_number(to + 2u + 2u * pair, sum.x);
        if 2u * pair + 1u < D_V {
            set_number(to + 3u + 2u * pair, sum.y);
        }
        if pair == 0u {
            set_number(to, most[query]);
            set_number(to + 1u, total[query]);
        }
        return;
    }
    var scale = 1.0;
    var sum_of_weights = total[query];
    if p.out.w != 0u {
        let sink = number_at(WEIGHTS, p.out.w - 1u + h);
        let top = max(most[query], sink);
        scale = exp(most[query] - top);
        sum_of_weights = sum_of_weights * scale + exp(sink - top);
    }
    let inverse = select(0.0, scale / sum_of_weights, sum_of_weights > 0.0);
    let to = p.out.x + at * D_V + 2u * pair;
    set_number(to, sum.x * inverse);
    if 2u * pair + 1u < D_V {
        set_number(to + 1u, sum.y * inverse);
    }
}
