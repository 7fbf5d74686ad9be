// Elements of a state as f32: a thread has four.

struct Params {
    // Number of elements, first element of the state, offset of the result, words before the scales.
    x: vec4<u32>,
}

const WG: u32 = 64;
const V_TYPE: u32 = 0;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = ((group.y * groups.x + group.x) * WG + lid) * 4u;
    if i >= p.x.x {
        return;
    }
    let v = key4(p.x.y + i, p.x.w);
    for (var j = 0u; j < 4u; j += 1u) {
        set_number(p.x.z + i + j, v[j]);
    }
}
