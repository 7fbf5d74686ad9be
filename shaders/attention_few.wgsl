// Attention of few tokens over a cache, read once for HEADS query heads that share it. A team of D / 8 threads goes along the
// rows of the cache two at a time with a running maximum of its own: a thread has eight elements of a row, 16 bytes of f16.
// Teams of a workgroup are joined at the end, parts of the rows by the workgroup that is ready last.

const TEAMS: u32 = WG / LANES;
// Rows of a team's step. What belongs to a row or a head has names of its own below, no place in an array: compilers keep
// arrays in memory where they do not unroll every loop around them.
const STEP: u32 = 2;
const SUMS: u32 = TEAMS;
const SUMS_LINE: u32 = WORDS;
const ALIGN: u32 = 1;
const ROUND: u32 = STEP * TEAMS;

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

fn key8(at: u32, scales: u32) -> Eight {
    return open_key8(raw_key8(at, scales), at);
}

fn value8(at: u32, scales: u32) -> Eight {
    return open_value8(raw_value8(at, scales), at);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    let lane = lid % LANES;
    let team = lid / LANES;

    // Position and rows are asked for before anybody waits for the mask.
    var own = Rows(0xffffffffu, 0xffffffffu);
    if OWN == 1u {
        own = own_rows();
        find_turns(lane, i32(arena_word(p.rope.z)));
    }

    let w = task(group);
    if w.part >= w.used {
        return;
    }
    let visible = w.visible;
    let end = w.end;

    if OWN == 1u {
        if w.part == 0u && team == 0u {
            store_unseen(own, w.kv, visible, lane, place);
        }
    }
    var q: Heads;
    let q0 = query(0u, w, lane, place);
    q.a0 = q0.a;
    q.b0 = q0.b;
    if HEADS > 1u {
        let q1 = query(1u, w, lane, place);
        q.a1 = q1.a;
        q.b1 = q1.b;
    }
    if HEADS > 2u {
        let q2 = query(2u, w, lane, place);
        q.a2 = q2.a;
        q.b2 = q2.b;
        let q3 = query(3u, w, lane, place);
        q.a3 = q3.a;
        q.b3 = q3.b;
    }
    let my_head = w.head + min(lane % HEADS, w.n_heads - 1u);
    // Head `h` is with the thread of that number in every run of HEADS.
    let from_ = place / LANES * LANES;
    var most = NONE;
    var weight = 0.0;
    var sum: Heads;
    let k_at = p.k.x + w.kv * p.k.y + 8u * lane;
    let v_at = p.v.x + w.kv * p.v.y + 8u * lane;
    for (var base = w.start + team * STEP; base < end; base += TEAMS * STEP) {
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
            let key = store_key(own.k, w.kv, lane, place);
            if own.k == base {
                k0 = key;
            } else {
                k1 = key;
            }
        }
        if OWN == 1u && own.v - base < STEP && own.v < end {
            let value = store_value(own.v, w.kv, lane);
            if own.v == base {
                v0 = value;
            } else {
                v1 = value;
            }
        }
        let s0 = score(k0, q, base, end, visible, my_head, w.t, lane);
        let s1 = score(k1, q, base + 1u, end, visible, my_head, w.t, lane);
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
    finish(w, lid);
}
