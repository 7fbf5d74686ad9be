// The sum of the parts of a product, and what follows it: a thread has one element of the result.

struct Params {
    // Rows, tokens, parts, words from one part to the next.
    x: vec4<u32>,
    // Offset of the parts, of the result, elements from one token's result to the next, activation.
    at: vec4<u32>,
    // Offset of the bias plus one (0: none), of what is added last plus one.
    more: vec4<u32>,
}

const WG: u32 = 256;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (group.y * groups.x + group.x) * WG + lid;
    if i >= p.x.x * p.x.y {
        return;
    }
    let row = i % p.x.x;
    let place = i / p.x.x * p.at.z + row;
    var x = 0.0;
    for (var part = 0u; part < p.x.z; part += 1u) {
        x += number_at(ARENA, p.at.x + part * p.x.w + i);
    }
    if p.more.x != 0u {
        x += number_at(CONSTANTS, p.more.x - 1u + row);
    }
    x = activate(p.at.w, x);
    if p.more.y != 0u {
        x += number_at(ARENA, p.more.y - 1u + place);
    }
    set_number(p.at.y + place, x);
}
