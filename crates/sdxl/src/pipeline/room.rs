//! How many pictures fit into the device's memory at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device};

use super::{SampleRequest, Sdxl};
use crate::Error;

/// Share of the free memory that batches are planned for: allocators fragment, and other programs
/// live on the device, too.
const USABLE: f64 = 0.8;

/// What has been learnt of the memory.
pub(super) struct Room {
    /// Pixels of all pictures of one pass that have not been seen to be too many.
    pixels: AtomicUsize,
    /// Pretended size of the memory, in pictures.
    pretended: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            pixels: AtomicUsize::new(usize::MAX),
            pretended: usize::MAX,
        }
    }
}

impl Room {
    /// How many pictures of `area` pixels one pass may hold.
    pub fn samples(&self, area: usize) -> usize {
        (self.pixels.load(Ordering::Relaxed) / area.max(1)).max(1)
    }

    /// Memory was short for so many pictures: from now on at most half of them are taken.
    pub fn was_short(&self, samples: usize, area: usize) {
        let half = samples.div_ceil(2) * area;
        self.pixels.fetch_min(half, Ordering::Relaxed);
    }

    /// Fails as the device does, where the memory is pretended to be smaller.
    pub fn check(&self, samples: usize) -> Result<(), Error> {
        if samples <= self.pretended {
            return Ok(());
        }
        let text = "out of memory (pretended)".to_owned();
        Err(Error::Compute(candle_core::Error::Msg(text)))
    }
}

impl Sdxl {
    /// Fails every pass of more than so many pictures as a device without memory does. For tests of
    /// what is done about it.
    #[doc(hidden)]
    pub fn pretend_memory_for(&mut self, samples: usize) {
        self.room.pretended = samples;
    }

    /// How many pictures of this kind the device's free memory is estimated to hold in one batch, at
    /// least 1. An estimate that is too high is mended while sampling: see [`Sdxl::sample_batch`].
    pub fn batch_limit(&self, request: &SampleRequest) -> usize {
        let area = request.width as usize * request.height as usize;
        let seen = self.room.samples(area);
        let Some(free) = free_memory(&self.device) else {
            return seen;
        };
        let planned = free as f64 * USABLE / self.sample_bytes(request) as f64;
        (planned as usize).clamp(1, seen)
    }

    /// Estimated memory that one picture's pass through the UNet takes beside the weights.
    fn sample_bytes(&self, request: &SampleRequest) -> usize {
        let rows = if request.guided() { 2 } else { 1 };
        let latents =
            request.width as usize * request.height as usize / (self.factor * self.factor);
        let size = if self.dtype == DType::F32 { 4 } else { 2 };
        (rows * latents * self.unet.numbers_per_latent() * size).max(1)
    }
}

/// Free bytes of the device's memory, where it can be asked.
fn free_memory(device: &Device) -> Option<usize> {
    match device {
        Device::Cpu => available(&std::fs::read_to_string("/proc/meminfo").ok()?),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let context = device.cuda_stream().context().clone();
            context.mem_get_info().ok().map(|(free, _)| free)
        }
        _ => None,
    }
}

/// `MemAvailable` of Linux's /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       24576000 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(available(text), Some(1 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(free_memory(&Device::Cpu).is_some());
    }

    #[test]
    fn a_pass_that_was_too_large_is_halved_from_then_on() {
        let room = Room::default();
        assert_eq!(room.samples(100), usize::MAX / 100);
        room.was_short(5, 100);
        assert_eq!((room.samples(100), room.samples(50)), (3, 6));
        room.was_short(8, 100);
        assert_eq!(room.samples(100), 3, "what is known stays known");
        assert_eq!(room.samples(1000), 1, "one is always tried");
    }
}
