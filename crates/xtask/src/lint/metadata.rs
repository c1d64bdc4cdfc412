//! What cargo knows about the packages, cut down to what the checks ask.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;
use crate::workspace::Workspace;

/// The platforms that the project runs on; others' dependencies are not looked at.
const PLATFORMS: [&str; 4] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
];

/// One package of the dependency graph.
#[derive(Debug, Default, Clone)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// An SPDX expression.
    pub licence: Option<String>,
    /// Whether it is one of ours.
    pub ours: bool,
    /// What its manifest names.
    pub dependencies: Vec<Dependency>,
}

/// One line of a manifest's dependencies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub name: String,
    /// Only for its tests.
    pub dev: bool,
}

/// All packages that any of ours depends on, ours included.
pub fn packages(workspace: &Workspace) -> Result<Vec<Package>> {
    let mut cargo = workspace.command("cargo");
    cargo.args(["metadata", "--format-version=1"]);
    for platform in PLATFORMS {
        cargo.args(["--filter-platform", platform]);
    }
    parse(&serde_json::from_slice(&run::output(cargo)?)?)
}

fn parse(metadata: &Value) -> Result<Vec<Package>> {
    let members = metadata["workspace_members"].as_array();
    let members = members.context("cargo metadata names no members")?;
    let packages = metadata["packages"].as_array();
    let packages = packages.context("cargo metadata names no packages")?;
    packages
        .iter()
        .map(|package| parse_package(package, members))
        .collect()
}

fn parse_package(package: &Value, members: &[Value]) -> Result<Package> {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    let dependencies = package["dependencies"].as_array();
    Ok(Package {
        name: text("name").context("a package has no name")?,
        version: text("version").context("a package has no version")?,
        licence: text("license"),
        ours: members.contains(&package["id"]),
        dependencies: dependencies
            .context("a package has no dependencies")?
            .iter()
            .filter_map(parse_dependency)
            .collect(),
    })
}

fn parse_dependency(dependency: &Value) -> Option<Dependency> {
    Some(Dependency {
        name: dependency["name"].as_str()?.to_owned(),
        dev: dependency["kind"].as_str() == Some("dev"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_and_test_dependencies_are_told_apart() {
        let metadata = json!({
            "workspace_members": ["a-id"],
            "packages": [
                { "id": "a-id", "name": "a", "version": "1.0.0", "license": "MIT", "dependencies": [
                    { "name": "b", "kind": null }, { "name": "c", "kind": "dev" },
                ]},
                { "id": "b-id", "name": "b", "version": "2.0.0", "license": null,
                  "dependencies": [] },
            ],
        });
        let found = parse(&metadata).unwrap();
        assert!(found[0].ours && !found[1].ours);
        assert_eq!(found[1].licence, None);
        let dev: Vec<bool> = found[0].dependencies.iter().map(|d| d.dev).collect();
        assert_eq!(dev, [false, true]);
    }
}
