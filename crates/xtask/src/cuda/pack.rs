//! The binary and its start script in one archive.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::toolkit::Toolkit;
use crate::run;

/// Finds the CUDA libraries of the machine that it runs on.
const START: &str = include_str!("start.sh");

/// The folder inside the archive.
const NAME: &str = "likeness-cuda";

/// More than that is not sent around lightly.
const LIMIT: u64 = 40_000_000;

/// A packed program.
pub struct Packed {
    /// The folder as it is in the archive.
    folder: PathBuf,
    archive: PathBuf,
}

impl Packed {
    /// What was made, in one line.
    pub fn summary(&self) -> Result<String> {
        let binary = fs::metadata(self.folder.join("likeness-bin"))?.len();
        let archive = fs::metadata(&self.archive)?.len();
        Ok(format!(
            "{}: {:.1} MB, with a binary of {:.1} MB",
            self.archive.display(),
            archive as f64 / 1e6,
            binary as f64 / 1e6
        ))
    }
}

/// Packs `program`, which is stripped already, into `dir`.
pub fn pack(program: &Path, dir: &Path) -> Result<Packed> {
    let folder = dir.join(NAME);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    fs::copy(program, folder.join("likeness-bin"))?;
    let start = folder.join("likeness");
    fs::write(
        &start,
        START.replace("@NEEDED@", &needed(program)?.join(" ")),
    )?;
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755))?;
    let archive = dir.join(format!("{NAME}-x86_64-linux.tar.xz"));
    compress(dir, &archive)?;
    let size = fs::metadata(&archive)?.len();
    if size > LIMIT {
        bail!("the archive has {size} bytes, more than {LIMIT}");
    }
    Ok(Packed { folder, archive })
}

fn compress(dir: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--use-compress-program=xz -9e",
        "--owner=0",
        "--group=0",
        "-C",
    ])
    .arg(dir)
    .arg("-cf")
    .arg(archive)
    .arg(NAME);
    run::checked(tar)
}

/// The libraries of CUDA that the loader has to find, by file name.
fn needed(program: &Path) -> Result<Vec<String>> {
    let mut readelf = Command::new("readelf");
    readelf.args(["--dynamic", "--wide"]).arg(program);
    let text = String::from_utf8_lossy(&run::output(readelf)?).into_owned();
    let needed = cuda_libraries(&text);
    if needed.is_empty() {
        bail!("{} needs no library of CUDA", program.display());
    }
    Ok(needed)
}

fn cuda_libraries(dynamic: &str) -> Vec<String> {
    dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split_once(']'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("libcu") || name.starts_with("libnv"))
        .collect()
}

/// Starts the packed program here: it has to load with the toolkit's libraries and the stub of the driver.
pub fn check(packed: &Packed, toolkit: &Toolkit) -> Result<()> {
    let folders = [toolkit.libraries(), toolkit.cudnn(), toolkit.stubs()];
    let mut likeness = Command::new(packed.folder.join("likeness"));
    likeness
        .arg("--version")
        .env("LIKENESS_CUDA_LIBS", std::env::join_paths(folders)?);
    run::output(likeness)
        .map(|_| ())
        .context("the packed program does not start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_needed_libraries_of_cuda_are_read_off_the_dynamic_section() {
        let dynamic = " 0x01 (NEEDED)  Shared library: [libcuda.so.1]\n 0x01 (NEEDED)  Shared library: [libc.so.6]\n \
                       0x01 (NEEDED)  Shared library: [libnvrtc.so.13]\n 0x0e (SONAME) Library soname: [libcuda.so.1]\n";
        assert_eq!(cuda_libraries(dynamic), ["libcuda.so.1", "libnvrtc.so.13"]);
    }

    /// Runs the script with an empty list of folders and with one that holds all.
    #[test]
    fn the_start_script_says_in_one_line_what_is_missing() {
        let scratch = std::env::temp_dir().join(format!("likeness-start-{}", std::process::id()));
        let libraries = scratch.join("libraries");
        fs::create_dir_all(&libraries).unwrap();
        let script = scratch.join("likeness");
        fs::write(
            &script,
            START.replace("@NEEDED@", "libcutest.so.7 libcudnntest.so.9"),
        )
        .unwrap();
        let binary = scratch.join("likeness-bin");
        fs::write(&binary, "#!/bin/sh\necho \"$LD_LIBRARY_PATH $1\"\n").unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let start = || {
            let mut sh = Command::new("sh");
            sh.arg(&script).arg("--version");
            sh.env("LIKENESS_CUDA_LIBS", &libraries).output().unwrap()
        };
        fs::write(libraries.join("libcutest.so.7"), "").unwrap();
        let refused = start();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.lines().count() == 1,
            "{said}"
        );
        assert!(
            said.contains("libcudnntest.so.9") && !said.contains("libcutest"),
            "{said}"
        );
        fs::write(libraries.join("libcudnntest.so.9"), "").unwrap();
        let started = start();
        let said = String::from_utf8_lossy(&started.stdout).into_owned();
        assert!(said.contains(&*libraries.to_string_lossy()), "{said}");
        assert!(said.trim_end().ends_with("--version"), "{said}");
        fs::remove_dir_all(&scratch).unwrap();
    }
}
