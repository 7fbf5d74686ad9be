// Products with a few tokens whose activations are bytes. LANES threads, a team, go along ROWS rows of a matrix, SPLIT teams
// along the same rows; a workgroup has GROUP_ROWS rows and TOKENS tokens. With two PARTS, the same rows of two matrices, gate
// first.
//
// MIXED: matrices of a second type are among them, whose functions have names that end in `_b`.
//
// The sums of squares that came with the activations are what normalizes the products; results can be handed on the same
// way, as bytes beside the f32: see `emit.wgsl`.

const GATED: bool = PARTS == 2;
const NSUM: u32 = ROWS * TOKENS * PARTS;
const TEAMS: u32 = WG / LANES;
const GROUP_ROWS: u32 = TEAMS / SPLIT * ROWS;
// What is left of a team, and of a workgroup, after sums within subgroups.
const SLOTS: u32 = LANES / SHUFFLE * SPLIT;
const SQUARES: u32 = WG / SHUFFLE;
const RESULTS: u32 = GROUP_ROWS * TOKENS;

// [part][token][row][slot]
var<workgroup> pieces: array<f32, RESULTS * PARTS * SLOTS>;
// [token][slot]
var<workgroup> squares: array<f32, TOKENS * SQUARES>;

fn x32(row: u32, b: u32) -> X32 {
    let at = row * (p.x.x / 32u) + b;
    let q = (p.x.z >> 2u) + 2u * at;
    return X32(arena[q], arena[q + 1u], bitcast<vec4<f32>>(arena[(p.x.w >> 2u) + at]));
}

fn total(i: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < SLOTS; j += 1u) {
        sum += pieces[i * SLOTS + j];
    }
    return sum;
}

// What a token's products are multiplied by: the scale of a root mean square norm, if its activations lack it.
fn norm_scale(i: u32) -> f32 {
    if p.norm.x == 0u {
        return 1.0;
    }
    var sum = 0.0;
    for (var j = 0u; j < SQUARES; j += 1u) {
        sum += squares[i * SQUARES + j];
    }
    return inverseSqrt(sum / f32(p.x.x) + bitcast<f32>(p.norm.y));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let rows = find_rows(row_group(group, groups), GROUP_ROWS);
    let mat = select(rows.x, 0u, GATED);
    let m = p.mats[mat];
    let t = group.y * TOKENS;
    let first = first_row(m, t);
    let lane = lid % LANES;
    let team = lid / LANES;
    let slice = team % SPLIT;
    let team_row = team / SPLIT * ROWS;
    let line = rows.y + team_row;

    // What the end needs is asked for first: memory answers while the products are summed up.
    var early: array<Early, (RESULTS + WG - 1) / WG>;
    for (var i = 0u; i < (RESULTS + WG - 1u) / WG; i += 1u) {
        if !GATED {
            early[i] = find_early(m, rows.y, t, lid + i * WG);
        }
    }
    var square: array<f32, TOKENS>;
    if p.norm.x != 0u {
        for (var i = 0u; i < TOKENS; i += 1u) {
            let at = p.norm.x - 1u + min(t + i, p.x.y - 1u) * p.norm.z;
            for (var j = lid; j < p.norm.z; j += WG) {
                square[i] += bitcast<f32>(arena_word(at + j));
            }
        }
    }

    var sums: array<f32, NSUM>;
    if MIXED == 1u && m.other == 1u {
        sums = products_b(m, first, line, t, slice * LANES + lane);
    } else {
        sums = products(m, first, line, t, slice * LANES + lane);
    }
    let slot = lane / SHUFFLE + slice * (LANES / SHUFFLE);
    for (var i = 0u; i < TOKENS * PARTS; i += 1u) {
        for (var r = 0u; r < ROWS; r += 1u) {
            let sum = shuffle_sum(sums[i * ROWS + r]);
            if lane % SHUFFLE == 0u {
                pieces[(i * GROUP_ROWS + team_row + r) * SLOTS + slot] = sum;
            }
        }
    }
    if p.norm.x != 0u {
        for (var i = 0u; i < TOKENS; i += 1u) {
            let sum = shuffle_sum(square[i]);
            if lid % SHUFFLE == 0u {
                squares[i * SQUARES + lid / SHUFFLE] = sum;
            }
        }
    }
    workgroupBarrier();
    for (var n = 0u; n < (RESULTS + WG - 1u) / WG; n += 1u) {
        let i = lid + n * WG;
        if i >= RESULTS {
            continue;
        }
        let row = rows.y + i % GROUP_ROWS;
        let token = t + i / GROUP_ROWS;
        var x = 0.0;
        if row < m.rows && token < p.x.y {
            let scale = norm_scale(i / GROUP_ROWS);
            x = total(i) * scale;
            if GATED {
                x = activate(p.how.x, x) * total(RESULTS + i) * scale;
            } else {
                x = activated(m, row, x) + early[n].residual;
            }
            set_number(m.to + token * m.stride + row, x);
        }
        if EMIT == 1u {
            if GATED {
                early[n] = find_early(m, rows.y, t, i);
            }
            keep(i, x, early[n].weight);
        }
    }
    if EMIT == 1u {
        workgroupBarrier();
        for (var i = lid; i < RESULTS / 4u; i += WG) {
            let row = rows.y + i * 4u % GROUP_ROWS;
            let token = t + i * 4u / GROUP_ROWS;
            if row < m.rows && token < p.x.y {
                emit_word(i, token * m.rows + row, p.emit.x, p.emit.y, p.emit.z);
            }
        }
    }
}

// What a result meets at its end: what is added to it, and the weight of the next norm.
struct Early {
    residual: f32,
    weight: f32,
}

fn find_early(m: Matrix, first: u32, t: u32, i: u32) -> Early {
    let row = first + i % GROUP_ROWS;
    let token = t + i / GROUP_ROWS;
    var early = Early(0.0, 1.0);
    if i < RESULTS && row < m.rows && token < p.x.y {
        if !GATED {
            early.residual = residual_of(m, row, token);
        }
        if EMIT == 1u && p.emit.w != 0u {
            early.weight = number_at(p.emit_norm.x, p.emit.w - 1u + row);
        }
    }
    return early;
}
