//! A Python with what the Python client example needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

const PACKAGES: [&str; 3] = [
    "grpcio-tools==1.85.1",
    "googleapis-common-protos==1.76.0",
    "protobuf==7.36.2",
];

/// The Python of a virtual environment with the packages, made on the first call; `None`, with a
/// line that says why, where that is impossible.
pub fn environment(workspace: &Workspace) -> Option<PathBuf> {
    let home = workspace.tools_dir().join("python");
    let (python, made) = (home.join("bin/python"), home.join("made-of"));
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&made).is_ok_and(|had| had == wanted) {
        return Some(python);
    }
    let result = make(&home, &python).and_then(|()| Ok(std::fs::write(&made, wanted)?));
    if let Err(error) = &result {
        run::note(&format!(
            "no Python for the client example, its test skips: {error:#}"
        ));
    }
    result.ok().map(|()| python)
}

fn make(home: &Path, python: &Path) -> Result<()> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(home);
    run::output(venv)?;
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args(["--only-binary=:all:"])
    .args(PACKAGES);
    run::output(pip).map(|_| ())
}
