//! A stand-in for the driver's library, which comes with the driver and not with the toolkit: it defines what programs
//! link against, and says "no device" to every call.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run;
use crate::workspace::Workspace;

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: u32 = 100;

/// Writes `libcuda.so` into `dir`, with every function that cudarc names.
pub fn make_stub(workspace: &Workspace, dir: &Path) -> Result<()> {
    let sources = cudarc(workspace)?.join("src/driver/sys/mod.rs");
    let text = fs::read_to_string(&sources)
        .with_context(|| format!("cannot read {}", sources.display()))?;
    let source = stub_source(&text);
    let (file, library) = (dir.join("stub.c"), dir.join("libcuda.so"));
    if library.is_file() && fs::read_to_string(&file).is_ok_and(|had| had == source) {
        return Ok(());
    }
    fs::write(&file, source)?;
    let mut cc = workspace.command("cc");
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
        .arg(&library)
        .arg(&file);
    run::checked(cc)?;
    let numbered = dir.join("libcuda.so.1");
    let _ = fs::remove_file(&numbered);
    symlink("libcuda.so", &numbered)?;
    Ok(())
}

/// The folder of cudarc's sources, of the version that the lock file names.
fn cudarc(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.command("cargo");
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    cargo.args(["--features", super::FEATURES]);
    let metadata: Value = serde_json::from_slice(&run::output(cargo)?)?;
    let packages = metadata["packages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "cudarc")
        .and_then(|package| package["manifest_path"].as_str());
    match manifest.and_then(|manifest| Path::new(manifest).parent()) {
        Some(folder) => Ok(folder.to_path_buf()),
        None => bail!("cargo metadata names no cudarc: has candle another CUDA library now?"),
    }
}

/// One function of C per function `cu…` that the bindings declare.
fn stub_source(bindings: &str) -> String {
    let declared = bindings.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("pub unsafe fn ")?;
        let name = rest.split('(').next()?;
        name.starts_with("cu").then_some(name)
    });
    let names: BTreeSet<&str> = declared.collect();
    names
        .into_iter()
        .map(|name| format!("int {name}(void) {{ return {NO_DEVICE}; }}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_stubbed_once() {
        let bindings = "    pub unsafe fn cuInit(Flags: u32) -> CUresult {\n        fn cuInner();\n\
                        pub unsafe fn cuInit(Flags: u32)\npub unsafe fn culib() -> bool\npub fn cuSafe()\n";
        let expected = "int cuInit(void) { return 100; }\nint culib(void) { return 100; }\n";
        assert_eq!(stub_source(bindings), expected);
    }
}
