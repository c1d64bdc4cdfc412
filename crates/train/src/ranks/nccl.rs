//! Sums over GPUs by NCCL, one process for each.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Device, Layout, Result as Compute, Shape};

use super::Ranks;
use crate::Error;

/// How long a worker waits for the first one's file.
const PATIENCE: Duration = Duration::from_secs(600);

impl Ranks {
    /// Worker `rank` of `world`, on a GPU. The workers meet by a file that the first one writes and the others wait for: it must not be
    /// there from an earlier run.
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::Meeting`].
    pub fn nccl(rank: usize, world: usize, device: &Device, file: &Path) -> Result<Ranks, Error> {
        let Device::Cuda(cuda) = device else {
            return Err(meeting("several workers need a GPU each"));
        };
        let id = if rank == 0 {
            let id = Id::new().map_err(|e| meeting(format!("{e:?}")))?;
            write(file, &id)?;
            id
        } else {
            read(file)?
        };
        let comm = Comm::from_rank(cuda.cuda_stream(), rank, world, id);
        let comm = comm.map_err(|e| meeting(format!("{e:?}")))?;
        let sum = AllSum(comm);
        Ranks::many(rank, world, move |tensor| {
            Ok(tensor.contiguous()?.apply_op1_no_bwd(&sum)?)
        })
    }
}

fn meeting(reason: impl Into<String>) -> Error {
    Error::Meeting {
        reason: reason.into(),
    }
}

/// The file appears whole.
fn write(file: &Path, id: &Id) -> Result<(), Error> {
    let bytes: Vec<u8> = id.internal().iter().map(|&byte| byte as u8).collect();
    let part = file.with_extension("part");
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, file));
    written.map_err(|e| meeting(format!("{}: {e}", file.display())))
}

fn read(file: &Path) -> Result<Id, Error> {
    let start = Instant::now();
    while !file.exists() {
        if start.elapsed() > PATIENCE {
            return Err(meeting(format!("{} does not appear", file.display())));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let bytes = std::fs::read(file).map_err(|e| meeting(format!("{}: {e}", file.display())))?;
    let id: Vec<_> = bytes.iter().map(|&byte| byte as std::ffi::c_char).collect();
    let id = id.try_into();
    let id = id.map_err(|_| meeting(format!("{} is no file of NCCL's", file.display())))?;
    Ok(Id::uninit(id))
}

/// The sum over all workers, as an operation.
struct AllSum(Comm);

impl CustomOp1 for AllSum {
    fn name(&self) -> &'static str {
        "all-sum"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Compute<(CpuStorage, Shape)> {
        candle_core::bail!("workers sum up on GPUs")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Compute<(CudaStorage, Shape)> {
        let count = layout.shape().elem_count();
        let (from, to) = match layout.contiguous_offsets() {
            Some(offsets) => offsets,
            None => candle_core::bail!("all-sum of numbers that do not lie together"),
        };
        let device = storage.device().clone();
        let own = storage.as_cuda_slice::<f32>()?.slice(from..to);
        let failed = |e: DriverError| candle_core::Error::wrap(e);
        let mut sum = device
            .cuda_stream()
            .alloc_zeros::<f32>(count)
            .map_err(failed)?;
        let summed = self.0.all_reduce(&own, &mut sum, &ReduceOp::Sum);
        summed.map_err(|e| candle_core::Error::msg(format!("NCCL: {e:?}")))?;
        let storage = CudaStorage::wrap_cuda_slice(sum, device);
        Ok((storage, layout.shape().clone()))
    }
}
