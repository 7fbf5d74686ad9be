// Draws a token from the whole vocabulary, in its order: part of `sample.wgsl`.

// What the tokens of group `g` weigh after the first `n_steps` steps, relative to the likeliest; 0 below the order `least`.
fn weights_of(row: Row, g: u32, n_steps: u32, best: u32, least: u32) -> vec4<f32> {
    let key = group_keys(row, g);
    var x = logits(key);
    var most = logit(best);
    var is_in = (places(row, g) < vec4(row.n)) & vec4(g < row.groups) & (key >= vec4(least));
    for (var s = 0u; s < n_steps; s += 1u) {
        let by = bitcast<f32>(recipe[STEPS + 4u * s + 1u]);
        switch recipe[STEPS + 4u * s] {
            case SCALE: {
                x /= by;
                most /= by;
            }
            case MIN_P: { is_in = is_in & (x >= vec4(most + by)); }
            default: {}
        }
    }
    return select(vec4(0.0), powers(x - most), is_in);
}

fn sum_of(w: vec4<f32>) -> f32 {
    return (w.x + w.y) + (w.z + w.w);
}

// Sums of the weights of the tokens of each team, at its first thread's place in `numbers`, and of all in `total`.
fn sum_weights(row: Row, n_steps: u32, best: u32, least: u32, lid: u32) {
    let each = (row.groups + TEAMS - 1u) / TEAMS;
    let begin = lid / TEAM * each;
    let end = min(begin + each, row.groups);
    var sum = 0.0;
    for (var g = begin + lid % TEAM; g < end; g += 2u * TEAM) {
        let a = weights_of(row, g, n_steps, best, least);
        let b = weights_of(row, g + TEAM, n_steps, best, least);
        sum += sum_of(a) + select(0.0, sum_of(b), g + TEAM < end);
    }
    numbers[lid] = sum;
    workgroupBarrier();
    for (var d = TEAM / 2u; d > 0u; d /= 2u) {
        if lid % TEAM < d {
            numbers[lid] += numbers[lid + d];
        }
        workgroupBarrier();
    }
    if lid == 0u {
        var all = vec2(0.0);
        for (var team = 0u; team < TEAMS; team += 1u) {
            all = plus(all, numbers[team * TEAM]);
        }
        total = all;
    }
    workgroupBarrier();
}

fn weigh(digit: u32, part_: u32) {
    if part_ > 0u {
        atomicAdd(&bins[digit], part_);
    }
}

// The lowest order that still belongs to the likeliest whose probabilities sum to `p`.
fn find_nucleus(row: Row, n_steps: u32, best: u32, p_: f32, lid: u32) -> u32 {
    sum_weights(row, n_steps, best, 0u, lid);
    let all = workgroupUniformLoad(&total);
    let unit = WHOLE / (all.x + all.y);
    var need = max(u32(clamp(p_, 0.0, 1.0) * WHOLE), 1u);
    var mask = 0u;
    var prefix = 0u;
    var step = 0u;
    // First by how far logits are below the likeliest: orders of most begin alike, and threads would wait for each other.
    for (var pass_ = 0u; pass_ < 4u; pass_ += 1u) {
        let shift = shift_of(max(pass_, 1u) - 1u);
        let digits = digit_mask(max(pass_, 1u) - 1u);
        clear_bins(lid);
        for (var g = lid; g < row.groups; g += WG) {
            let key = group_keys(row, g);
            let by = steps_below(logits(key), best);
            let has = ((key & vec4(mask)) == vec4(prefix)) & ((by == vec4(step)) | vec4(pass_ == 0u));
            if any(has) {
                let w = weights_of(row, g, n_steps, best, 0u);
                let part_ = vec4<u32>(round(clamp(w * unit, vec4(0.0), vec4(WHOLE))));
                let parts = select(vec4(0u), part_, has);
                let digit = select((key >> vec4(shift)) & vec4(digits), by, vec4(pass_ == 0u));
                weigh(digit.x, parts.x);
                weigh(digit.y, parts.y);
                weigh(digit.z, parts.z);
                weigh(digit.w, parts.w);
            }
        }
        workgroupBarrier();
        find_digit(need, lid);
        let f = workgroupUniformLoad(&found);
        if f.x == NONE {
            // All of them are less than p by what was rounded.
            return 0u;
        }
        need -= f.y;
        if pass_ == 0u {
            step = f.x;
        } else {
            mask |= digits << shift;
            prefix |= f.x << shift;
        }
    }
    return prefix;
}

