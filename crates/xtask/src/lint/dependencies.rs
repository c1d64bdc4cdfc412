//! Who may depend on whom: the rules of `docs/architecture.md`, as tables.

use anyhow::{Result, bail};

use super::Outcome;
use super::metadata::{self, Package};
use crate::workspace::Workspace;

const PREFIX: &str = "likeness-";

/// Which of our crates each may depend on. One that is missing here is an error: it has no place
/// in the architecture yet.
const ALLOWED: [(&str, &[&str]); 28] = [
    ("domain", &[]),
    ("checkpoint", &[]),
    ("runtime", &[]),
    ("local-stack", &[]),
    ("wire", &["domain"]),
    ("registry", &["domain"]),
    ("queue", &["domain"]),
    ("blob", &["domain"]),
    ("onnx", &[]),
    ("picture", &[]),
    ("portraits", &[]),
    ("chart", &[]),
    ("face", &["domain", "picture"]),
    ("webdataset", &["picture"]),
    ("hyperlora", &["domain"]),
    ("sdxl", &["checkpoint", "domain"]),
    ("bundle", &["checkpoint", "domain", "onnx"]),
    (
        "train",
        &[
            "bundle",
            "chart",
            "domain",
            "face",
            "hyperlora",
            "models",
            "onnx",
            "portraits",
            "sdxl",
            "webdataset",
        ],
    ),
    ("models", &["bundle", "face", "hyperlora", "sdxl"]),
    (
        "eval",
        &[
            "bundle",
            "chart",
            "domain",
            "face",
            "hyperlora",
            "models",
            "portraits",
            "sdxl",
            "train",
        ],
    ),
    (
        "api",
        &[
            "blob", "domain", "picture", "queue", "registry", "runtime", "wire",
        ],
    ),
    (
        "dispatch",
        &["blob", "domain", "queue", "registry", "runtime"],
    ),
    (
        "enroll",
        &[
            "blob",
            "bundle",
            "domain",
            "face",
            "hyperlora",
            "models",
            "queue",
            "registry",
            "runtime",
        ],
    ),
    // No registry: a render worker holds no database credential.
    (
        "render",
        &[
            "blob",
            "bundle",
            "domain",
            "face",
            "hyperlora",
            "models",
            "picture",
            "queue",
            "runtime",
            "sdxl",
        ],
    ),
    (
        "cli",
        &[
            "api",
            "blob",
            "bundle",
            "dispatch",
            "domain",
            "enroll",
            "eval",
            "face",
            "hyperlora",
            "local-stack",
            "models",
            "queue",
            "registry",
            "render",
            "runtime",
            "sdxl",
            "train",
            "wire",
        ],
    ),
    ("test-support", &["domain", "local-stack"]),
    ("xtask", &["chart", "local-stack", "portraits"]),
    // Measures the services, and so is like a test of them.
    (
        "load",
        &[
            "api",
            "blob",
            "dispatch",
            "domain",
            "local-stack",
            "queue",
            "registry",
            "runtime",
            "test-support",
            "wire",
        ],
    ),
];

/// The end-to-end tests, which may use everything as a test dependency.
const TESTS: &str = "tests";
const SERVICES: [&str; 5] = ["api", "enroll", "dispatch", "render", "cli"];

/// Libraries (each with all whose names it begins) and the only crates of ours that may name them.
const HOMES: [(&str, &[&str]); 5] = [
    ("sqlx", &["registry", "test-support"]),
    ("async-nats", &["queue", "test-support"]),
    ("aws", &["blob", "test-support"]),
    ("tonic", &["wire", "api", "cli", "load", "tests"]),
    // The models, and what they are loaded from, are plain synchronous code.
    (
        "tokio",
        &[
            "blob",
            "queue",
            "registry",
            "runtime",
            "wire",
            "local-stack",
            "test-support",
            "api",
            "enroll",
            "dispatch",
            "render",
            "cli",
            "load",
            "tests",
        ],
    ),
];

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let packages = metadata::packages(workspace)?;
    let broken = violations(&packages);
    if !broken.is_empty() {
        bail!("{} broken rules:\n  {}", broken.len(), broken.join("\n  "));
    }
    let ours = packages.iter().filter(|package| package.ours).count();
    Ok(Outcome::Ok(format!("{ours} crates")))
}

