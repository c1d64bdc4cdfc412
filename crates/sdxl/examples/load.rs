//! How long loading a model takes, and how much memory: `load PATH [f32|f16|bf16]`, or `load random f16`
//! for SDXL base with weights at random.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use likeness_sdxl::{LoadOptions, Sdxl, SdxlConfig};

#[allow(clippy::print_stdout, reason = "a program that tells what it measured")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("expected PATH [f32|f16|bf16]")?;
    let dtype = match arguments.next().as_deref() {
        None | Some("f32") => DType::F32,
        Some("f16") => DType::F16,
        Some("bf16") => DType::BF16,
        Some(other) => return Err(format!("{other}: expected f32, f16 or bf16").into()),
    };
    let options = LoadOptions {
        device: Device::Cpu,
        dtype,
    };
    let begun = Instant::now();
    let model = match path.as_str() {
        "random" => Sdxl::random(SdxlConfig::full_size()?, &options, 0)?,
        path => Sdxl::load(Path::new(path), &options)?,
    };
    println!("loaded in {:.1} s", begun.elapsed().as_secs_f64());
    println!("{} attention matrices", model.attention_matrices().len());
    // The largest resident set so far and the present one, on Linux.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|line| {
        line.starts_with("VmHWM") || line.starts_with("VmRSS") || line.starts_with("Rss")
    });
    lines.for_each(|line| println!("{line}"));
    Ok(())
}
