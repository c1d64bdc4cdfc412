//! `cargo xtask cuda-build`: the release binary with CUDA and cuDNN, built on a machine that has neither, and packed.

mod driver;
mod pack;
mod toolkit;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::run;
use crate::workspace::Workspace;
use toolkit::Toolkit;

/// The cargo profile; the root's Cargo.toml says why it is not `release`.
const PROFILE: &str = "release-cuda";
const FEATURES: &str = "likeness-cli/cuda,likeness-cli/cudnn";

/// For which GPUs.
#[derive(Args)]
pub struct CudaBuildArgs {
    /// The GPUs' compute capability times ten: 90 is Hopper (H100, H200), 80 A100, 89 L4 and L40
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(75..=120))]
    compute_capability: u32,
}

/// Fetches the toolkit, builds, packs, and starts the packed program once.
pub fn cuda_build(workspace: &Workspace, args: &CudaBuildArgs) -> Result<()> {
    check_machine()?;
    let dir = workspace.target.join("cuda");
    let toolkit = Toolkit::fetch(&dir)?;
    driver::make_stub(workspace, &toolkit.stubs())?;
    let program = build(workspace, &toolkit, args.compute_capability)?;
    let packed = pack::pack(&program, &dir)?;
    pack::check(&packed, &toolkit)?;
    run::note(&packed.summary()?);
    Ok(())
}

fn check_machine() -> Result<()> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if (os, arch) != ("linux", "x86_64") {
        bail!("the pinned CUDA packages are for x86_64 Linux; this is {arch} {os}");
    }
    for program in ["python3", "cc", "g++", "readelf", "tar", "xz"] {
        if !run::exists(program) {
            bail!("cuda-build needs {program}, which is not installed");
        }
    }
    Ok(())
}

fn build(workspace: &Workspace, toolkit: &Toolkit, compute_capability: u32) -> Result<PathBuf> {
    let mut cargo = workspace.command("cargo");
    cargo.args(["build", "--workspace", "--bin", "likeness"]);
    cargo.args(["--profile", PROFILE, "--features", FEATURES]);
    cargo.envs(toolkit.environment()?);
    cargo.env("CUDA_COMPUTE_CAP", compute_capability.to_string());
    run::checked(cargo)?;
    Ok(workspace.target.join(PROFILE).join("likeness"))
}
