//! Writes planned files: rows are read from the mapped input, rounded by a team of threads and written, a slab at a time.

use super::QuantizeParams;
use super::plan::{Job, Output, Plan};
use crate::error::{Error, Result};
use crate::gguf::{GgufFiles, TargetFile, TensorView, split_path};
use crate::quant;
use rayon::prelude::*;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Bytes in memory at a time, unless less is asked for. More makes nothing faster.
const SLAB: usize = 64 << 20;

/// Elements that a thread takes at a time.
const CHUNK: usize = 32 * 512;

pub(super) fn write(files: &GgufFiles, plan: &Plan, output: &Path, params: &QuantizeParams) -> Result<()> {
    let n_processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let n_threads = if params.n_threads == 0 { n_processors } else { params.n_threads.min(n_processors) };
    let team = rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build()
        .map_err(|e| Error::Memory(format!("{n_threads} threads: {e}")))?;
    let slab = params.max_buf_size.min(SLAB);
    let n_outputs = plan.outputs.len();
    let mut finished = Vec::new();
    for (i, part) in plan.outputs.iter().enumerate() {
        let path = if n_outputs == 1 && !params.keep_split {
            output.to_owned()
        } else {
            let name = split_path(output.as_os_str().as_bytes(), i as i32, n_outputs as i32);
            PathBuf::from(std::ffi::OsString::from_vec(name))
        };
        let mut target = TargetFile::create(path)?;
        write_file(files, part, &mut target, &team, slab)?;
        finished.push(target);
    }
    finished.into_iter().try_for_each(TargetFile::finish)
}

fn write_file(
    files: &GgufFiles,
    part: &Output,
    target: &mut TargetFile,
    team: &rayon::ThreadPool,
    slab: usize,
) -> Result<()> {
    let name = target.path().display().to_string();
    let mut out = BufWriter::new(target.file());
    let mut jobs = part.jobs.iter();
    part.gguf.write(&mut out, |tensor, out| {
        let job = jobs.next().expect("the plan has a job for every tensor of the header");
        let view = files.view(&job.source);
        let view = view.ok_or_else(|| Error::tensor(&tensor.name, "its data is not in the file"))?;
        write_tensor(&view, job, out, team, slab)?;
        files.release(&job.source);
        Ok(())
    })?;
    out.flush().map_err(|e| Error::io(format!("write '{name}'"), e))
}

fn write_tensor(
    view: &TensorView,
    job: &Job,
    out: &mut dyn Write,
    team: &rayon::ThreadPool,
    slab: usize,
) -> Result<()> {
    let n_per_row = view.ne[0] as usize;
    let (row_in, row_out) = (view.dtype.row_size(n_per_row), job.target.row_size(n_per_row));
    let failed = |e| Error::io(format!("write the rows of '{}'", job.source), e);
    if view.dtype == job.target {
        let n_rows = (slab / row_in).max(1);
        for rows in view.bytes.chunks(n_rows * row_in) {
            check(view.dtype, rows, job, "holds a NaN or an infinity")?;
            out.write_all(rows).map_err(failed)?;
        }
        return Ok(());
    }
    let mut rounded = Vec::new();
    let n_rows = (slab / (row_in + row_out)).max(1);
    let rows_per_matrix = view.ne[1] as usize;
    for (i, rows) in view.bytes.chunks(n_rows * row_in).enumerate() {
        let size = rows.len() / row_in * row_out;
        rounded.try_reserve(size.saturating_sub(rounded.len())).map_err(|_| Error::Memory(format!("{size} bytes")))?;
        rounded.resize(size, 0);
        let rows_per_chunk = CHUNK.div_ceil(n_per_row);
        team.install(|| {
            rows.par_chunks(rows_per_chunk * row_in)
                .zip(rounded.par_chunks_mut(rows_per_chunk * row_out))
                .enumerate()
                .try_for_each_init(Vec::new, |floats, (chunk, (from, to))| {
                    let first_row = i * n_rows + chunk * rows_per_chunk;
                    round(view, job, first_row, rows_per_matrix, from, to, floats)
                })
        })?;
        out.write_all(&rounded).map_err(failed)?;
    }
    Ok(())
}

/// Rounds some rows, from `first_row` of the tensor on. `floats` is memory to use.
fn round(
    view: &TensorView,
    job: &Job,
    first_row: usize,
    rows_per_matrix: usize,
    from: &[u8],
    to: &mut [u8],
    floats: &mut Vec<f32>,
) -> Result<()> {
    check(view.dtype, from, job, "holds a NaN or an infinity")?;
    let n_per_row = view.ne[0] as usize;
    let (row_in, row_out) = (view.dtype.row_size(n_per_row), job.target.row_size(n_per_row));
    for (i, (from, to)) in from.chunks(row_in).zip(to.chunks_mut(row_out)).enumerate() {
        floats.resize(n_per_row, 0.0);
        quant::dequantize(view.dtype, from, floats)?;
        let importance = job.importance.map(|w| {
            let n_matrices = w.len() / n_per_row;
            &w[(first_row + i) / rows_per_matrix % n_matrices * n_per_row..][..n_per_row]
        });
        quant::quantize_rows(job.target, floats, n_per_row, importance, to)?;
    }
    check(job.target, to, job, "came out with a NaN or an infinity")
}

fn check(dtype: quant::DType, bytes: &[u8], job: &Job, what: &str) -> Result<()> {
    if quant::validate(dtype, bytes) {
        return Ok(());
    }
    Err(Error::tensor(&job.source, format!("its {dtype} data {what}")))
}
