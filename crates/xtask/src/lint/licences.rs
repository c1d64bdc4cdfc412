//! Every dependency under a licence that `deny.toml` allows, and none that it denies. The file is
//! cargo-deny's, so that cargo-deny can be run on it, too.

use anyhow::{Context, Result, bail};

use super::Outcome;
use super::metadata::{self, Package};
use crate::workspace::Workspace;

/// What `deny.toml` says.
struct Policy {
    /// SPDX ids, with their exceptions: `Apache-2.0 WITH LLVM-exception`.
    allow: Vec<String>,
    /// Packages that must not appear.
    deny: Vec<String>,
}

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let text = std::fs::read_to_string(workspace.root.join("deny.toml"));
    let policy = Policy::parse(&text.context("cannot read deny.toml")?)?;
    let packages = metadata::packages(workspace)?;
    let refused: Vec<String> = packages
        .iter()
        .filter_map(|one| policy.objection(one))
        .collect();
    if !refused.is_empty() {
        bail!(
            "{} packages refused:\n  {}",
            refused.len(),
            refused.join("\n  ")
        );
    }
    Ok(Outcome::Ok(format!("{} packages", packages.len())))
}

impl Policy {
    fn parse(text: &str) -> Result<Self> {
        let file: toml::Table = text.parse().context("deny.toml is not TOML")?;
        let list = |section: &str, key: &str| {
            let list = file.get(section).and_then(|section| section.get(key));
            list.and_then(toml::Value::as_array)
                .cloned()
                .with_context(|| format!("deny.toml has no list `{key}` in [{section}]"))
        };
        let allow = list("licenses", "allow")?;
        let deny = list("bans", "deny")?;
        let name = |entry: &toml::Value| Some(entry.get("crate")?.as_str()?.to_owned());
        Ok(Self {
            allow: allow
                .iter()
                .filter_map(|id| Some(id.as_str()?.to_owned()))
                .collect(),
            deny: deny.iter().filter_map(name).collect(),
        })
    }

    fn objection(&self, package: &Package) -> Option<String> {
        let Package {
            name,
            version,
            licence,
            ..
        } = package;
        if self.deny.contains(name) {
            return Some(format!("{name} {version} is denied by deny.toml"));
        }
        match licence {
            None => Some(format!("{name} {version} names no licence")),
            Some(licence) if self.allows(licence) => None,
            Some(licence) => Some(format!("{name} {version} is under {licence}")),
        }
    }

    fn allows(&self, expression: &str) -> bool {
        let spaced = expression
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut parser = Parser {
            words: &words,
            allow: &self.allow,
        };
        parser.either() == Some(true) && parser.words.is_empty()
    }
}

/// A recursive descent over an SPDX expression; OR binds weaker than AND, AND than WITH. `None` is
/// a malformed expression.
struct Parser<'a> {
    words: &'a [&'a str],
    allow: &'a [String],
}

impl Parser<'_> {
    fn either(&mut self) -> Option<bool> {
        let mut result = self.both()?;
        while self.take("OR") {
            result |= self.both()?;
        }
        Some(result)
    }

    fn both(&mut self) -> Option<bool> {
        let mut result = self.one()?;
        while self.take("AND") {
            result &= self.one()?;
        }
        Some(result)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let result = self.either()?;
            return self.take(")").then_some(result);
        }
        let mut id = self.next()?;
        if self.take("WITH") {
            id = format!("{id} WITH {}", self.next()?);
        }
        Some(self.allow.contains(&id))
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    fn next(&mut self) -> Option<String> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some((*first).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"]
        [bans]
        deny = [{ crate = "openssl-sys" }]
    "#;

    #[test]
    fn expressions_are_weighed_as_spdx_means_them() {
        let policy = Policy::parse(FILE).unwrap();
        let cases = [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("MIT/GPL-2.0", true),
            ("MIT AND GPL-2.0", false),
            ("(MIT OR GPL-2.0) AND Unicode-3.0", true),
            ("GPL-2.0 OR MIT AND GPL-3.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("", false),
        ];
        for (expression, expected) in cases {
            assert_eq!(policy.allows(expression), expected, "{expression}");
        }
    }

    #[test]
    fn denied_and_unlicensed_packages_are_named() {
        let policy = Policy::parse(FILE).unwrap();
        let package = |name: &str, licence: Option<&str>| Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: licence.map(str::to_owned),
            ..Package::default()
        };
        let denied = policy
            .objection(&package("openssl-sys", Some("MIT")))
            .unwrap();
        assert_eq!(denied, "openssl-sys 1.0.0 is denied by deny.toml");
        let silent = policy.objection(&package("a", None)).unwrap();
        assert_eq!(silent, "a 1.0.0 names no licence");
        assert_eq!(policy.objection(&package("a", Some("MIT"))), None);
    }

    #[test]
    fn a_file_without_the_lists_is_refused() {
        assert!(Policy::parse("[licenses]").is_err());
    }
}
