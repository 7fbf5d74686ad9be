// Attention of single tokens over a cache by cooperative matrices: HEADS query heads that share a key head are the first rows
// of a matrix of 16. A subgroup goes along the rows of the cache 32 at a time, waits for no other, and loads the next 16 rows of
// keys or values while it multiplies those before. Scores, weights as halves and the rare scaling of sums are as in
// `attention_coop`. Subgroups of a workgroup are joined at the end, parts of the rows by the workgroup that is ready last. A
// token's own row is stored by the first part, which attends over it apart from the others.

const TEAMS: u32 = WG / 32;
const KEYS: u32 = 32;
// The token's own row leaves a sum of its own.
const SUMS: u32 = TEAMS + OWN;
const SUMS_LINE: u32 = 16 * S_LINE;
const ALIGN: u32 = KEYS;
const ROUND: u32 = KEYS * TEAMS;
// Vectors from one row to the next, of keys, values and queries, of weights, of scores: rows begin in different banks.
const LINE: u32 = D / 4 + 2;
const W_LINE: u32 = KEYS / 4 + 2;
const S_LINE: u32 = KEYS / 4 + 1;
// Pieces of 16 rows that are on their way at a time: registers have room for more where elements are bytes.
const AHEAD: u32 = select(2u, 1u, K_TYPE == 2u && V_TYPE == 2u);
const LOG2E: f32 = 1.4426950408889634;
const SLACK: f32 = 8.0;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Products = coop_mat16x16<f32, C>;

// Of each subgroup: 16 rows of keys or values; weights of 16 queries. The first begins with the queries. Its scores lie where it leaves its sums in the end.
var<workgroup> tiles: array<vec4<f16>, TEAMS * 16 * LINE>;
var<workgroup> weighed: array<vec4<f16>, TEAMS * 16 * W_LINE>;

// The rows seen of 32 from `base` on, a multiple of 32, as bits; not the token's own, which is not in the cache yet.
fn seen(w: Task, base: u32, own: u32) -> u32 {
    let low = clamp(w.visible.start, base, base + KEYS) - base;
    let high = clamp(w.end, base, base + KEYS) - base;
    if low >= high {
        return 0u;
    }
    var bits = (0xffffffffu >> (KEYS - (high - low))) << low;
    if w.visible.bits != 0xffffffffu {
        bits &= constants[w.visible.bits + (base - (w.visible.start & ~63u)) / 32u];
    }
    if OWN == 1u && own - base < KEYS {
        bits &= ~(1u << (own - base));
    }
    return bits;
}

// The next step of a subgroup, from `base` on, that has rows to be seen.
fn next_seen(w: Task, base: u32, own: u32) -> u32 {
    var next = base;
    while next < w.end && seen(w, next, own) == 0u {
        next += ROUND;
    }
    return next;
}

// A thread's share of 16 rows of keys or values.
struct Piece {
    r0: Raw,
    r1: Raw,
    r2: Raw,
    r3: Raw,
    r4: Raw,
    r5: Raw,
    r6: Raw,
    r7: Raw,
}

// A thread's place in the rows of keys, of values.
fn keys_at(w: Task, lane: u32) -> u32 {
    return p.k.x + w.kv * p.k.y + 8u * (lane % LANES);
}

fn values_at(w: Task, lane: u32) -> u32 {
    return p.v.x + w.kv * p.v.y + 8u * (lane % LANES);
}

// Rows that 32 threads have at a time.
const PASS: u32 = 256 / D;

fn take_keys(w: Task, base: u32, lane: u32) -> Piece {
    let at = keys_at(w, lane);
    let row = base + lane / LANES;
    let last = max(w.end, 1u) - 1u;
    var x: Piece;
    x.r0 = raw_key(at + min(row, last) * p.k.z);
    x.r1 = raw_key(at + min(row + 1u * PASS, last) * p.k.z);
    x.r2 = raw_key(at + min(row + 2u * PASS, last) * p.k.z);
    x.r3 = raw_key(at + min(row + 3u * PASS, last) * p.k.z);
    if D > 64u {
        x.r4 = raw_key(at + min(row + 4u * PASS, last) * p.k.z);
        x.r5 = raw_key(at + min(row + 5u * PASS, last) * p.k.z);
        x.r6 = raw_key(at + min(row + 6u * PASS, last) * p.k.z);
        x.r7 = raw_key(at + min(row + 7u * PASS, last) * p.k.z);
    }
    return x;
}

