//! Where a worker computes.

use candle_core::{DType, Device};
use clap::Args;
use likeness_sdxl::{DeviceName, NumberType, device_class, device_model};

/// The device and the number type of a worker.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ComputeArgs {
    /// Where the models compute: `cpu`, or `cuda:N` in a program that is built for CUDA.
    #[arg(
        long,
        env = "LIKENESS_DEVICE",
        default_value = "cpu",
        value_name = "DEVICE"
    )]
    pub device: DeviceName,
    /// The number type of U-Net and text encoders: f32, f16 or bf16; by default f32 on the cpu, bf16 on a GPU.
    #[arg(long, env = "LIKENESS_DTYPE", value_name = "TYPE")]
    pub dtype: Option<NumberType>,
}

/// An opened device.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// The type of the weights.
    pub dtype: DType,
    /// What the device calls itself, such as `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// The same as a part of a pool's name, such as `h100-80gb-hbm3`.
    pub class: String,
}

impl ComputeArgs {
    /// Opens the device.
    ///
    /// # Errors
    /// A GPU that is not there, or that this program cannot use; a number type that the device lacks.
    pub fn open(self) -> anyhow::Result<Compute> {
        let dtype = self.device.number_type(self.dtype)?.into();
        let device = self.device.open()?;
        let model = device_model(&device)?;
        Ok(Compute {
            class: device_class(&model),
            device,
            dtype,
            model,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_the_default() {
        let compute = ComputeArgs::default().open().unwrap();
        assert!(compute.device.is_cpu());
        assert_eq!((compute.dtype, compute.class.as_str()), (DType::F32, "cpu"));
    }

    #[test]
    fn bf16_on_the_processor_is_refused() {
        let args = ComputeArgs {
            dtype: Some(NumberType::Bf16),
            ..ComputeArgs::default()
        };
        assert!(args.open().unwrap_err().to_string().contains("bf16"));
    }
}
