// Attention of many queries of a prompt by cooperative matrices: as `attention_coop`, but a workgroup has 128 queries, for heads
// of 64 or 128 elements. Values are on their way from memory while scores are made, the next keys while values are added up.
// Where a maximum is raised, the inner loop ends and the step begins anew: sums that no branch inside of the loop touches stay
// where they are, else they are copied with every step.

const WG: u32 = 256;
const ROWS: u32 = 128;
const TOKENS: u32 = ROWS / HEADS;
const KEYS: u32 = 32;
// Pieces of eight elements of a row of keys, of values.
const K_UNITS: u32 = D_K / 8;
const V_UNITS: u32 = D_V / 8;
// Vectors from one row to the next: rows begin in different banks.
const K_LINE: u32 = D_K / 4 + 2;
const V_LINE: u32 = D_V / 4 + 2;
const S_LINE: u32 = 10;
const NONE: f32 = -1.0e30;
const LOG2E: f32 = 1.4426950408889634;
const SLACK: f32 = 8.0;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

// Rows of keys and of values; first the queries, half of them at a time.
const V_AT: u32 = KEYS * K_LINE;
var<workgroup> tile: array<vec4<f16>, max(64 * K_LINE, KEYS * (K_LINE + V_LINE))>;
// Of each subgroup 16 rows: weights, and scores. Halves come first: after numbers of f32 NVIDIA's compiler loads other matrices.
var<workgroup> halves: array<vec4<f16>, ROWS * S_LINE>;
var<workgroup> scores: array<vec4<f32>, ROWS * S_LINE>;
// Whether a maximum is to be raised in this step, and in the next.
var<workgroup> raises: array<u32, 2>;

// Whether any of `n` tokens, whose lanes hold what they see, sees a row of the step from `base` on.
fn is_seen(s: Seen, n: u32, base: u32) -> bool {
    var any = 0u;
    for (var t = 0u; t < n; t += 1u) {
        any |= visible(Seen(subgroupShuffle(s.start, t), subgroupShuffle(s.end, t), subgroupShuffle(s.bits, t)), base);
    }
    return any != 0u;
}

fn capped(s: vec4<f32>) -> vec4<f32> {
    return LOG2E * p.x.y * tanh(clamp(s / p.x.y, vec4(-20.0), vec4(20.0)));
}

fn masked(s: vec4<f32>, bits: u32) -> vec4<f32> {
    return select(vec4(NONE), s, (vec4(bits) & vec4(1u, 2u, 4u, 8u)) != vec4(0u));
}

// What a lane has of the scores of a row, capped, and without those that its token does not see.
fn treat(own: u32, bits: u32) {
    for (var i = 0u; i < 4u; i += 1u) {
        var s = scores[own + 2u * i];
        if p.x.y > 0.0 {
            s = capped(s);
        }
        scores[own + 2u * i] = masked(s, bits >> (8u * i));
    }
}