fn take_values(w: Task, base: u32, lane: u32) -> Piece {
    let at = values_at(w, lane);
    let row = base + lane / LANES;
    let last = max(w.end, 1u) - 1u;
    var x: Piece;
    x.r0 = raw_value(at + min(row, last) * p.v.z);
    x.r1 = raw_value(at + min(row + 1u * PASS, last) * p.v.z);
    x.r2 = raw_value(at + min(row + 2u * PASS, last) * p.v.z);
    x.r3 = raw_value(at + min(row + 3u * PASS, last) * p.v.z);
    if D > 64u {
        x.r4 = raw_value(at + min(row + 4u * PASS, last) * p.v.z);
        x.r5 = raw_value(at + min(row + 5u * PASS, last) * p.v.z);
        x.r6 = raw_value(at + min(row + 6u * PASS, last) * p.v.z);
        x.r7 = raw_value(at + min(row + 7u * PASS, last) * p.v.z);
    }
    return x;
}

fn put(at: u32, x: Half8) {
    tiles[at] = x.a;
    tiles[at + 1u] = x.b;
}

// Leaves 16 rows of keys in the subgroup's tile.
fn put_keys(w: Task, tile: u32, lane: u32, x: Piece) {
    let from_ = keys_at(w, lane);
    let at = tile + lane / LANES * LINE + lane % LANES * 2u;
    put(at, key_halves(x.r0, from_));
    put(at + 1u * PASS * LINE, key_halves(x.r1, from_));
    put(at + 2u * PASS * LINE, key_halves(x.r2, from_));
    put(at + 3u * PASS * LINE, key_halves(x.r3, from_));
    if D > 64u {
        put(at + 4u * PASS * LINE, key_halves(x.r4, from_));
        put(at + 5u * PASS * LINE, key_halves(x.r5, from_));
        put(at + 6u * PASS * LINE, key_halves(x.r6, from_));
        put(at + 7u * PASS * LINE, key_halves(x.r7, from_));
    }
}