/// Every broken rule, in one line each.
fn violations(packages: &[Package]) -> Vec<String> {
    let ours = packages.iter().filter(|package| package.ours);
    ours.flat_map(|package| {
        let name = short(&package.name);
        let known = name == TESTS || allowed(name).is_some();
        let unknown = (!known).then(|| format!("{name} has no place in the table"));
        let edges = package.dependencies.iter().filter_map(move |to| {
            let fine = match to.name.strip_prefix(PREFIX) {
                Some(own) => may_use_own(name, own, to.dev),
                None => may_use_library(name, &to.name),
            };
            let kind = if to.dev { "tests of " } else { "" };
            (!fine).then(|| format!("{kind}{name} must not depend on {}", short(&to.name)))
        });
        unknown.into_iter().chain(edges)
    })
    .collect()
}

/// Tests may use any library crate of ours besides, but no other service.
fn may_use_own(from: &str, to: &str, dev: bool) -> bool {
    if from == TESTS {
        return dev && to != "xtask";
    }
    let listed = allowed(from).is_some_and(|allowed| allowed.contains(&to));
    listed || (dev && to != "xtask" && to != TESTS && !SERVICES.contains(&to))
}

fn may_use_library(from: &str, library: &str) -> bool {
    HOMES
        .iter()
        .filter(|(family, _)| is_of_family(library, family))
        .all(|(_, homes)| homes.contains(&from))
}

fn is_of_family(library: &str, family: &str) -> bool {
    let rest = library.strip_prefix(family);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn allowed(name: &str) -> Option<&'static [&'static str]> {
    let row = ALLOWED.iter().find(|(from, _)| *from == name);
    row.map(|(_, allowed)| *allowed)
}

fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::super::metadata::Dependency;
    use super::*;

    fn broken(from: &str, to: &str, dev: bool) -> bool {
        let package = Package {
            name: format!("{PREFIX}{from}"),
            ours: true,
            dependencies: vec![Dependency {
                name: to.to_owned(),
                dev,
            }],
            ..Package::default()
        };
        !violations(&[package]).is_empty()
    }

    #[test]
    fn lower_crates_do_not_know_higher_ones() {
        assert!(broken("domain", "likeness-wire", false));
        assert!(broken("queue", "likeness-registry", false));
        assert!(!broken("queue", "likeness-domain", false));
    }

    #[test]
    fn services_do_not_know_each_other_cli_aside() {
        assert!(broken("api", "likeness-dispatch", false));
        assert!(broken("api", "likeness-dispatch", true));
        assert!(!broken("cli", "likeness-dispatch", false));
    }

    #[test]
    fn render_workers_do_not_know_the_database() {
        assert!(broken("render", "likeness-registry", false));
    }

    #[test]
    fn test_support_is_for_tests() {
        assert!(broken("api", "likeness-test-support", false));
        assert!(!broken("api", "likeness-test-support", true));
        assert!(broken("dispatch", "likeness-local-stack", false));
        assert!(!broken("cli", "likeness-local-stack", false));
    }

    #[test]
    fn libraries_stay_in_their_homes() {
        assert!(broken("api", "sqlx", false));
        assert!(broken("api", "sqlx-postgres", false));
        assert!(!broken("registry", "sqlx", false));
        assert!(broken("dispatch", "tonic", false));
        assert!(broken("sdxl", "tokio-util", false));
        assert!(broken("render", "aws-sdk-s3", false));
        assert!(!broken("sdxl", "tokenizers", false));
    }

    #[test]
    fn the_end_to_end_tests_may_use_everything_in_tests_alone() {
        assert!(!broken("tests", "likeness-dispatch", true));
        assert!(broken("tests", "likeness-dispatch", false));
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        assert!(broken("shiny", "anyhow", false));
    }
}
