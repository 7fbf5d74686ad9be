// Attention of many queries by cooperative matrices. A workgroup has 64 queries of one key/value head, a subgroup 16 of them:
// HEADS query heads of TOKENS tokens. It takes KEYS rows at a time: scores, weights as halves, values. Matrices have no
// elements, so scores go through workgroup memory. Sums are relative to a maximum that is raised only when scores exceed
// it by 2^SLACK: only then sums go through workgroup memory too. The head is at most 128 elements, in pieces of 16.

const WG: u32 = 128;
const ROWS: u32 = 64;
const TOKENS: u32 = ROWS / HEADS;
const KEYS: u32 = 32;
// Pieces of eight elements of a row of keys, of values.
const K_UNITS: u32 = D_K / 8;
const V_UNITS: u32 = D_V / 8;
// Vectors from one row to the next: rows begin in different banks.
const K_LINE: u32 = D_K / 4 + 2;
const V_LINE: u32 = D_V / 4 + 2;
const S_LINE: u32 = KEYS / 4 + 1;
// Pieces that a thread moves.
const K_MOVES: u32 = (KEYS * K_UNITS + WG - 1) / WG;
const V_MOVES: u32 = (KEYS * V_UNITS + WG - 1) / WG;
const NONE: f32 = -1.0e30;
const LOG2E: f32 = 1.4426950408889634;
const SLACK: f32 = 8.0;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

// Of each subgroup 16 rows: queries, and after they are in registers the weights.
var<workgroup> queries: array<vec4<f16>, ROWS * K_LINE>;
var<workgroup> keys: array<vec4<f16>, KEYS * K_LINE>;
var<workgroup> values: array<vec4<f16>, KEYS * V_LINE>;
var<workgroup> scores: array<vec4<f32>, ROWS * S_LINE>;

