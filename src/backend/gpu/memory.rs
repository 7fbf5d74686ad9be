//! What a device's memory is used for.

use super::device::Device;

/// Bytes of a device, over all models and contexts of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Taken by buffers.
    pub used: u64,
    /// Taken from the driver: buffers, and room for more between them.
    pub reserved: u64,
    /// What buffers of each label take, the largest first.
    pub by_label: Vec<(String, u64)>,
}

impl Device {
    /// What is in use now; nothing where the driver's memory is not managed by wgpu (Metal).
    pub fn memory(&self) -> DeviceMemory {
        let Some(report) = self.device.generate_allocator_report() else { return DeviceMemory::default() };
        let mut by_label: Vec<(String, u64)> = Vec::new();
        for a in &report.allocations {
            match by_label.iter_mut().find(|(name, _)| *name == a.name) {
                Some((_, size)) => *size += a.size,
                None => by_label.push((a.name.clone(), a.size)),
            }
        }
        by_label.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        DeviceMemory { used: report.total_allocated_bytes, reserved: report.total_reserved_bytes, by_label }
    }
}
