//! Where a model computes and in which number type, as flags and variables name them.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};

/// A device by its name: `cpu`, or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor, all its cores.
    #[default]
    Cpu,
    /// The GPU of this number, from 0.
    Cuda(usize),
}

/// A number type by its name: `f32`, `f16` or `bf16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// Four bytes.
    F32,
    /// Two bytes, ten bits of fraction.
    F16,
    /// Two bytes, seven bits of fraction, the range of f32.
    Bf16,
}

/// What is wrong with a device or a number type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A name that is none.
    #[error("{found:?} is not known; expected {expected}")]
    Name {
        /// What was given.
        found: String,
        /// What there is.
        expected: &'static str,
    },
    /// The program has no code for GPUs.
    #[error(
        "this program was built without CUDA, so that {device} cannot be used; build it with `cargo xtask cuda-build`, \
         or use the device cpu"
    )]
    NotBuilt {
        /// What was asked for.
        device: DeviceName,
    },
    /// The driver does not give the GPU.
    #[error("{device} cannot be used: {reason}; is there a GPU of this number, with its driver?")]
    Unavailable {
        /// What was asked for.
        device: DeviceName,
        /// What the driver says.
        reason: String,
    },
    /// Matrix products of bf16 exist on GPUs only.
    #[error("bf16 is not supported on the cpu; use f32 or f16 there")]
    Bf16OnCpu,
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err(unknown(text, "cpu or cuda:N")),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for NumberType {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(unknown(text, "f32, f16 or bf16")),
        }
    }
}

impl fmt::Display for NumberType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(DType::from(*self).as_str())
    }
}

impl From<NumberType> for DType {
    fn from(name: NumberType) -> Self {
        match name {
            NumberType::F32 => Self::F32,
            NumberType::F16 => Self::F16,
            NumberType::Bf16 => Self::BF16,
        }
    }
}

fn unknown(text: &str, expected: &'static str) -> DeviceError {
    DeviceError::Name {
        found: text.chars().take(80).collect(),
        expected,
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// A program without CUDA; a GPU that the driver does not give.
    pub fn open(self) -> Result<Device, DeviceError> {
        let Self::Cuda(number) = self else {
            return Ok(Device::Cpu);
        };
        if !candle_core::utils::cuda_is_available() {
            return Err(DeviceError::NotBuilt { device: self });
        }
        Device::new_cuda(number).map_err(|error| DeviceError::Unavailable {
            device: self,
            reason: error.to_string(),
        })
    }

    /// The type to compute in: the one that is asked for, or else f32 on the processor and bf16 on a
    /// GPU. Not f16: the convolutions of cuDNN, as candle calls them, then also add up in f16, and a
    /// convolution of SDXL adds 11,520 products.
    ///
    /// # Errors
    /// bf16 on the processor.
    pub fn number_type(self, asked: Option<NumberType>) -> Result<NumberType, DeviceError> {
        match (self, asked) {
            (Self::Cpu, Some(NumberType::Bf16)) => Err(DeviceError::Bf16OnCpu),
            (_, Some(asked)) => Ok(asked),
            (Self::Cpu, None) => Ok(NumberType::F32),
            (Self::Cuda(_), None) => Ok(NumberType::Bf16),
        }
    }
}

/// What the device calls itself, such as `NVIDIA H100 80GB HBM3`; `cpu` for the processor.
///
/// # Errors
/// A driver that does not answer.
pub fn device_model(device: &Device) -> candle_core::Result<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda
            .cuda_stream()
            .context()
            .name()
            .map_err(candle_core::Error::wrap),
        _ => Ok("cpu".to_owned()),
    }
}

/// The class of a device of this model, in lower-case letters, digits and dashes: `h100-80gb-hbm3`.
/// Workers of one class take the same time for the same work.
pub fn device_class(model: &str) -> String {
    let words = model
        .to_ascii_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && *word != "nvidia")
        .collect::<Vec<_>>()
        .join("-");
    let class: String = words.chars().take(40).collect();
    if class.is_empty() {
        "gpu".to_owned()
    } else {
        class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_shown() {
        for name in ["cpu", "cuda:0", "cuda:7"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for bad in ["", "CPU", "cuda:", "cuda:-1", "cuda:x", "metal"] {
            let error = bad.parse::<DeviceName>().unwrap_err();
            assert!(error.to_string().contains("cpu or cuda:N"), "{error}");
        }
        for name in ["f32", "f16", "bf16"] {
            assert_eq!(name.parse::<NumberType>().unwrap().to_string(), name);
        }
        assert!("int8".parse::<NumberType>().is_err());
    }

    #[test]
    fn the_type_follows_the_device() {
        let (cpu, cuda) = (DeviceName::Cpu, DeviceName::Cuda(0));
        assert_eq!(cpu.number_type(None), Ok(NumberType::F32));
        assert_eq!(cuda.number_type(None), Ok(NumberType::Bf16));
        let asked = Some(NumberType::F16);
        assert_eq!(cpu.number_type(asked), Ok(NumberType::F16));
        assert_eq!(cuda.number_type(asked), Ok(NumberType::F16));
        let refused = cpu.number_type(Some(NumberType::Bf16));
        assert_eq!(refused, Err(DeviceError::Bf16OnCpu));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_a_gpu_is_refused_with_what_to_do() {
        let error = DeviceName::Cuda(1).open().unwrap_err().to_string();
        assert!(
            error.contains("cuda:1") && error.contains("cuda-build"),
            "{error}"
        );
        assert!(DeviceName::Cpu.open().unwrap().is_cpu());
    }

    #[test]
    fn classes_can_be_parts_of_a_pools_name() {
        assert_eq!(device_model(&Device::Cpu).unwrap(), "cpu");
        assert_eq!(device_class("cpu"), "cpu");
        assert_eq!(device_class("NVIDIA H100 80GB HBM3"), "h100-80gb-hbm3");
        let slice = device_class("NVIDIA A100-SXM4-80GB MIG 1g.10gb");
        assert_eq!(slice, "a100-sxm4-80gb-mig-1g-10gb");
        assert_eq!(device_class("日本"), "gpu");
        assert!(device_class(&"x".repeat(200)).len() <= 40);
    }
}
