// A single token's heads, prepared by `attention_few` itself: queries where they are read; its key and value by the team
// whose rows they are among, which stores them and goes on with what it stored. A thread has eight elements of a head.

// Rotations of the pairs of a thread's elements: of neighbours four, of halves eight.
var<private> turns: array<vec2<f32>, 8>;

// Prepares `turns` for the token's position.
fn find_turns(lane: u32) {
    if OWN == 0u || p.rope.y == 0u {
        return;
    }
    let pos = i32(arena_word(p.rope.z));
    let pairs = p.rope.x / 2u;
    for (var i = 0u; i < 8u; i += 1u) {
        let pair = select(4u * lane + i, (8u * lane + i) % pairs, p.rope.y == 2u);
        if i < 4u || p.rope.y == 2u {
            turns[i] = rotation(p.rope.w, pairs, min(pair, pairs - 1u), pos);
        }
    }
}

fn turn(x: vec2<f32>, z: vec2<f32>) -> vec2<f32> {
    return vec2(x.x * z.x - x.y * z.y, x.x * z.y + x.y * z.x);
}

// Four elements whose partners are `y`: the first or, if `late`, the second of their pairs.
fn turn_halves(x: vec4<f32>, y: vec4<f32>, first: u32, late: bool) -> vec4<f32> {
    let c = vec4(turns[first].x, turns[first + 1u].x, turns[first + 2u].x, turns[first + 3u].x);
    let s = vec4(turns[first].y, turns[first + 1u].y, turns[first + 2u].y, turns[first + 3u].y);
    return x * c + select(-y, y, late) * s;
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
            for (var i = 0u; i < 4u; i += 1u) {
                x.a[i] *= number_at(WEIGHTS, weight - 2u + 8u * lane + i);
                x.b[i] *= number_at(WEIGHTS, weight - 2u + 8u * lane + 4u + i);
            }
        }
    }
    if p.rope.y == 1u && 8u * lane < p.rope.x {
        x = Eight(vec4(turn(x.a.xy, turns[0]), turn(x.a.zw, turns[1])), vec4(turn(x.b.xy, turns[2]), turn(x.b.zw, turns[3])));
    }
    if p.rope.y == 2u {
        let half = p.rope.x / 16u;
        let late = lane >= half;
        let partner = place - lane + select(lane, select(lane + half, lane - half, late), 8u * lane < p.rope.x);
        let ya = shuffle4(x.a, partner);
        let yb = shuffle4(x.b, partner);
        if 8u * lane < p.rope.x {
            x = Eight(turn_halves(x.a, ya, 0u, late), turn_halves(x.b, yb, 4u, late));
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
