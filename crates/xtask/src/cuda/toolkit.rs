//! The CUDA toolkit out of NVIDIA's Python packages, arranged as programs expect to find it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// What pip installs, by checksum.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// As cudarc writes version 13.0.
const CUDA_VERSION: &str = "13000";

/// What is linked, with the number that the packages' file names end in. Only the names without a number are missing.
const LINKED: [(&str, &str); 6] = [
    ("cudart", "13"),
    ("nvrtc", "13"),
    ("curand", "10"),
    ("cublas", "13"),
    ("cublasLt", "13"),
    ("cudnn", "9"),
];

/// An installed toolkit.
pub struct Toolkit {
    home: PathBuf,
}

impl Toolkit {
    /// The toolkit below `dir`, fetched unless it is there: 1.0 GB to load, 1.7 GB on disk.
    pub fn fetch(dir: &Path) -> Result<Self> {
        let (site, made) = (dir.join("site"), dir.join("made-of"));
        if fs::read_to_string(&made).is_ok_and(|had| had == REQUIREMENTS) {
            return Self::arrange(&site);
        }
        run::note("fetching the CUDA toolkit (1.0 GB)");
        let _ = fs::remove_dir_all(&site);
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        install(dir, &site)?;
        fs::write(&made, REQUIREMENTS)?;
        Self::arrange(&site)
    }

    fn arrange(site: &Path) -> Result<Self> {
        let home = site.join("nvidia/cu13").canonicalize()?;
        let toolkit = Self { home };
        link("lib", &toolkit.home.join("lib64"))?;
        for (name, number) in LINKED {
            let folder = match name {
                "cudnn" => "../../cudnn/lib/",
                _ => "",
            };
            let unnumbered = toolkit.libraries().join(format!("lib{name}.so"));
            link(&format!("{folder}lib{name}.so.{number}"), &unnumbered)?;
        }
        fs::create_dir_all(toolkit.stubs())?;
        Ok(toolkit)
    }

    /// Where the libraries lie.
    pub fn libraries(&self) -> PathBuf {
        self.home.join("lib")
    }

    /// Where the libraries of cuDNN lie.
    pub fn cudnn(&self) -> PathBuf {
        self.home.join("../cudnn/lib")
    }

    /// Where the stub of the driver lies.
    pub fn stubs(&self) -> PathBuf {
        self.home.join("lib/stubs")
    }

    /// What the build scripts of candle-kernels and cudarc look at.
    pub fn environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        let home = self.home.clone().into_os_string();
        Ok(vec![
            ("CUDA_HOME", home.clone()),
            ("CUDA_PATH", home.clone()),
            ("CUDA_ROOT", home),
            ("PATH", self.path()?),
            ("CUDARC_CUDA_VERSION", CUDA_VERSION.into()),
        ])
    }

    /// Our nvcc before any other.
    #[allow(
        clippy::disallowed_methods,
        reason = "programs are looked up in the developer's PATH"
    )]
    fn path(&self) -> Result<OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.home.join("bin")).chain(std::env::split_paths(&path));
        Ok(std::env::join_paths(folders)?)
    }
}

fn install(dir: &Path, site: &Path) -> Result<()> {
    let list = dir.join("requirements.txt");
    fs::write(&list, REQUIREMENTS)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--require-hashes", "--only-binary=:all:", "--no-compile"])
        .args(["--no-cache-dir", "--disable-pip-version-check"])
        .arg("--target")
        .arg(site)
        .arg("--requirement")
        .arg(&list)
        // Settings of the user's own pip that do not go with --target.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0");
    run::output(pip).map(|_| ())
}

fn link(to: &str, at: &Path) -> Result<()> {
    let _ = fs::remove_file(at);
    symlink(to, at).with_context(|| format!("cannot link {}", at.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_pinned_by_version_and_checksum() {
        let lines = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
        for line in lines.clone() {
            let (package, sum) = line.split_once(" --hash=sha256:").unwrap();
            assert!(package.contains("=="), "{line}");
            assert!(
                sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()),
                "{line}"
            );
        }
        assert_eq!(lines.count(), 9);
    }
}
