// Chooses a token by each row of logits, by the recipe of the row (`gpu/sample.rs`). A workgroup has a row. It lists the
// likeliest by digits of their order, then sorts and sums the few; or it draws from the vocabulary in its order.

struct Params {
    // Offset of the logits, elements of a row.
    x: vec4<u32>,
}

const RECIPE: u32 = 64;
const HEAD: u32 = 4;
const STEPS: u32 = 8;

const GREEDY: u32 = 1;
const DRAW: u32 = 2;
const LIST: u32 = 3;

const SCALE: u32 = 1;
const TOP_P: u32 = 2;
const MIN_P: u32 = 3;

const NONE: u32 = 0xffffffff;

// Candidates that are sorted at once, digits of their order, candidates that are listed at most.
const MOST: u32 = 2048;
const BINS: u32 = 2048;
const LISTED: u32 = 1024;

// Threads of a team that sums neighbours.
const TEAM: u32 = 32;
const TEAMS: u32 = WG / TEAM;

// What all probabilities sum to where they are counted.
const WHOLE: f32 = 2147483648.0;

var<workgroup> recipe: array<u32, RECIPE>;
var<workgroup> bins: array<atomic<u32>, BINS>;
var<workgroup> keys: array<u32, MOST>;
var<workgroup> ids: array<u32, MOST>;
var<workgroup> numbers: array<f32, LISTED>;
var<workgroup> found: vec4<u32>;
var<workgroup> total: vec2<f32>;
var<workgroup> filled: atomic<u32>;
var<workgroup> first: atomic<u32>;
var<workgroup> last: atomic<u32>;

// A row of logits: their number, the vector that the first is in, its place there, vectors that the row touches.
struct Row {
    n: u32,
    first: u32,
    skip: u32,
    groups: u32,
}

// The order of logits as numbers: higher logits have higher ones, zeros are alike, NaN is the lowest.
fn order(bits: vec4<u32>) -> vec4<u32> {
    let size = bits & vec4(0x7fffffffu);
    let key = select(bits | vec4(0x80000000u), ~bits, (bits >> vec4(31u)) == vec4(1u));
    return select(select(key, vec4(0x80000000u), size == vec4(0u)), vec4(0u), size > vec4(0x7f800000u));
}

fn logits(keys_: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(select(~keys_, keys_ & vec4(0x7fffffffu), (keys_ >> vec4(31u)) == vec4(1u)));
}

