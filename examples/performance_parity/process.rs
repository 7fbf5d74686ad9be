//! Memory, loading, idling: what concerns a whole process. Memory is measured in processes of their own (this program, run as
//! `--probe`), as here llama.cpp maps the same files.

use crate::Result;
use crate::environment::{anonymous, cpu_time, resident};
use crate::lab::{Engine, Lab, Ours, beside, load, tokens};
use crate::report::Entry;
use crate::stats::{Summary, median, repeat, seconds};
use infer::context::ContextParams;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

const MB: f64 = 1e6;

/// Runs a probe: `WHAT MODEL N_THREADS NUMBER...`, and gives what it found.
pub fn probe(args: &[String]) -> Result<Value> {
    let [what, path, n_threads, numbers @ ..] = args else { return Err("a probe has arguments".into()) };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<std::result::Result<_, _>>()?;
    let n_threads = n_threads.parse()?;
    match (what.as_str(), &numbers[..]) {
        ("run", &[n_prompt, n_gen]) => run(Path::new(path), n_threads, n_prompt, n_gen),
        ("cycles", &[n]) => cycles(Path::new(path), n_threads, n),
        #[cfg(feature = "gpu")]
        ("gpu-time", &[n_prompt, n_gen]) => crate::gpu::device_time(Path::new(path), n_prompt, n_gen),
        _ => Err("no such probe".into()),
    }
}

fn params(n_threads: usize, n_ctx: usize) -> ContextParams {
    let n = n_ctx as u32;
    ContextParams { n_ctx: n, n_batch: n, n_threads, n_threads_batch: n_threads, ..Default::default() }
}

/// Loads a model, computes a prompt and tokens; tells times, memory, and what was allocated per token.
fn run(path: &Path, n_threads: usize, n_prompt: usize, n_gen: usize) -> Result<Value> {
    let start = Instant::now();
    let model = load(path)?;
    let load_s = start.elapsed().as_secs_f64();
    let mut ours = Ours::new(&model, &params(n_threads, n_prompt + n_gen))?;
    let ids = tokens(n_prompt + n_gen, model.hparams()?.n_vocab);
    ours.decode(&ids[..1], false)?;
    let first_token_s = start.elapsed().as_secs_f64();
    ours.clear()?;
    ours.decode(&ids[..n_prompt], false)?;
    // Graphs are made for the first tokens.
    let (warm, steady) = ids[n_prompt..].split_at(n_gen.min(8));
    ours.decode_singly(warm)?;
    let before = crate::allocations();
    ours.decode_singly(steady)?;
    let per_token = (crate::allocations() - before) as f64 / steady.len().max(1) as f64;
    Ok(json!({
        "load_s": load_s,
        "first_token_s": first_token_s,
        "allocations_per_token": per_token,
        "resident": resident(),
        "anonymous": anonymous(),
        "kv": ours.0.state_size(),
        "file": std::fs::metadata(path)?.len(),
    }))
}

/// Makes and frees contexts; tells how much memory stayed.
fn cycles(path: &Path, n_threads: usize, n: usize) -> Result<Value> {
    let model = load(path)?;
    let cycle = || -> Result<()> { Ours::new(&model, &params(n_threads, 64))?.decode(&[1, 2, 3], false) };
    (0..10).try_for_each(|_| cycle())?;
    let before = anonymous();
    let start = Instant::now();
    (0..n).try_for_each(|_| cycle())?;
    let cycle_s = start.elapsed().as_secs_f64() / n as f64;
    Ok(json!({ "grown": anonymous().saturating_sub(before), "cycle_s": cycle_s }))
}

fn get(probe: &Value, name: &str) -> Result<f64> {
    probe[name].as_f64().ok_or_else(|| format!("the probe does not tell {name}").into())
}

/// IMP-002 and memory rows for the 1B shape.
pub fn memory_of_1b(lab: &Lab, path: &Path) -> Result<Vec<Entry>> {
    let p = lab.probe("run", path, &[512, 64])?;
    let (resident, kv, file) = (get(&p, "resident")?, get(&p, "kv")?, get(&p, "file")?);
    let note = format!("file {:.0} MB, resident {:.0} MB, of it KV cache {:.0} MB", file / MB, resident / MB, kv / MB);
    let row = |id: &str, name: &str| Entry::new(id, "Memory", name);
    let disk = cold_read(path)?;
    Ok(vec![
        row("MEMORY-resident", "1B Q4_K_M: resident memory without the KV cache, over the file")
            .value((resident - kv) / file, "× file")
            .at_most(1.25)
            .note(note.clone()),
        row("IMP-002", "mmap weight streaming: resident memory beyond the file and the KV cache")
            .value((resident - kv - file) / MB, "MB")
            .at_most(512.0)
            .note("a file larger than free memory is not tried: it would push out other work of the machine"),
        row("IMP-002-load", "1B Q4_K_M: time to load, mapped").value(1e3 * get(&p, "load_s")?, "ms"),
        row("IMP-002-disk", "1B Q4_K_M: cold file read")
            .value(disk / 1e9, "GB/s")
            .note("what the disk gives: bar of 5 GB/s where it does; a virtual disk may have a cache of its own"),
        Entry::new("QA-013", "Quality", "resident memory over the file, KV cache included")
            .value(resident / file, "× file")
            .at_most(1.5)
            .note(note),
    ])
}

/// Bytes per second of reading a file that is in no cache of this system.
fn cold_read(path: &Path) -> Result<f64> {
    forget(path)?;
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 8 << 20];
    let start = Instant::now();
    let mut n = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(n as f64 / start.elapsed().as_secs_f64()),
            read => n += read,
        }
    }
}

