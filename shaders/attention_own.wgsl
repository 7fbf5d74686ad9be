// A single token's heads, prepared by `attention_few` itself: queries where they are read; its key and value by the team
// whose rows they are among, which stores them and goes on with what it stored. A thread has eight elements of a head.

// Rotations of the pairs of a thread's elements: cosines and sines of its first four and its last four elements, or of its
// four pairs of neighbours.
struct Turns {
    ca: vec4<f32>,
    sa: vec4<f32>,
    cb: vec4<f32>,
    sb: vec4<f32>,
}

var<private> turns: Turns;

fn find_turn(i: u32, lane: u32, pairs: u32, pos: i32) -> vec2<f32> {
    let pair = select(4u * lane + i, (8u * lane + i) % pairs, p.rope.y == 2u);
    return rotation(p.rope.w, pairs, min(pair, pairs - 1u), pos);
}

// Prepares `turns` for the token's position.
fn find_turns(lane: u32, pos: i32) {
    if p.rope.y == 0u {
        return;
    }
    let n = p.rope.x / 2u;
    let z0 = find_turn(0u, lane, n, pos);
    let z1 = find_turn(1u, lane, n, pos);
    let z2 = find_turn(2u, lane, n, pos);
    let z3 = find_turn(3u, lane, n, pos);
    turns.ca = vec4(z0.x, z1.x, z2.x, z3.x);
    turns.sa = vec4(z0.y, z1.y, z2.y, z3.y);
    if p.rope.y == 2u {
        let z4 = find_turn(4u, lane, n, pos);
        let z5 = find_turn(5u, lane, n, pos);
        let z6 = find_turn(6u, lane, n, pos);
        let z7 = find_turn(7u, lane, n, pos);
        turns.cb = vec4(z4.x, z5.x, z6.x, z7.x);
        turns.sb = vec4(z4.y, z5.y, z6.y, z7.y);
    }
}

// Two pairs of neighbours.
fn turn_neighbours(x: vec4<f32>, c: vec2<f32>, s: vec2<f32>) -> vec4<f32> {
    return vec4(x.x * c.x - x.y * s.x, x.x * s.x + x.y * c.x, x.z * c.y - x.w * s.y, x.z * s.y + x.w * c.y);
}

fn shuffle4(x: vec4<f32>, from_: u32) -> vec4<f32> {
    return vec4(subgroupShuffle(x.x, from_), subgroupShuffle(x.y, from_), subgroupShuffle(x.z, from_), subgroupShuffle(x.w, from_));
}

// A head normalized, rotated and scaled. `weight`: offset of its norm's weight plus two, 1: a norm without, 0: none.
fn prepared(head: Eight, weight: u32, eps: f32, scale: f32, lane: u32, place: u32) -> Eight {
    var x = head;
    if weight != 0u {
        let squares = sum_from(dot(x.a, x.a) + dot(x.b, x.b), 1u);
        let by = inverseSqrt(squares / f32(D) + eps);
        x = Eight(x.a * by, x.b * by);
        if weight > 1u {
            let at = weight - 2u + 8u * lane;
            x.a *= vec4(number_at(WEIGHTS, at), number_at(WEIGHTS, at + 1u), number_at(WEIGHTS, at + 2u), number_at(WEIGHTS, at + 3u));
            x.b *= vec4(number_at(WEIGHTS, at + 4u), number_at(WEIGHTS, at + 5u), number_at(WEIGHTS, at + 6u), number_at(WEIGHTS, at + 7u));
        }
    }
    if p.rope.y == 1u && 8u * lane < p.rope.x {
        x = Eight(turn_neighbours(x.a, turns.ca.xy, turns.sa.xy), turn_neighbours(x.b, turns.ca.zw, turns.sa.zw));
    }
    if p.rope.y == 2u {
        let half = p.rope.x / 16u;
        let late = lane >= half;
        let partner = place - lane + select(lane, select(lane + half, lane - half, late), 8u * lane < p.rope.x);
        let ya = shuffle4(x.a, partner);
        let yb = shuffle4(x.b, partner);
        if 8u * lane < p.rope.x {
            let sign = select(-1.0, 1.0, late);
            x = Eight(x.a * turns.ca + sign * ya * turns.sa, x.b * turns.cb + sign * yb * turns.sb);
        }
    }
    return Eight(x.a * scale, x.b * scale);
}

fn source8(at: u32) -> Eight {
    return Eight(bitcast<vec4<f32>>(arena[at / 4u]), bitcast<vec4<f32>>(arena[at / 4u + 1u]));
}

// Where a token's key and value go.
struct Rows {
    k: u32,
    v: u32,
}

// Rows beyond a state are stored nowhere.
fn own_rows() -> Rows {
    let k = arena_word(p.rows.x);
    let v = arena_word(p.rows.y);
    return Rows(select(0xffffffffu, k, k < p.rows.z), select(0xffffffffu, v, v < p.rows.w));
}

// Stores the token's key, and gives what the cache holds then.
fn store_key(row: u32, kv: u32, lane: u32, place: u32) -> Eight {
    let key = prepared(source8(p.own.x + kv * p.own.y + 8u * lane), p.norms.y, p.own_x.y, p.own_x.z, lane, place);
    return store_key8(p.k.x + kv * p.k.y + row * p.k.z + 8u * lane, p.k.w, key);
}

fn store_value(row: u32, kv: u32, lane: u32) -> Eight {
    return store_value8(p.v.x + kv * p.v.y + row * p.v.z + 8u * lane, p.v.w, source8(p.own.z + kv * p.own.w + 8u * lane));
}

// Stores what the token does not see itself.
fn store_unseen(own: Rows, kv: u32, visible: Visible, lane: u32, place: u32) {
    if own.k != 0xffffffffu && (own.k < visible.start || own.k >= visible.end) {
        let key = store_key(own.k, kv, lane, place);
    }
    if own.v != 0xffffffffu && (own.v < visible.start || own.v >= visible.end) {
        let value = store_value(own.v, kv, lane);
    }
}