fn logit(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

// The places in the row of what group `g` holds; those before it are beyond its end, as numbers without a sign.
fn places(row: Row, g: u32) -> vec4<u32> {
    return vec4(4u * g - row.skip) + vec4(0u, 1u, 2u, 3u);
}

// The orders of the logits of group `g`; the lowest outside the row.
fn group_keys(row: Row, g: u32) -> vec4<u32> {
    let key = order(arena[row.first + min(g, row.groups - 1u)]);
    return select(vec4(0u), key, (places(row, g) < vec4(row.n)) & vec4(g < row.groups));
}

// e^x to the last bits, for x up to 0; 0 for NaN.
fn powers(x: vec4<f32>) -> vec4<f32> {
    let n = round(max(x, vec4(-88.0)) * 1.44269504);
    let r = fma(n, vec4(2.12194440e-4), fma(n, vec4(-0.693359375), x));
    var y = fma(r, vec4(1.0 / 5040.0), vec4(1.0 / 720.0));
    y = fma(y, r, vec4(1.0 / 120.0));
    y = fma(y, r, vec4(1.0 / 24.0));
    y = fma(y, r, vec4(1.0 / 6.0));
    y = fma(y, r, vec4(0.5));
    y = fma(y * r, r, r) + 1.0;
    return select(vec4(0.0), ldexp(y, vec4<i32>(n)), x > vec4(-87.0));
}

fn power(x: f32) -> f32 {
    return powers(vec4(x)).x;
}

// The sum of a number and of one that was rounded off before: both parts.
fn plus(sum: vec2<f32>, x: f32) -> vec2<f32> {
    let s = sum.x + x;
    let more = s - sum.x;
    let lost = (sum.x - (s - more)) + (x - more);
    return vec2(s, sum.y + lost);
}

// The higher of an order and those of a group, with its place; of equals the first found.
fn better(best: vec2<u32>, key: vec4<u32>, place: vec4<u32>) -> vec2<u32> {
    var b = best;
    b = select(b, vec2(key.x, place.x), key.x > b.x);
    b = select(b, vec2(key.y, place.y), key.y > b.x);
    b = select(b, vec2(key.z, place.z), key.z > b.x);
    return select(b, vec2(key.w, place.w), key.w > b.x);
}

// The likeliest of those that a thread looks at, the first of equals: its order and its place.
fn best_of_thread(row: Row, lid: u32) -> vec2<u32> {
    var best = vec2(0u, lid);
    for (var g = lid; g < row.groups; g += 4u * WG) {
        let a = group_keys(row, g);
        let b = group_keys(row, g + WG);
        let c = group_keys(row, g + 2u * WG);
        let d = group_keys(row, g + 3u * WG);
        best = better(best, a, places(row, g));
        best = better(best, b, places(row, g + WG));
        best = better(best, c, places(row, g + 2u * WG));
        best = better(best, d, places(row, g + 3u * WG));
    }
    return best;
}

// The likeliest of the row, the first of equals, becomes the first candidate.
fn find_best(row: Row, lid: u32) {
    let best = best_of_thread(row, lid);
    keys[lid] = best.x;
    ids[lid] = best.y;
    workgroupBarrier();
    for (var d = WG / 2u; d > 0u; d /= 2u) {
        if lid < d && before(lid + d, lid) {
            keys[lid] = keys[lid + d];
            ids[lid] = ids[lid + d];
        }
        workgroupBarrier();
    }
}

// Whether candidate `a` comes before `b`.
fn before(a: u32, b: u32) -> bool {
    return keys[a] > keys[b] || (keys[a] == keys[b] && ids[a] < ids[b]);
}

// Sums over the threads up to each, in `keys`.
fn add_up(x: u32, lid: u32) {
    keys[lid] = x;
    workgroupBarrier();
    for (var d = 1u; d < WG; d *= 2u) {
        var sum = keys[lid];
        if lid >= d {
            sum += keys[lid - d];
        }
        workgroupBarrier();
        keys[lid] = sum;
        workgroupBarrier();
    }
}

// The same of numbers, in `numbers`.
fn add_numbers_up(x: f32, lid: u32) {
    numbers[lid] = x;
    workgroupBarrier();
    for (var d = 1u; d < WG; d *= 2u) {
        var sum = numbers[lid];
        if lid >= d {
            sum += numbers[lid - d];
        }
        workgroupBarrier();
        numbers[lid] = sum;
        workgroupBarrier();
    }
}

// The digit at which counts from the highest digit down reach `need`: itself, the count before, its own count.
fn find_digit(need: u32, lid: u32) {
    const EACH: u32 = BINS / WG;
    if lid == 0u {
        found = vec4(NONE, 0u, 0u, 0u);
    }
    var own = 0u;
    for (var j = 0u; j < EACH; j += 1u) {
        own += atomicLoad(&bins[BINS - 1u - lid * EACH - j]);
    }
    add_up(own, lid);
    var sum = keys[lid] - own;
    if sum < need && need <= keys[lid] {
        for (var j = 0u; j < EACH; j += 1u) {
            let digit = BINS - 1u - lid * EACH - j;
            let count = atomicLoad(&bins[digit]);
            if sum + count >= need {
                found = vec4(digit, sum, count, 0u);
                break;
            }
            sum += count;
        }
    }
    workgroupBarrier();
}

fn clear_bins(lid: u32) {
    for (var b = lid; b < BINS; b += WG) {
        atomicStore(&bins[b], 0u);
    }
    workgroupBarrier();
}

// Where digit `pass` of three lies in 32 bits.
fn shift_of(pass_: u32) -> u32 {
    return select(21u - 11u * pass_, 0u, pass_ >= 2u);
}

fn digit_mask(pass_: u32) -> u32 {
    return select(2047u, 1023u, pass_ >= 2u);
}

// What the digits that were looked at are, of the order and of the place counted from the end.
struct Digits {
    mask: vec2<u32>,
    prefix: vec2<u32>,
    // What cannot be among the likeliest is below this order.
    least: u32,
}

// Counts a digit of a logit that has the digits so far.
fn count(d: Digits, by_place: bool, shift: u32, digits: u32, key: u32, place: u32, n: u32) {
    let x = vec2(key, ~place);
    if key >= d.least && place < n && all((x & d.mask) == d.prefix) {
        atomicAdd(&bins[(select(x.x, x.y, by_place) >> shift) & digits], 1u);
    }
}

// Makes a logit that has the digits, or higher ones, a candidate.
fn collect(d: Digits, key: u32, place: u32, n: u32) {
    let x = vec2(key, ~place) & d.mask;
    if key >= d.least && place < n && (x.x > d.prefix.x || (x.x == d.prefix.x && x.y >= d.prefix.y)) {
        let slot = atomicAdd(&filled, 1u);
        if slot < MOST {
            keys[slot] = key;
            ids[slot] = place;
        }
    }
}

// Makes all that have the digits, or higher ones, candidates, and tells how many there are.
fn collect_all(row: Row, d: Digits, lid: u32) -> u32 {
    if lid == 0u {
        atomicStore(&filled, 0u);
    }
    workgroupBarrier();
    for (var g = lid; g < row.groups; g += 4u * WG) {
        let a = group_keys(row, g);
        let b = group_keys(row, g + WG);
        let c = group_keys(row, g + 2u * WG);
        let e = group_keys(row, g + 3u * WG);
        collect_four(d, a, row, g);
        collect_four(d, b, row, g + WG);
        collect_four(d, c, row, g + 2u * WG);
        collect_four(d, e, row, g + 3u * WG);
    }
    workgroupBarrier();
    if lid == 0u {
        found = vec4(atomicLoad(&filled), 0u, 0u, 0u);
    }
    workgroupBarrier();
    return workgroupUniformLoad(&found).x;
}

fn collect_four(d: Digits, key: vec4<u32>, row: Row, g: u32) {
    if g < row.groups && any(key >= vec4(d.least)) {
        let at = places(row, g);
        collect(d, key.x, at.x, row.n);
        collect(d, key.y, at.y, row.n);
        collect(d, key.z, at.z, row.n);
        collect(d, key.w, at.w, row.n);
    }
}

fn count_four(d: Digits, by_place: bool, shift: u32, digits: u32, key: vec4<u32>, row: Row, g: u32) {
    if g < row.groups && any(key >= vec4(d.least)) {
        let at = places(row, g);
        count(d, by_place, shift, digits, key.x, at.x, row.n);
        count(d, by_place, shift, digits, key.y, at.y, row.n);
        count(d, by_place, shift, digits, key.z, at.z, row.n);
        count(d, by_place, shift, digits, key.w, at.w, row.n);
    }
}

// The `k` likeliest, in order, the first of equals first, become the first candidates. At least as many are as likely as the
// k-th of what threads found likeliest, and where k is small not many more; where those are too many to sort, digits of the
// order, then of the place, are looked at until few enough are left.
fn list_best(row: Row, k: u32, lid: u32) {
    var d = Digits(vec2(0u), vec2(0u), 0u);
    let few = k <= WG / 4u;
    if row.n > MOST && few {
        let best = best_of_thread(row, lid);
        clear_bins(lid);
        atomicAdd(&bins[best.x >> 21u], 1u);
        workgroupBarrier();
        find_digit(k, lid);
        d.least = workgroupUniformLoad(&found).x << 21u;
    }
    var left = row.n;
    if row.n <= MOST || few {
        left = collect_all(row, d, lid);
    }
    var above = 0u;
    let ready = left <= MOST;
    for (var pass_ = 0u; pass_ < 6u; pass_ += 1u) {
        if left <= MOST {
            break;
        }
        let by_place = pass_ >= 3u;
        let shift = shift_of(pass_ % 3u);
        let digits = digit_mask(pass_ % 3u);
        clear_bins(lid);
        for (var g = lid; g < row.groups; g += 2u * WG) {
            let a = group_keys(row, g);
            let b = group_keys(row, g + WG);
            count_four(d, by_place, shift, digits, a, row, g);
            count_four(d, by_place, shift, digits, b, row, g + WG);
        }
        workgroupBarrier();
        find_digit(k - above, lid);
        let f = workgroupUniformLoad(&found);
        above += f.y;
        left = above + f.z;
        let mask = vec2(digits << shift, 0u);
        let prefix = vec2(f.x << shift, 0u);
        d.mask |= select(mask, mask.yx, by_place);
        d.prefix |= select(prefix, prefix.yx, by_place);
    }
    if !ready {
        left = collect_all(row, d, lid);
    }
    var size = 2u;
    while size < left {
        size *= 2u;
    }
    for (var i = left + lid; i < size; i += WG) {
        keys[i] = 0u;
        ids[i] = NONE;
    }
    workgroupBarrier();
    // A bitonic sort.
    for (var run = 2u; run <= size; run *= 2u) {
        for (var d = run / 2u; d > 0u; d /= 2u) {
            for (var i = lid; i < size; i += WG) {
                let other = i ^ d;
                if other > i && before(other, i) == ((i & run) == 0u) {
                    let key = keys[i];
                    let id = ids[i];
                    keys[i] = keys[other];
                    ids[i] = ids[other];
                    keys[other] = key;
                    ids[other] = id;
                }
            }
            workgroupBarrier();
        }
    }
}

// The powers of the first `n` listed logits, in `keys`.
fn list_powers(n: u32, k: u32, lid: u32) {
    for (var i = lid; i < k; i += WG) {
        keys[i] = bitcast<u32>(select(0.0, power(numbers[i] - numbers[0]), i < n));
    }
    workgroupBarrier();
}

// Does the steps of the recipe on `k` listed candidates.
fn finish_list(k: u32, lid: u32) {
    for (var i = lid; i < k; i += WG) {
        numbers[i] = logit(keys[i]);
    }
    workgroupBarrier();
    // Those kept come first.
    var kept = k;
    let n_steps = workgroupUniformLoad(&recipe[2]);
    for (var s = 0u; s < n_steps; s += 1u) {
        let kind = recipe[STEPS + 4u * s];
        let x = bitcast<f32>(recipe[STEPS + 4u * s + 1u]);
        let least = recipe[STEPS + 4u * s + 2u];
        if kind == SCALE {
            for (var i = lid; i < kept; i += WG) {
                numbers[i] /= x;
            }
        } else if kind == TOP_P {
            list_powers(kept, k, lid);
        }
        workgroupBarrier();
        if lid == 0u {
            var count = kept;
            if kind == TOP_P {
                var sum = 0.0;
                for (var i = 0u; i < kept; i += 1u) {
                    sum += bitcast<f32>(keys[i]);
                }
                var running = 0.0;
                for (var i = 0u; i < kept; i += 1u) {
                    running += bitcast<f32>(keys[i]) / sum;
                    if running >= x && i + 1u >= least {
                        count = i + 1u;
                        break;
                    }
                }
            } else if kind == MIN_P {
                let limit = numbers[0] + x;
                count = 0u;
                while count < kept && numbers[count] >= limit {
                    count += 1u;
                }
                count = min(max(count, max(least, 1u)), kept);
            }
            found = vec4(count, 0u, 0u, 0u);
        }
        workgroupBarrier();
        kept = workgroupUniformLoad(&found).x;
    }
    let chooser = recipe[3];
    let out = recipe[6];
    if chooser == DRAW {
        list_powers(kept, k, lid);
    }
    workgroupBarrier();
    if lid == 0u {
        var token = select(NONE, ids[0], chooser == GREEDY);
        if chooser == DRAW {
            var sum = vec2(0.0);
            for (var i = 0u; i < kept; i += 1u) {
                sum = plus(sum, bitcast<f32>(keys[i]));
            }
            let target_ = part(sum);
            var running = vec2(0.0);
            token = ids[k - 1u];
            for (var i = 0u; i < kept; i += 1u) {
                running = plus(running, bitcast<f32>(keys[i]));
                if reaches(running, target_) {
                    token = ids[i];
                    break;
                }
            }
            total = vec2(sum.x + sum.y, 0.0);
        }
        state[out] = token;
        state[out + 1u] = k;
    }
    workgroupBarrier();
    for (var i = lid; i < k; i += WG) {
        state[out + HEAD + i] = ids[i];
        state[out + HEAD + k + i] = select(0xff800000u, bitcast<u32>(numbers[i]), i < kept);
        if chooser == DRAW {
            let p = bitcast<f32>(keys[i]) / total.x;
            state[out + HEAD + 2u * k + i] = bitcast<u32>(select(p, 1.0, k == 1u));
        }
    }
}

// The part of a sum that the recipe's random number is.
fn part(sum: vec2<f32>) -> vec2<f32> {
    let high = bitcast<f32>(recipe[4]);
    let low = bitcast<f32>(recipe[5]);
    let x = sum.x * high;
    return vec2(x, fma(sum.x, high, -x) + sum.x * low + sum.y * high);
}

fn reaches(sum: vec2<f32>, target_: vec2<f32>) -> bool {
    return (sum.x - target_.x) + (sum.y - target_.y) >= 0.0;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let n = p.x.y;
    let at = p.x.x + group.x * n;
    let row = Row(n, at / 4u, at % 4u, (at % 4u + n + 3u) / 4u);
    if lid < RECIPE {
        recipe[lid] = state[group.x * RECIPE + lid];
    }
    workgroupBarrier();
    let kind = workgroupUniformLoad(&recipe[0]);
    let k = workgroupUniformLoad(&recipe[1]);
    if kind == LIST {
        if k == 1u {
            find_best(row, lid);
        } else {
            list_best(row, k, lid);
        }
        finish_list(k, lid);
    } else if kind == GREEDY {
        find_best(row, lid);
        if lid == 0u {
            state[recipe[6]] = ids[0];
            state[recipe[6] + 1u] = 0u;
        }
    } else if kind == DRAW {
        draw(row, lid);
    }
}