/// Asks the system to drop a file from its cache.
fn forget(path: &Path) -> Result<()> {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(path)?;
    file.sync_all()?;
    // SAFETY: the descriptor is open for the length of the call, which changes nothing in this process.
    let rc = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(rc).into()) }
}

/// QA-016: a cold start of the 8B shape.
pub fn cold_start(lab: &Lab) -> Result<Vec<Entry>> {
    let row = Entry::new("QA-016", "Quality", "8B Q4_K_M: load and first token, file not in memory");
    if lab.quick {
        return Ok(vec![row.note("not in a short run")]);
    }
    let file = lab.make("8b", "Q4_K_M")?;
    let size = std::fs::metadata(&file.path)?.len() as f64;
    let disk = cold_read(&file.path)?;
    forget(&file.path)?;
    let p = lab.probe("run", &file.path, &[1, 1])?;
    let warm = lab.probe("run", &file.path, &[1, 1])?;
    let note = format!(
        "{:.2} GB; the disk reads {:.2} GB/s; {:.2} s with the file in memory",
        size / 1e9,
        disk / 1e9,
        get(&warm, "first_token_s")?
    );
    Ok(vec![row.value(get(&p, "first_token_s")?, "s").at_most(5.0).note(note)])
}

/// Loading, contexts, idling, leaks, allocations.
pub fn process(lab: &Lab) -> Result<Vec<Entry>> {
    let path = lab.smollm2();
    let mut rows = Vec::new();
    let [ours, theirs] = repeat(lab.rounds(6.0), || {
        Ok([seconds(|| load(&path).map(drop))?, seconds(|| lab.their_model(&path).map(drop))?])
    })?;
    let row = Entry::new("LOAD-smollm2", "Memory", "SmolLM2: time to load, with its vocabulary");
    rows.push(beside(row, &ours, "llama.cpp", &theirs, 1.0, "loads/s").at_least(1.0));

    let model = load(&path)?;
    let [made] = repeat(lab.rounds(3.0), || Ok([seconds(|| Ours::new(&model, &lab.params(2048)).map(drop))?]))?;
    rows.push(
        Entry::new("IMP-024", "Capabilities", "weight caching: a new context of a loaded model, warm start")
            .value(1e3 * median(&made), "ms")
            .at_most(10.0)
            .times(Summary::of(&made, 1.0, "contexts/s"), None),
    );
    rows.extend(warm_runs(lab)?);
    rows.push(idle(lab)?);
    rows.extend(probes(lab, &path)?);
    Ok(rows)
}

/// QA-017: once warm, runs take the same time.
fn warm_runs(lab: &Lab) -> Result<Vec<Entry>> {
    let mut ours = lab.ours(&lab.smollm2(), 96)?;
    let ids = tokens(96, 49152);
    let n = if lab.quick { 3 } else { 11 };
    let mut times = Vec::new();
    for _ in 0..n {
        ours.clear()?;
        times.push(seconds(|| {
            ours.decode(&ids[..64], false)?;
            ours.decode_singly(&ids[64..])
        })?);
    }
    let summary = Summary::of(&times[1..], 96.0, "t/s");
    Ok(vec![
        Entry::new("QA-017", "Quality", "second run of a prompt and tokens over the median of the later ones")
            .value(times[1] / median(&times[2..]), "factor")
            .at_most(1.1),
        Entry::new("QA-019", "Quality", "coefficient of variation of the token rate of SmolLM2")
            .value(100.0 * summary.cv, "%")
            .at_most(10.0)
            .times(summary, None),
    ])
}

/// A context that waits uses no processor.
fn idle(lab: &Lab) -> Result<Entry> {
    let mut ours = lab.ours(&lab.smollm2(), 64)?;
    ours.decode(&[1, 2, 3], false)?;
    // Threads park a moment after their last work.
    std::thread::sleep(Duration::from_millis(100));
    let before = cpu_time();
    std::thread::sleep(Duration::from_secs(1));
    let used = 1e3 * (cpu_time() - before);
    Ok(Entry::new("IDLE", "Threads", "processor time of an idle context over a second")
        .value(used, "ms")
        .at_most(20.0)
        .note("the system counts in steps of 10 ms"))
}

fn probes(lab: &Lab, path: &Path) -> Result<Vec<Entry>> {
    let n_prompt = if lab.quick { 1024 } else { 4096 };
    let p = lab.probe("run", path, &[n_prompt, 72])?;
    let scratch = (get(&p, "anonymous")? - get(&p, "kv")?) / MB;
    let per_token = get(&p, "allocations_per_token")?;
    let n = if lab.quick { 50 } else { 1000 };
    let leak = lab.probe("cycles", path, &[n])?;
    let zero =
        |id: &str, name: &str| Entry::new(id, "Capabilities", name).value(per_token, "allocations/token").at_most(0.0);
    Ok(vec![
        Entry::new(
            "IMP-016",
            "Capabilities",
            "flash attention: all memory but weights and KV cache, 4096 tokens of SmolLM2",
        )
        .value(scratch, "MB")
        .at_most(100.0)
        .note(format!("{n_prompt} tokens at once; vocabulary, graphs and logits included")),
        zero("IMP-034", "zero allocation while decoding"),
        zero("IMP-036", "no K/V concatenation: rows are appended in place"),
        zero("IMP-049", "tensor pool"),
        zero("IMP-050", "forward arena"),
        zero("IMP-051", "scratch"),
        Entry::new("QA-015", "Quality", "memory kept after making, using and freeing contexts")
            .value(get(&leak, "grown")? / MB, "MB")
            .at_most(2.0)
            .note(format!("{n} cycles of {:.1} ms", 1e3 * get(&leak, "cycle_s")?)),
    ])
}
