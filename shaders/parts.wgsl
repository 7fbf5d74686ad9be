// The sums of the parts of up to three products, and what follows them: a thread has one element of a result.

struct Job {
    // Rows; offset of the parts, elements from one token to the next there; offset of the bias plus one (0: none).
    from_: vec4<u32>,
    // Offset of the result, elements from one token to the next; offset of what is added last plus one (0: nothing);
    // activation.
    to: vec4<u32>,
    // Parts, words from one to the next.
    parts: vec4<u32>,
}

struct Params {
    jobs: array<Job, 3>,
    // Jobs.
    n: vec4<u32>,
}

const WG: u32 = 256;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    var rest = group.x;
    var number = 0u;
    loop {
        let groups = (p.jobs[number].from_.x + WG - 1u) / WG;
        if rest < groups || number + 1u >= p.n.x {
            break;
        }
        rest -= groups;
        number += 1u;
    }
    let job = p.jobs[number];
    let row = rest * WG + lid;
    if row >= job.from_.x {
        return;
    }
    let at = job.from_.y + group.y * job.from_.z + row;
    let place = group.y * job.to.y + row;
    var x = 0.0;
    for (var part = 0u; part < job.parts.x; part += 1u) {
        x += number_at(ARENA, at + part * job.parts.y);
    }
    if job.from_.w != 0u {
        x += number_at(CONSTANTS, job.from_.w - 1u + row);
    }
    x = activate(job.to.w, x);
    if job.to.z != 0u {
        x += number_at(ARENA, job.to.z - 1u + place);
    }
    set_number(job.to.x + place, x);
}