// How far logits are below the likeliest, in steps of 1/64: 2047 for the likeliest, 0 for all that are far.
fn steps_below(x: vec4<f32>, best: u32) -> vec4<u32> {
    return vec4<u32>(clamp(2047.0 - (logit(best) - x) * 64.0, vec4(0.0), vec4(2047.0)));
}

// Adds the weight of a token, and notes the token if that reaches what is needed.
fn meet(running: f32, need: f32, w: f32, place: u32) -> f32 {
    let sum = running + w;
    if w > 0.0 {
        atomicMax(&last, place + 1u);
        if sum >= need {
            atomicMin(&first, place);
        }
    }
    return sum;
}

// Draws from the vocabulary.
fn draw(row: Row, lid: u32) {
    find_best(row, lid);
    let best = workgroupUniformLoad(&keys[0]);
    let n_steps = workgroupUniformLoad(&recipe[2]);
    let nucleus = workgroupUniformLoad(&recipe[7]);
    var least = 0u;
    if nucleus != NONE {
        least = find_nucleus(row, nucleus, best, bitcast<f32>(recipe[STEPS + 4u * nucleus + 1u]), lid);
    }
    sum_weights(row, n_steps, best, least, lid);
    // The team whose tokens reach the random part of the sum, and what they must sum to.
    let each = (row.groups + TEAMS - 1u) / TEAMS;
    if lid == 0u {
        let target_ = part(total);
        var running = vec2(0.0);
        var team = 0u;
        var need = 0.0;
        for (var t = 0u; t < TEAMS; t += 1u) {
            let own = numbers[t * TEAM];
            if own > 0.0 {
                team = t;
                need = (target_.x - running.x) + (target_.y - running.y);
                running = plus(running, own);
                if reaches(running, target_) {
                    break;
                }
            }
        }
        found = vec4(team, bitcast<u32>(need), 0u, 0u);
        atomicStore(&first, NONE);
        atomicStore(&last, 0u);
    }
    workgroupBarrier();
    let f = workgroupUniformLoad(&found);
    let need = bitcast<f32>(f.y);
    let own = (each + WG - 1u) / WG;
    let begin = f.x * each + lid * own;
    let end = min(begin + own, min((f.x + 1u) * each, row.groups));
    var sum = 0.0;
    for (var g = begin; g < end; g += 1u) {
        sum += sum_of(weights_of(row, g, n_steps, best, least));
    }
    add_numbers_up(sum, lid);
    var running = 0.0;
    if lid > 0u {
        running = numbers[lid - 1u];
    }
    for (var g = begin; g < end; g += 1u) {
        let w = weights_of(row, g, n_steps, best, least);
        let at = places(row, g);
        running = meet(running, need, w.x, at.x);
        running = meet(running, need, w.y, at.y);
        running = meet(running, need, w.z, at.z);
        running = meet(running, need, w.w, at.w);
    }
    workgroupBarrier();
    if lid == 0u {
        // Sums in another order may miss the last by a bit; without any weight the last token is as good as any.
        var token = atomicLoad(&first);
        if token == NONE {
            let l = atomicLoad(&last);
            token = select(row.n, l, l > 0u) - 1u;
        }
        state[recipe[6]] = token;
        state[recipe[6] + 1u] = 0u;
    }
}
