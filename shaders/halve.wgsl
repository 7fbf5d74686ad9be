// Activations to f16, for `matmul_coop`: a thread has two.

struct Params {
    // Elements, offset of the activations, of the result.
    x: vec4<u32>,
}

const WG: u32 = 256;
const MOST: f32 = 65504.0;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (group.y * groups.x + group.x) * WG + lid;
    if 2u * i >= p.x.x {
        return;
    }
    let x = vec2(bitcast<f32>(arena_word(p.x.y + 2u * i)), bitcast<f32>(arena_word(p.x.y + 2u * i + 1u)));
    arena[p.x.z + i] = pack2x16float(clamp(x, vec2(-MOST), vec2(MOST)));
}