// Whether any of `n` tokens, whose lanes hold what they see, sees a row of the step from `base` on.
fn is_seen(s: Seen, n: u32, base: u32) -> bool {
    var any = 0u;
    for (var t = 0u; t < n; t += 1u) {
        any |= visible(Seen(subgroupShuffle(s.start, t), subgroupShuffle(s.end, t), subgroupShuffle(s.bits, t)), base);
    }
    return any != 0u;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let head = group.y * HEADS;
    let kv = head / p.ne.w;
    // Late tokens see most: they begin.
    let first_token = (groups.x - 1u - group.x) * TOKENS;
    let n_tokens = min(TOKENS, p.q.w - first_token);

    let scale = p.x.x * select(LOG2E, 1.0, p.x.y > 0.0);
    for (var i = lid; i < ROWS * K_UNITS; i += WG) {
        let row = i / K_UNITS;
        let t = min(first_token + row / HEADS, p.q.w - 1u);
        let at = (p.q.x + (head + row % HEADS) * p.q.y + t * p.q.z) / 4u + i % K_UNITS * 2u;
        queries[row * K_LINE + i % K_UNITS * 2u] = half4(arena[at] * scale);
        queries[row * K_LINE + i % K_UNITS * 2u + 1u] = half4(arena[at + 1u] * scale);
    }
    let lane = lid % 32u;
    // A lane has what a token or two see.
    let seen = seen_by(select(p.q.w, first_token + lane, lane < n_tokens));
    let seen_late = seen_by(select(p.q.w, first_token + lane + 32u, lane + 32u < n_tokens));
    var start = subgroupMin(min(first_seen(seen), first_seen(seen_late)));
    let end = subgroupMax(max(seen.end, seen_late.end));
    start = min(start, end) / KEYS * KEYS;
    // A part has every so many steps: what is seen may lie far apart.
    let steps = (end - start + KEYS - 1u) / KEYS;
    let n_steps = (max(steps, group.z) - group.z + p.out.z - 1u) / p.out.z;
    let last = max(end, 1u) - 1u;

    // The row of scores that a lane weighs, half of it; its maximum and sum.
    let first = lid / 32u * 16u;
    let row = first + lane / 2u;
    let half_row = lane % 2u;
    let token = first_token + row / HEADS;
    let mine = seen_by(token);
    let at = first * S_LINE;
    let own = row * S_LINE + half_row * 4u;
    var most = NONE;
    var total = 0.0;

    workgroupBarrier();

    var q0 = coopLoadT<Left>(&queries[first * K_LINE], K_LINE);
    var q1 = Left();
    if D_K > 16u {
        q1 = coopLoadT<Left>(&queries[first * K_LINE + 4u], K_LINE);
    }
    var q2 = Left();
    if D_K > 32u {
        q2 = coopLoadT<Left>(&queries[first * K_LINE + 8u], K_LINE);
    }
    var q3 = Left();
    if D_K > 48u {
        q3 = coopLoadT<Left>(&queries[first * K_LINE + 12u], K_LINE);
    }
    var q4 = Left();
    if D_K > 64u {
        q4 = coopLoadT<Left>(&queries[first * K_LINE + 16u], K_LINE);
    }
    var q5 = Left();
    if D_K > 80u {
        q5 = coopLoadT<Left>(&queries[first * K_LINE + 20u], K_LINE);
    }
    var q6 = Left();
    if D_K > 96u {
        q6 = coopLoadT<Left>(&queries[first * K_LINE + 24u], K_LINE);
    }
    var q7 = Left();
    if D_K > 112u {
        q7 = coopLoadT<Left>(&queries[first * K_LINE + 28u], K_LINE);
    }
    var o0 = Sums();
    var o1 = Sums();
    var o2 = Sums();
    var o3 = Sums();
    var o4 = Sums();
    var o5 = Sums();
    var o6 = Sums();
    var o7 = Sums();
    // Steps that somebody sees, of 32.
    var wanted = 0u;
    for (var n = 0u; n < n_steps; n += 1u) {
        if n % 32u == 0u {
            // A lane looks whether anybody sees a step; every subgroup for itself.
            let step = group.z + (n + lane) * p.out.z;
            let base = start + step * KEYS;
            var any = is_seen(seen, min(n_tokens, 32u), base);
            if TOKENS > 32u {
                any |= is_seen(seen_late, max(n_tokens, 32u) - 32u, base);
            }
            wanted = subgroupBallot(any && step < steps).x;
        }
        let rest = wanted >> (n & 31u);
        if rest == 0u {
            n |= 31u;
            continue;
        }
        n += firstTrailingBit(rest);
        let base = start + (group.z + n * p.out.z) * KEYS;
        for (var i = 0u; i < K_MOVES; i += 1u) {
            let j = i * WG + lid;
            if j < KEYS * K_UNITS {
                let x = key8(p.k.x + kv * p.k.y + min(base + j / K_UNITS, last) * p.k.z + j % K_UNITS * 8u, p.k.w);
                keys[j / K_UNITS * K_LINE + j % K_UNITS * 2u] = x.a;
                keys[j / K_UNITS * K_LINE + j % K_UNITS * 2u + 1u] = x.b;
            }
        }
        for (var i = 0u; i < V_MOVES; i += 1u) {
            let j = i * WG + lid;
            if j < KEYS * V_UNITS {
                let x = value8(p.v.x + kv * p.v.y + min(base + j / V_UNITS, last) * p.v.z + j % V_UNITS * 8u, p.v.w);
                values[j / V_UNITS * V_LINE + j % V_UNITS * 2u] = x.a;
                values[j / V_UNITS * V_LINE + j % V_UNITS * 2u + 1u] = x.b;
            }
        }
        workgroupBarrier();
        let bits = visible(mine, base);
        if subgroupAny(bits != 0u) {
            var s0 = Sums();
            var s1 = Sums();
            s0 = coopMultiplyAdd(q0, coopLoad<Right>(&keys[0u * K_LINE + 0u], K_LINE), s0);
            s1 = coopMultiplyAdd(q0, coopLoad<Right>(&keys[16u * K_LINE + 0u], K_LINE), s1);
            if D_K > 16u {
                s0 = coopMultiplyAdd(q1, coopLoad<Right>(&keys[0u * K_LINE + 4u], K_LINE), s0);
                s1 = coopMultiplyAdd(q1, coopLoad<Right>(&keys[16u * K_LINE + 4u], K_LINE), s1);
            }
            if D_K > 32u {
                s0 = coopMultiplyAdd(q2, coopLoad<Right>(&keys[0u * K_LINE + 8u], K_LINE), s0);
                s1 = coopMultiplyAdd(q2, coopLoad<Right>(&keys[16u * K_LINE + 8u], K_LINE), s1);
            }
            if D_K > 48u {
                s0 = coopMultiplyAdd(q3, coopLoad<Right>(&keys[0u * K_LINE + 12u], K_LINE), s0);
                s1 = coopMultiplyAdd(q3, coopLoad<Right>(&keys[16u * K_LINE + 12u], K_LINE), s1);
            }
            if D_K > 64u {
                s0 = coopMultiplyAdd(q4, coopLoad<Right>(&keys[0u * K_LINE + 16u], K_LINE), s0);
                s1 = coopMultiplyAdd(q4, coopLoad<Right>(&keys[16u * K_LINE + 16u], K_LINE), s1);
            }
            if D_K > 80u {
                s0 = coopMultiplyAdd(q5, coopLoad<Right>(&keys[0u * K_LINE + 20u], K_LINE), s0);
                s1 = coopMultiplyAdd(q5, coopLoad<Right>(&keys[16u * K_LINE + 20u], K_LINE), s1);
            }
            if D_K > 96u {
                s0 = coopMultiplyAdd(q6, coopLoad<Right>(&keys[0u * K_LINE + 24u], K_LINE), s0);
                s1 = coopMultiplyAdd(q6, coopLoad<Right>(&keys[16u * K_LINE + 24u], K_LINE), s1);
            }
            if D_K > 112u {
                s0 = coopMultiplyAdd(q7, coopLoad<Right>(&keys[0u * K_LINE + 28u], K_LINE), s0);
                s1 = coopMultiplyAdd(q7, coopLoad<Right>(&keys[16u * K_LINE + 28u], K_LINE), s1);
            }
            coopStoreT(s0, &scores[at], S_LINE);
            coopStoreT(s1, &scores[at + 4u], S_LINE);
            subgroupBarrier();
            var x: array<vec4<f32>, 4>;
            var top = NONE;
            for (var i = 0u; i < 4u; i += 1u) {
                var s = scores[own + i];
                if p.x.y > 0.0 {
                    s = LOG2E * p.x.y * tanh(clamp(s / p.x.y, vec4(-20.0), vec4(20.0)));
                }
                let own_bits = vec4(bits >> (16u * half_row + 4u * i)) & vec4(1u, 2u, 4u, 8u);
                x[i] = select(vec4(NONE), s, own_bits != vec4(0u));
                top = max(top, max(max(x[i].x, x[i].y), max(x[i].z, x[i].w)));
            }
            top = max(top, subgroupShuffleXor(top, 1u));
            subgroupBarrier();
            let raise = top > most + SLACK;
            let raised = select(most, top, raise);
            let shrink = exp2(most - raised);
            if subgroupAny(raise && total > 0.0) {
                coopStoreT(o0, &scores[at], S_LINE);
                coopStoreT(o1, &scores[at + 4u], S_LINE);
                subgroupBarrier();
                for (var i = 0u; i < 4u; i += 1u) {
                    scores[own + i] *= shrink;
                }
                subgroupBarrier();
                o0 = coopLoadT<Sums>(&scores[at], S_LINE);
                o1 = coopLoadT<Sums>(&scores[at + 4u], S_LINE);
                subgroupBarrier();
                if D_V > 32u {
                    coopStoreT(o2, &scores[at], S_LINE);
                    coopStoreT(o3, &scores[at + 4u], S_LINE);
                    subgroupBarrier();
                    for (var i = 0u; i < 4u; i += 1u) {
                        scores[own + i] *= shrink;
                    }
                    subgroupBarrier();
                    o2 = coopLoadT<Sums>(&scores[at], S_LINE);
                    o3 = coopLoadT<Sums>(&scores[at + 4u], S_LINE);
                    subgroupBarrier();
                }
                if D_V > 64u {
                    coopStoreT(o4, &scores[at], S_LINE);
                    coopStoreT(o5, &scores[at + 4u], S_LINE);
                    subgroupBarrier();
                    for (var i = 0u; i < 4u; i += 1u) {
                        scores[own + i] *= shrink;
                    }
                    subgroupBarrier();
                    o4 = coopLoadT<Sums>(&scores[at], S_LINE);
                    o5 = coopLoadT<Sums>(&scores[at + 4u], S_LINE);
                    subgroupBarrier();
                }
                if D_V > 96u {
                    coopStoreT(o6, &scores[at], S_LINE);
                    coopStoreT(o7, &scores[at + 4u], S_LINE);
                    subgroupBarrier();
                    for (var i = 0u; i < 4u; i += 1u) {
                        scores[own + i] *= shrink;
                    }
                    subgroupBarrier();
                    o6 = coopLoadT<Sums>(&scores[at], S_LINE);
                    o7 = coopLoadT<Sums>(&scores[at + 4u], S_LINE);
                    subgroupBarrier();
                }
            }
            total *= shrink;
            most = raised;
            var sum = vec4(0.0);
            for (var i = 0u; i < 4u; i += 1u) {
                x[i] = select(exp2(x[i] - most), vec4(0.0), x[i] <= vec4(NONE));
                sum += x[i];
            }
            total += sum.x + sum.y + sum.z + sum.w;
            for (var i = 0u; i < 4u; i += 1u) {
                queries[row * K_LINE + half_row * 4u + i] = vec4<f16>(x[i]);
            }
            subgroupBarrier();
            let w0 = coopLoadT<Left>(&queries[first * K_LINE], K_LINE);
            let w1 = coopLoadT<Left>(&queries[first * K_LINE + 4u], K_LINE);
            o0 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[0u], V_LINE), o0);
            o0 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 0u], V_LINE), o0);
            if D_V > 16u {
                o1 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[4u], V_LINE), o1);
                o1 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 4u], V_LINE), o1);
            }
            if D_V > 32u {
                o2 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[8u], V_LINE), o2);
                o2 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 8u], V_LINE), o2);
            }
            if D_V > 48u {
                o3 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[12u], V_LINE), o3);
                o3 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 12u], V_LINE), o3);
            }
            if D_V > 64u {
                o4 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[16u], V_LINE), o4);
                o4 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 16u], V_LINE), o4);
            }
            if D_V > 80u {
                o5 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[20u], V_LINE), o5);
                o5 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 20u], V_LINE), o5);
            }
            if D_V > 96u {
                o6 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[24u], V_LINE), o6);
                o6 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 24u], V_LINE), o6);
            }
            if D_V > 112u {
                o7 = coopMultiplyAdd(w0, coopLoadT<Right>(&values[28u], V_LINE), o7);
                o7 = coopMultiplyAdd(w1, coopLoadT<Right>(&values[16u * V_LINE + 28u], V_LINE), o7);
            }
        }
        workgroupBarrier();
    }

    total += subgroupShuffleXor(total, 1u);
    let h = head + row % HEADS;
    let place = token * p.ne.z + h;
    var to = p.out.x + place * D_V;
    var weight = 0.0;
    if p.out.y != 0u {
        to = p.out.y - 1u + (place * p.out.z + group.z) * (D_V + 2u);
        weight = 1.0;
        if half_row == 0u && token < p.q.w {
            set_number(to, most / LOG2E);
            set_number(to + 1u, total);
        }
        to += 2u;
    } else {
        var shrink = 1.0;
        if p.out.w != 0u {
            let sink = bitcast<f32>(weight_word(p.out.w - 1u + h)) * LOG2E;
            let top = max(most, sink);
            shrink = exp2(most - top);
            total = total * shrink + exp2(sink - top);
        }
        weight = select(0.0, shrink / total, total > 0.0);
    }

    coopStoreT(o0, &scores[at], S_LINE);
    coopStoreT(o1, &scores[at + 4u], S_LINE);
    subgroupBarrier();
    put(to, 0u + 16u * half_row, own, weight, token);
    subgroupBarrier();
    if D_V > 32u {
        coopStoreT(o2, &scores[at], S_LINE);
        coopStoreT(o3, &scores[at + 4u], S_LINE);
        subgroupBarrier();
        put(to, 32u + 16u * half_row, own, weight, token);
        subgroupBarrier();
    }
    if D_V > 64u {
        coopStoreT(o4, &scores[at], S_LINE);
        coopStoreT(o5, &scores[at + 4u], S_LINE);
        subgroupBarrier();
        put(to, 64u + 16u * half_row, own, weight, token);
        subgroupBarrier();
    }
    if D_V > 96u {
        coopStoreT(o6, &scores[at], S_LINE);
        coopStoreT(o7, &scores[at + 4u], S_LINE);
        subgroupBarrier();
        put(to, 96u + 16u * half_row, own, weight, token);
        subgroupBarrier();
    }
}

// Sixteen sums of a row to the result.
fn put(to: u32, d: u32, own: u32, weight: f32, token: u32) {
    if d >= D_V || token >= p.q.w {
        return;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let x = scores[own + i] * weight;
        if p.out.y == 0u {
            arena[(to + d) / 4u + i] = x;
        } else {
            for (var j = 0u; j < 4u; j += 1u) {
                set_number(to + d + 4u * i + j, x[j]);
            }
        }
    }
}