// Leaves 16 rows of values in the subgroup's tile.
fn put_values(w: Task, tile: u32, lane: u32, x: Piece) {
    let from_ = values_at(w, lane);
    let at = tile + lane / LANES * LINE + lane % LANES * 2u;
    put(at, value_halves(x.r0, from_));
    put(at + 1u * PASS * LINE, value_halves(x.r1, from_));
    put(at + 2u * PASS * LINE, value_halves(x.r2, from_));
    put(at + 3u * PASS * LINE, value_halves(x.r3, from_));
    if D > 64u {
        put(at + 4u * PASS * LINE, value_halves(x.r4, from_));
        put(at + 5u * PASS * LINE, value_halves(x.r5, from_));
        put(at + 6u * PASS * LINE, value_halves(x.r6, from_));
        put(at + 7u * PASS * LINE, value_halves(x.r7, from_));
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    // Position and rows are asked for before anybody waits for the mask.
    var own = Rows(0xffffffffu, 0xffffffffu);
    if OWN == 1u {
        own = own_rows();
        find_turns(lid % LANES, i32(arena_word(p.rope.z)));
    }
    let w = task(group);
    if w.part >= w.used {
        return;
    }
    attend(w, own, lid, place);
    finish(w, lid);
}

// Leaves the sums of a part of the rows.
fn attend(w: Task, own: Rows, lid: u32, place: u32) {
    let lane = lid % 32u;
    let team = lid / 32u;
    // A run of LANES threads has a head where heads are prepared.
    let head_lane = lid % LANES;
    let tile = team * 16u * LINE;
    let weights_at = team * 16u * W_LINE;
    let scores_at = team * SUMS_LINE;

    var base = w.start + team * KEYS;
    var k0 = take_keys(w, base, lane);
    var k1: Piece;
    var v0: Piece;
    var v1: Piece;
    if w.visible.bits != 0xffffffffu {
        base = next_seen(w, base, own.k);
        k0 = take_keys(w, base, lane);
    }
    if AHEAD == 2u {
        k1 = take_keys(w, base + 16u, lane);
    }

    // Queries as halves. What lies in the others of the 16 rows reaches rows of scores and sums that nobody looks at.
    let by = select(LOG2E, 1.0, p.x.y > 0.0);
    let q = query(lid / LANES, w, head_lane, place);
    if lid / LANES < HEADS {
        tiles[lid / LANES * LINE + 2u * head_lane] = half4(q.a * by);
        tiles[lid / LANES * LINE + 2u * head_lane + 1u] = half4(q.b * by);
    }
    if OWN == 1u {
        own_sums(w, own, q, lid, place);
    }
    workgroupBarrier();

    var q0 = Left();
    var q1 = Left();
    var q2 = Left();
    var q3 = Left();
    var q4 = Left();
    var q5 = Left();
    var q6 = Left();
    var q7 = Left();
    q0 = coopLoadT<Left>(&tiles[0u], LINE);
    q1 = coopLoadT<Left>(&tiles[4u], LINE);
    q2 = coopLoadT<Left>(&tiles[8u], LINE);
    q3 = coopLoadT<Left>(&tiles[12u], LINE);
    if D > 64u {
        q4 = coopLoadT<Left>(&tiles[16u], LINE);
        q5 = coopLoadT<Left>(&tiles[20u], LINE);
        q6 = coopLoadT<Left>(&tiles[24u], LINE);
        q7 = coopLoadT<Left>(&tiles[28u], LINE);
    }
    workgroupBarrier();
    var o0 = Products();
    var o1 = Products();
    var o2 = Products();
    var o3 = Products();
    var o4 = Products();
    var o5 = Products();
    var o6 = Products();
    var o7 = Products();
    // A thread has four scores of a query: rows 4 * (lane % 8) and so on of 32. Its query's maximum, its part of the sum.
    let h = lane / 8u;
    let mine = scores_at + h * S_LINE + lane % 8u;
    var most = NONE;
    var total = 0.0;
    while base < w.end {
        let bits = select(0u, seen(w, base, own.k), h < HEADS);
        put_keys(w, tile, lane, k0);
        if AHEAD == 2u {
            v0 = take_values(w, base, lane);
        } else {
            k1 = take_keys(w, base + 16u, lane);
        }
        subgroupBarrier();
        var s0 = Products();
        s0 = coopMultiplyAdd(q0, coopLoad<Right>(&tiles[tile + 0u], LINE), s0);
        s0 = coopMultiplyAdd(q1, coopLoad<Right>(&tiles[tile + 4u], LINE), s0);
        s0 = coopMultiplyAdd(q2, coopLoad<Right>(&tiles[tile + 8u], LINE), s0);
        s0 = coopMultiplyAdd(q3, coopLoad<Right>(&tiles[tile + 12u], LINE), s0);
        if D > 64u {
            s0 = coopMultiplyAdd(q4, coopLoad<Right>(&tiles[tile + 16u], LINE), s0);
            s0 = coopMultiplyAdd(q5, coopLoad<Right>(&tiles[tile + 20u], LINE), s0);
            s0 = coopMultiplyAdd(q6, coopLoad<Right>(&tiles[tile + 24u], LINE), s0);
            s0 = coopMultiplyAdd(q7, coopLoad<Right>(&tiles[tile + 28u], LINE), s0);
        }
        coopStoreT(s0, &sums[scores_at], S_LINE);
        subgroupBarrier();
        put_keys(w, tile, lane, k1);
        if AHEAD == 2u {
            v1 = take_values(w, base + 16u, lane);
        } else {
            v0 = take_values(w, base, lane);
        }
        subgroupBarrier();
        var s1 = Products();
        s1 = coopMultiplyAdd(q0, coopLoad<Right>(&tiles[tile + 0u], LINE), s1);
        s1 = coopMultiplyAdd(q1, coopLoad<Right>(&tiles[tile + 4u], LINE), s1);
        s1 = coopMultiplyAdd(q2, coopLoad<Right>(&tiles[tile + 8u], LINE), s1);
        s1 = coopMultiplyAdd(q3, coopLoad<Right>(&tiles[tile + 12u], LINE), s1);
        if D > 64u {
            s1 = coopMultiplyAdd(q4, coopLoad<Right>(&tiles[tile + 16u], LINE), s1);
            s1 = coopMultiplyAdd(q5, coopLoad<Right>(&tiles[tile + 20u], LINE), s1);
            s1 = coopMultiplyAdd(q6, coopLoad<Right>(&tiles[tile + 24u], LINE), s1);
            s1 = coopMultiplyAdd(q7, coopLoad<Right>(&tiles[tile + 28u], LINE), s1);
        }
        coopStoreT(s1, &sums[scores_at + 4u], S_LINE);
        subgroupBarrier();
        put_values(w, tile, lane, v0);
        // Asked for before anybody looks whether they are seen: loads behind a branch would come late.
        if AHEAD == 2u {
            k0 = take_keys(w, base + ROUND, lane);
        } else {
            v1 = take_values(w, base + 16u, lane);
        }
        var s = sums[mine];
        if p.x.y > 0.0 {
            s = LOG2E * p.x.y * tanh(clamp(s / p.x.y, vec4(-20.0), vec4(20.0)));
        }
        s = select(vec4(NONE), s, (vec4(bits >> (lane % 8u * 4u)) & vec4(1u, 2u, 4u, 8u)) != vec4(0u));
        var top = max(max(s.x, s.y), max(s.z, s.w));
        top = max(top, subgroupShuffleXor(top, 1u));
        top = max(top, subgroupShuffleXor(top, 2u));
        top = max(top, subgroupShuffleXor(top, 4u));
        let raise = top > most + SLACK;
        let raised = select(most, top, raise);
        let shrink = exp2(most - raised);
        subgroupBarrier();
        if subgroupAny(raise && most > NONE) {
            coopStoreT(o0, &sums[scores_at], S_LINE);
            coopStoreT(o1, &sums[scores_at + 4u], S_LINE);
            subgroupBarrier();
            sums[mine] *= shrink;
            subgroupBarrier();
            o0 = coopLoadT<Products>(&sums[scores_at], S_LINE);
            o1 = coopLoadT<Products>(&sums[scores_at + 4u], S_LINE);
            subgroupBarrier();
            coopStoreT(o2, &sums[scores_at], S_LINE);
            coopStoreT(o3, &sums[scores_at + 4u], S_LINE);
            subgroupBarrier();
            sums[mine] *= shrink;
            subgroupBarrier();
            o2 = coopLoadT<Products>(&sums[scores_at], S_LINE);
            o3 = coopLoadT<Products>(&sums[scores_at + 4u], S_LINE);
            subgroupBarrier();
            if D > 64u {
                coopStoreT(o4, &sums[scores_at], S_LINE);
                coopStoreT(o5, &sums[scores_at + 4u], S_LINE);
                subgroupBarrier();
                sums[mine] *= shrink;
                subgroupBarrier();
                o4 = coopLoadT<Products>(&sums[scores_at], S_LINE);
                o5 = coopLoadT<Products>(&sums[scores_at + 4u], S_LINE);
                subgroupBarrier();
                coopStoreT(o6, &sums[scores_at], S_LINE);
                coopStoreT(o7, &sums[scores_at + 4u], S_LINE);
                subgroupBarrier();
                sums[mine] *= shrink;
                subgroupBarrier();
                o6 = coopLoadT<Products>(&sums[scores_at], S_LINE);
                o7 = coopLoadT<Products>(&sums[scores_at + 4u], S_LINE);
                subgroupBarrier();
            }
        }
        total *= shrink;
        most = raised;
        s = select(exp2(s - most), vec4(0.0), s <= vec4(NONE));
        total += s.x + s.y + s.z + s.w;
        weighed[weights_at + h * W_LINE + lane % 8u] = vec4<f16>(s);
        subgroupBarrier();
        let w0 = coopLoadT<Left>(&weighed[weights_at], W_LINE);
        let w1 = coopLoadT<Left>(&weighed[weights_at + 4u], W_LINE);
        o0 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 0u], LINE), o0);
        o1 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 4u], LINE), o1);
        o2 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 8u], LINE), o2);
        o3 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 12u], LINE), o3);
        if D > 64u {
            o4 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 16u], LINE), o4);
            o5 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 20u], LINE), o5);
            o6 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 24u], LINE), o6);
            o7 = coopMultiplyAdd(w0, coopLoadT<Right>(&tiles[tile + 28u], LINE), o7);
        }
        subgroupBarrier();
        put_values(w, tile, lane, v1);
        base += ROUND;
        if AHEAD == 2u {
            k1 = take_keys(w, base + 16u, lane);
        } else {
            k0 = take_keys(w, base, lane);
        }
        if w.visible.bits != 0xffffffffu {
            let next = next_seen(w, base, own.k);
            if next != base {
                base = next;
                k0 = take_keys(w, base, lane);
                if AHEAD == 2u {
                    k1 = take_keys(w, base + 16u, lane);
                }
            }
        }
        subgroupBarrier();
        o0 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 0u], LINE), o0);
        o1 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 4u], LINE), o1);
        o2 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 8u], LINE), o2);
        o3 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 12u], LINE), o3);
        if D > 64u {
            o4 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 16u], LINE), o4);
            o5 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 20u], LINE), o5);
            o6 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 24u], LINE), o6);
            o7 = coopMultiplyAdd(w1, coopLoadT<Right>(&tiles[tile + 28u], LINE), o7);
        }
        subgroupBarrier();
    }

    // The sums of the first rows, out of the matrices: scores make place for them.
    total += subgroupShuffleXor(total, 1u);
    total += subgroupShuffleXor(total, 2u);
    total += subgroupShuffleXor(total, 4u);
    coopStoreT(o0, &sums[scores_at], S_LINE);
    coopStoreT(o1, &sums[scores_at + 4u], S_LINE);
    subgroupBarrier();
    let x0 = sums[mine];
    subgroupBarrier();
    coopStoreT(o2, &sums[scores_at], S_LINE);
    coopStoreT(o3, &sums[scores_at + 4u], S_LINE);
    subgroupBarrier();
    let x1 = sums[mine];
    subgroupBarrier();
    var x2 = vec4(0.0);
    var x3 = vec4(0.0);
    if D > 64u {
        coopStoreT(o4, &sums[scores_at], S_LINE);
        coopStoreT(o5, &sums[scores_at + 4u], S_LINE);
        subgroupBarrier();
        x2 = sums[mine];
        subgroupBarrier();
        coopStoreT(o6, &sums[scores_at], S_LINE);
        coopStoreT(o7, &sums[scores_at + 4u], S_LINE);
        subgroupBarrier();
        x3 = sums[mine];
        subgroupBarrier();
    }
    if h < HEADS {
        let left = scores_at + h * (D / 4u) + lane % 8u;
        sums[left] = x0;
        sums[left + 8u] = x1;
        if D > 64u {
            sums[left + 16u] = x2;
            sums[left + 24u] = x3;
        }
        if lane % 8u == 0u {
            stats[team * HEADS + h] = vec2(most / LOG2E, total);
        }
    }
}

// Stores the token's own row, and leaves what it adds, if the token sees it, as the last sum: LANES threads for each head, which
// store the same.
fn own_sums(w: Task, own: Rows, q: Eight, lid: u32, place: u32) {
    let h = lid / LANES;
    let lane = lid % LANES;
    if h >= HEADS {
        return;
    }
    var s = NONE;
    var value = Eight(vec4(0.0), vec4(0.0));
    if w.part == 0u {
        if own.k != 0xffffffffu {
            let key = store_key(own.k, w.kv, lane, place);
            s = sum_from(dot(key.a, q.a) + dot(key.b, q.b), 1u);
            if p.x.y > 0.0 {
                s = p.x.y * tanh(clamp(s / p.x.y, -20.0, 20.0));
            }
            s = select(NONE, s, sees(w.visible, own.k));
        }
        if own.v != 0xffffffffu {
            value = store_value(own.v, w.kv, lane);
        }
    }
    let left = TEAMS * SUMS_LINE + h * (D / 4u) + 2u * lane;
    sums[left] = value.a;
    sums[left + 1u] = value.b;
    if lane == 0u {
        stats[TEAMS * HEADS + h] = vec2(s, select(0.0, 1.0, s > NONE));
    }
}
