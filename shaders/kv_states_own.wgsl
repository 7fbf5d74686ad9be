// What `attention_few_coop` does with states besides `kv_states.wgsl`: rows that it loads long before it uses them lie in
// registers as in the cache.

alias Raw = Raw8;

fn raw_key(at: u32) -> Raw {
    return raw_key8(at, p.k.w);
}

fn raw_value(at: u32) -> Raw {
    return raw_value8(at, p.v.w);
}