// Multiplies what a lane has of 32 sums of a row.
fn scale_scores(own: u32, factor: f32) {
    subgroupBarrier();
    for (var i = 0u; i < 8u; i += 2u) {
        scores[own + i] *= factor;
    }
    subgroupBarrier();
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

    // The row of scores that a lane weighs, every second vector of it; its maximum and sum.
    let first = lid / 32u * 16u;
    let row = first + lane / 2u;
    let odd = lane % 2u;
    let token = first_token + row / HEADS;
    let mine = seen_by(token);
    let at = first * S_LINE;
    let at_next = at + 4u;
    let own = row * S_LINE + odd;
    var most = NONE;
    var total = 0.0;
    var top = NONE;
    if lid < 2u {
        raises[lid] = 0u;
    }

    var q0 = Left();
    var q1 = Left();
    var q2 = Left();
    var q3 = Left();
    var q4 = Left();
    var q5 = Left();
    var q6 = Left();
    var q7 = Left();
    for (var i = lid; i < 64u * K_UNITS; i += WG) {
        let row = 0u + i / K_UNITS;
        let t = min(first_token + row / HEADS, p.q.w - 1u);
        let at = (p.q.x + (head + row % HEADS) * p.q.y + t * p.q.z) / 4u + i % K_UNITS * 2u;
        tile[i / K_UNITS * K_LINE + i % K_UNITS * 2u] = half4(arena[at] * scale);
        tile[i / K_UNITS * K_LINE + i % K_UNITS * 2u + 1u] = half4(arena[at + 1u] * scale);
    }
    workgroupBarrier();
    if first / 64u == 0u {
        q0 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 0u], K_LINE);
        if D_K > 16u {
            q1 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 4u], K_LINE);
        }
        if D_K > 32u {
            q2 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 8u], K_LINE);
        }
        if D_K > 48u {
            q3 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 12u], K_LINE);
        }
        if D_K > 64u {
            q4 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 16u], K_LINE);
        }
        if D_K > 80u {
            q5 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 20u], K_LINE);
        }
        if D_K > 96u {
            q6 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 24u], K_LINE);
        }
        if D_K > 112u {
            q7 = coopLoadT<Left>(&tile[(first - 0u) * K_LINE + 28u], K_LINE);
        }
    }
    workgroupBarrier();
    for (var i = lid; i < 64u * K_UNITS; i += WG) {
        let row = 64u + i / K_UNITS;
        let t = min(first_token + row / HEADS, p.q.w - 1u);
        let at = (p.q.x + (head + row % HEADS) * p.q.y + t * p.q.z) / 4u + i % K_UNITS * 2u;
        tile[i / K_UNITS * K_LINE + i % K_UNITS * 2u] = half4(arena[at] * scale);
        tile[i / K_UNITS * K_LINE + i % K_UNITS * 2u + 1u] = half4(arena[at + 1u] * scale);
    }
    workgroupBarrier();
    if first / 64u == 1u {
        q0 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 0u], K_LINE);
        if D_K > 16u {
            q1 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 4u], K_LINE);
        }
        if D_K > 32u {
            q2 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 8u], K_LINE);
        }
        if D_K > 48u {
            q3 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 12u], K_LINE);
        }
        if D_K > 64u {
            q4 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 16u], K_LINE);
        }
        if D_K > 80u {
            q5 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 20u], K_LINE);
        }
        if D_K > 96u {
            q6 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 24u], K_LINE);
        }
        if D_K > 112u {
            q7 = coopLoadT<Left>(&tile[(first - 64u) * K_LINE + 28u], K_LINE);
        }
    }
    var o0 = Sums();
    var o1 = Sums();
    var o2 = Sums();
    var o3 = Sums();
    var o4 = Sums();
    var o5 = Sums();
    var o6 = Sums();
    var o7 = Sums();
    workgroupBarrier();

    let keys_at = p.k.x + kv * p.k.y;
    let values_at = p.v.x + kv * p.v.y;
    // The pieces of a thread, half of them with heads of 64 elements, and where they lie: rows, and places in them.
    var k0: Half8;
    var k1: Half8;
    var v0: Half8;
    var v1: Half8;
    let k_row = lid / K_UNITS;
    let k_unit = lid % K_UNITS;
    let k_late = (WG + lid) / K_UNITS;
    let v_row = lid / V_UNITS;
    let v_unit = lid % V_UNITS;
    let v_late = (WG + lid) / V_UNITS;
    var wanted = 0u;
    var n = 0u;
    var base = 0u;
    var turn = 0u;
    // Steps that nobody sees are passed over.
    loop {
        if n >= n_steps {
            break;
        }
        if n % 32u == 0u {
            // A lane looks whether anybody sees a step; every subgroup for itself.
            let step = group.z + (n + lane) * p.out.z;
            var any = is_seen(seen, min(n_tokens, 32u), start + step * KEYS);
            if TOKENS > 32u {
                any |= is_seen(seen_late, max(n_tokens, 32u) - 32u, start + step * KEYS);
            }
            wanted = subgroupBallot(any && step < steps).x;
        }
        let rest = wanted >> (n & 31u);
        if rest != 0u {
            n += firstTrailingBit(rest);
            break;
        }
        n = (n | 31u) + 1u;
    }
    base = start + (group.z + n * p.out.z) * KEYS;
    loop {
        k0 = key8(keys_at + min(base + k_row, last) * p.k.z + k_unit * 8u, p.k.w);
        if D_K > 64u {
            k1 = key8(keys_at + min(base + k_late, last) * p.k.z + k_unit * 8u, p.k.w);
        }
        loop {
            if n >= n_steps {
                break;
            }
            tile[k_row * K_LINE + k_unit * 2u] = k0.a;
            tile[k_row * K_LINE + k_unit * 2u + 1u] = k0.b;
            if D_K > 64u {
                tile[k_late * K_LINE + k_unit * 2u] = k1.a;
                tile[k_late * K_LINE + k_unit * 2u + 1u] = k1.b;
            }
            workgroupBarrier();
            v0 = value8(values_at + min(base + v_row, last) * p.v.z + v_unit * 8u, p.v.w);
            if D_V > 64u {
                v1 = value8(values_at + min(base + v_late, last) * p.v.z + v_unit * 8u, p.v.w);
            }
            // Most steps are seen whole by everybody.
            let whole = subgroupAll(mine.bits == 0xffffffffu && mine.start <= base && mine.end >= base + KEYS);
            let treated = !whole || p.x.y > 0.0;
            turn = 1u - turn;
            if lid == 0u {
                raises[1u - turn] = 0u;
            }
            var bits = 0xffffffffu;
            if treated {
                bits = visible(mine, base);
            }
            if whole || subgroupAny(bits != 0u) {
                var s0 = Sums();
                var s1 = Sums();
                s0 = coopMultiplyAdd(q0, coopLoad<Right>(&tile[0u * K_LINE + 0u], K_LINE), s0);
                s1 = coopMultiplyAdd(q0, coopLoad<Right>(&tile[16u * K_LINE + 0u], K_LINE), s1);
                if D_K > 16u {
                    s0 = coopMultiplyAdd(q1, coopLoad<Right>(&tile[0u * K_LINE + 4u], K_LINE), s0);
                    s1 = coopMultiplyAdd(q1, coopLoad<Right>(&tile[16u * K_LINE + 4u], K_LINE), s1);
                }
                if D_K > 32u {
                    s0 = coopMultiplyAdd(q2, coopLoad<Right>(&tile[0u * K_LINE + 8u], K_LINE), s0);
                    s1 = coopMultiplyAdd(q2, coopLoad<Right>(&tile[16u * K_LINE + 8u], K_LINE), s1);
                }
                if D_K > 48u {
                    s0 = coopMultiplyAdd(q3, coopLoad<Right>(&tile[0u * K_LINE + 12u], K_LINE), s0);
                    s1 = coopMultiplyAdd(q3, coopLoad<Right>(&tile[16u * K_LINE + 12u], K_LINE), s1);
                }
                if D_K > 64u {
                    s0 = coopMultiplyAdd(q4, coopLoad<Right>(&tile[0u * K_LINE + 16u], K_LINE), s0);
                    s1 = coopMultiplyAdd(q4, coopLoad<Right>(&tile[16u * K_LINE + 16u], K_LINE), s1);
                }
                if D_K > 80u {
                    s0 = coopMultiplyAdd(q5, coopLoad<Right>(&tile[0u * K_LINE + 20u], K_LINE), s0);
                    s1 = coopMultiplyAdd(q5, coopLoad<Right>(&tile[16u * K_LINE + 20u], K_LINE), s1);
                }
                if D_K > 96u {
                    s0 = coopMultiplyAdd(q6, coopLoad<Right>(&tile[0u * K_LINE + 24u], K_LINE), s0);
                    s1 = coopMultiplyAdd(q6, coopLoad<Right>(&tile[16u * K_LINE + 24u], K_LINE), s1);
                }
                if D_K > 112u {
                    s0 = coopMultiplyAdd(q7, coopLoad<Right>(&tile[0u * K_LINE + 28u], K_LINE), s0);
                    s1 = coopMultiplyAdd(q7, coopLoad<Right>(&tile[16u * K_LINE + 28u], K_LINE), s1);
                }
                coopStoreT(s0, &scores[at], S_LINE);
                coopStoreT(s1, &scores[at_next], S_LINE);
            }
            subgroupBarrier();
            if treated {
                treat(own, bits >> (4u * odd));
            }
            var x0 = scores[own + 0u];
            var x1 = scores[own + 2u];
            var x2 = scores[own + 4u];
            var x3 = scores[own + 6u];
            subgroupBarrier();
            let top4 = max(max(x0, x1), max(x2, x3));
            top = max(max(top4.x, top4.y), max(top4.z, top4.w));
            top = max(top, subgroupShuffleXor(top, 1u));
            // A row that saw nothing before has nothing to scale; of one that still sees nothing all weights are 0.
            most = select(most, top, most <= NONE);
            if top > most + SLACK {
                raises[turn] = 1u;
            }
            let zero = select(most, 0.0, most <= NONE);
            x0 = exp2(x0 - zero);
            x1 = exp2(x1 - zero);
            x2 = exp2(x2 - zero);
            x3 = exp2(x3 - zero);
            let sum4 = (x0 + x1) + (x2 + x3);
            let sum = (sum4.x + sum4.y) + (sum4.z + sum4.w);
            halves[own + 0u] = vec4<f16>(x0);
            halves[own + 2u] = vec4<f16>(x1);
            halves[own + 4u] = vec4<f16>(x2);
            halves[own + 6u] = vec4<f16>(x3);
            subgroupBarrier();
            let w0 = coopLoadT<Left>(&halves[at], S_LINE);
            let w1 = coopLoadT<Left>(&halves[at_next], S_LINE);
            tile[V_AT + v_row * V_LINE + v_unit * 2u] = v0.a;
            tile[V_AT + v_row * V_LINE + v_unit * 2u + 1u] = v0.b;
            if D_V > 64u {
                tile[V_AT + v_late * V_LINE + v_unit * 2u] = v1.a;
                tile[V_AT + v_late * V_LINE + v_unit * 2u + 1u] = v1.b;
            }
            workgroupBarrier();
            if raises[turn] != 0u {
                break;
            }
            total += sum;
            n += 1u;
            loop {
                if n >= n_steps {
                    break;
                }
                if n % 32u == 0u {
                    // A lane looks whether anybody sees a step; every subgroup for itself.
                    let step = group.z + (n + lane) * p.out.z;
                    var any = is_seen(seen, min(n_tokens, 32u), start + step * KEYS);
                    if TOKENS > 32u {
                        any |= is_seen(seen_late, max(n_tokens, 32u) - 32u, start + step * KEYS);
                    }
                    wanted = subgroupBallot(any && step < steps).x;
                }
                let rest = wanted >> (n & 31u);
                if rest != 0u {
                    n += firstTrailingBit(rest);
                    break;
                }
                n = (n | 31u) + 1u;
            }
            base = start + (group.z + n * p.out.z) * KEYS;
            k0 = key8(keys_at + min(base + k_row, last) * p.k.z + k_unit * 8u, p.k.w);
            if D_K > 64u {
                k1 = key8(keys_at + min(base + k_late, last) * p.k.z + k_unit * 8u, p.k.w);
            }
            o0 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 0u], V_LINE), o0);
            if D_V > 16u {
                o1 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 4u], V_LINE), o1);
            }
            if D_V > 32u {
                o2 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 8u], V_LINE), o2);
            }
            if D_V > 48u {
                o3 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 12u], V_LINE), o3);
            }
            if D_V > 64u {
                o4 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 16u], V_LINE), o4);
            }
            if D_V > 80u {
                o5 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 20u], V_LINE), o5);
            }
            if D_V > 96u {
                o6 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 24u], V_LINE), o6);
            }
            if D_V > 112u {
                o7 = coopMultiplyAdd(w0, coopLoadT<Right>(&tile[V_AT + 0u * V_LINE + 28u], V_LINE), o7);
            }
            o0 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 0u], V_LINE), o0);
            if D_V > 16u {
                o1 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 4u], V_LINE), o1);
            }
            if D_V > 32u {
                o2 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 8u], V_LINE), o2);
            }
            if D_V > 48u {
                o3 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 12u], V_LINE), o3);
            }
            if D_V > 64u {
                o4 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 16u], V_LINE), o4);
            }
            if D_V > 80u {
                o5 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 20u], V_LINE), o5);
            }
            if D_V > 96u {
                o6 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 24u], V_LINE), o6);
            }
            if D_V > 112u {
                o7 = coopMultiplyAdd(w1, coopLoadT<Right>(&tile[V_AT + 16u * V_LINE + 28u], V_LINE), o7);
            }
        }
        if n >= n_steps {
            break;
        }
        let raised = select(most, top, top > most + SLACK);
        let shrink = exp2(most - raised);
        most = raised;
        total *= shrink;
        coopStoreT(o0, &scores[at], S_LINE);
        coopStoreT(o1, &scores[at_next], S_LINE);
        scale_scores(own, shrink);
        o0 = coopLoadT<Sums>(&scores[at], S_LINE);
        o1 = coopLoadT<Sums>(&scores[at_next], S_LINE);
        subgroupBarrier();
        if D_V > 32u {
            coopStoreT(o2, &scores[at], S_LINE);
            coopStoreT(o3, &scores[at_next], S_LINE);
            scale_scores(own, shrink);
            o2 = coopLoadT<Sums>(&scores[at], S_LINE);
            o3 = coopLoadT<Sums>(&scores[at_next], S_LINE);
            subgroupBarrier();
        }
        if D_V > 64u {
            coopStoreT(o4, &scores[at], S_LINE);
            coopStoreT(o5, &scores[at_next], S_LINE);
            scale_scores(own, shrink);
            o4 = coopLoadT<Sums>(&scores[at], S_LINE);
            o5 = coopLoadT<Sums>(&scores[at_next], S_LINE);
            subgroupBarrier();
        }
        if D_V > 96u {
            coopStoreT(o6, &scores[at], S_LINE);
            coopStoreT(o7, &scores[at_next], S_LINE);
            scale_scores(own, shrink);
            o6 = coopLoadT<Sums>(&scores[at], S_LINE);
            o7 = coopLoadT<Sums>(&scores[at_next], S_LINE);
            subgroupBarrier();
        }
    }

    total += subgroupShuffleXor(total, 1u);
    let h = head + row % HEADS;
    let place = token * p.ne.z + h;
    var to = p.out.x + place * D_V;
    var weight = 0.0;
    if p.out.y != 0u {
        to = p.out.y - 1u + (place * p.out.z + group.z) * (D_V + 2u);
        weight = 1.0;
        if odd == 0u && token < p.q.w {
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
    coopStoreT(o1, &scores[at_next], S_LINE);
    put(to, 0u + 4u * odd, own, weight, token);
    if D_V > 32u {
        coopStoreT(o2, &scores[at], S_LINE);
        coopStoreT(o3, &scores[at_next], S_LINE);
        put(to, 32u + 4u * odd, own, weight, token);
    }
    if D_V > 64u {
        coopStoreT(o4, &scores[at], S_LINE);
        coopStoreT(o5, &scores[at_next], S_LINE);
        put(to, 64u + 4u * odd, own, weight, token);
    }
    if D_V > 96u {
        coopStoreT(o6, &scores[at], S_LINE);
        coopStoreT(o7, &scores[at_next], S_LINE);
        put(to, 96u + 4u * odd, own, weight, token);
    }
}

// What a lane has of 32 sums of a row to the result.
fn put(to: u32, d: u32, own: u32, weight: f32, token: u32) {
    subgroupBarrier();
    for (var i = 0u; i < 8u; i += 2u) {
        let e = d + 4u * i;
        if e >= D_V || token >= p.q.w {
            continue;
        }
        let x = scores[own + i] * weight;
        if p.out.y == 0u {
            arena[(to + e) / 4u] = x;
        } else {
            for (var j = 0u; j < 4u; j += 1u) {
                set_number(to + e + j, x[j]);
            }
        }
    }
    subgroupBarrier();
}
