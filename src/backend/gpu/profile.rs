//! Where the time of a run goes: with `INFER_GPU_PROFILE=1` every dispatch is timed by the device, and a table of kernels is
//! logged when the context ends. With `INFER_GPU_PROFILE=runs` only the begin and the end of all dispatches together are,
//! which costs nothing.

use super::device::Device;
use super::shader::Kernel;
use crate::error::Result;
use std::collections::HashMap;

/// Timestamps of one submit.
const MAX: u32 = 4096;

/// Asks for the times of runs, and their name in the table.
const RUNS: &str = "runs";

/// Times by kernel.
pub struct Profile {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    /// Nanoseconds of a tick.
    period: f64,
    /// The kernels of the timestamps taken, after the first.
    pending: Vec<String>,
    taken: u32,
    /// Time runs as a whole.
    whole: bool,
    totals: HashMap<String, (u32, f64)>,
}

impl Profile {
    /// If the environment asks for it and the device can.
    pub fn from_environment(device: &Device) -> Option<Profile> {
        let asked = std::env::var_os("INFER_GPU_PROFILE").filter(|v| v == "1" || v == RUNS)?;
        if !device.abilities.timestamps {
            log::warn!("{} has no timestamps within a pass: no profile", device.name);
            return None;
        }
        let size = u64::from(MAX) * 8;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Some(Profile {
            queries: device.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: MAX,
            }),
            resolved: device.buffer("profile", size, usage).ok()?,
            readable: device
                .buffer("profile", size, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
                .ok()?,
            period: f64::from(device.queue.get_timestamp_period()),
            pending: Vec::new(),
            taken: 0,
            whole: asked == RUNS,
            totals: HashMap::new(),
        })
    }

    /// The first timestamp of a pass.
    pub fn begin(&mut self, pass: &mut wgpu::ComputePass) {
        self.pending.clear();
        pass.write_timestamp(&self.queries, 0);
        self.taken = 1;
    }

    /// The timestamp after a dispatch.
    pub fn after(&mut self, pass: &mut wgpu::ComputePass, kernel: &Kernel) {
        if self.taken < MAX && !self.whole {
            pass.write_timestamp(&self.queries, self.taken);
            self.taken += 1;
            let format = kernel.format.map_or(String::new(), |f| format!(" {f}"));
            self.pending.push(format!(
                "{}{format} {:?}",
                kernel.name,
                kernel.constants.iter().map(|c| c.1).collect::<Vec<_>>()
            ));
        }
    }

    /// The last timestamp of a pass.
    pub fn end(&mut self, pass: &mut wgpu::ComputePass) {
        if self.whole {
            pass.write_timestamp(&self.queries, 1);
            self.taken = 2;
            self.pending.push(RUNS.into());
        }
    }

    /// Copies the timestamps to where they can be read.
    pub fn resolve(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let size = u64::from(self.taken) * 8;
        encoder.resolve_query_set(&self.queries, 0..self.taken, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, size);
    }

    /// Waits, and adds the times up.
    ///
    /// # Errors
    /// What the device had to say.
    pub fn collect(&mut self, device: &Device) -> Result<()> {
        let mut bytes = vec![0; self.taken as usize * 8];
        device.read_mapped(&self.readable, &mut [(0, &mut bytes)])?;
        let ticks: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        for (name, pair) in self.pending.iter().zip(ticks.windows(2)) {
            let total = self.totals.entry(name.clone()).or_default();
            total.0 += 1;
            total.1 += pair[1].saturating_sub(pair[0]) as f64 * self.period;
        }
        Ok(())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let mut rows: Vec<_> = self.totals.iter().collect();
        rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        log::info!("{:>10} {:>12} {:>9}  kernel", "dispatches", "total ms", "mean us");
        for (name, (n, ns)) in rows {
            log::info!("{n:>10} {:>12.3} {:>9.2}  {name}", ns / 1e6, ns / 1e3 / f64::from(*n));
        }
    }
}
