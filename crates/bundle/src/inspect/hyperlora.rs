//! A HyperLoRA release in its own layout: which tensors should be there, in which shapes.
//!
//! Sizes are read off a few tensors (`latents`, `proj_out`, one `to_q`, …); everything else must agree
//! with them and with the list of modules.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::compare::{Expected, Found, compare};
use super::header::Header;
use super::report::bad_file;
use super::{PartReport, Problem};
use crate::error::Error;

const MODULES: &str = "hyper_lora_modules.json";
const BASIS: &str = "hyper_lora_modules.safetensors";
const RESAMPLER: &str = "resampler.safetensors";
const PROJECTOR: &str = "id_projector.safetensors";
const BASE_RESAMPLER: &str = "base_resampler.safetensors";
/// q, k, v and out, times down and up.
const TOKENS_PER_MODULE: usize = 8;
/// Length of an ArcFace embedding.
const EMBEDDING: usize = 512;

/// One entry of the list of modules.
#[derive(Debug, Clone, Deserialize)]
struct Module {
    hidden_size: usize,
    cross_attention_dim: Option<usize>,
}

/// The list of modules in document order, which pairs names with the basis's numbers. (A map of the
/// JSON library would sort them.)
struct Modules(Vec<(String, Module)>);

impl<'de> Deserialize<'de> for Modules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Modules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of {hidden_size, cross_attention_dim} by module name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Modules, A::Error> {
                let mut modules = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    modules.push(entry);
                }
                Ok(Modules(modules))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Describes the release in `dir` and lists what does not fit.
pub(super) fn inspect(dir: &Path, dim_head: usize) -> PartReport {
    let mut report = PartReport::new("hyperlora", "released layout");
    let modules = read_modules(&mut report, dir);
    let basis = report.read(dir, BASIS);
    let resampler = report.read(dir, RESAMPLER);
    // A release that takes CLIP states alone has no use for one.
    let needs_projector = resampler.as_ref().is_none_or(takes_embeddings);
    let projector = (needs_projector || dir.join(PROJECTOR).exists())
        .then(|| report.read(dir, PROJECTOR))
        .flatten();
    let base = dir
        .join(BASE_RESAMPLER)
        .exists()
        .then(|| report.read(dir, BASE_RESAMPLER))
        .flatten();
    for (file, header) in [(RESAMPLER, &resampler), (BASE_RESAMPLER, &base)] {
        if let Some(header) = header {
            check_resampler(&mut report, file, header, modules.as_deref(), dim_head);
        }
    }
    if let Some(header) = &projector {
        check_projector(&mut report, header, resampler.as_ref());
    }
    if let (Some(header), Some(modules)) = (&basis, &modules) {
        check_basis(&mut report, header, modules, resampler.as_ref());
    }
    report
}

/// Whether a resampler has inputs besides the CLIP states: those have their own projection then.
fn takes_embeddings(resampler: &Header) -> bool {
    resampler.tensors.contains_key("proj_in_2.weight")
}

fn read_modules(report: &mut PartReport, dir: &Path) -> Option<Vec<Module>> {
    let path = dir.join(MODULES);
    if !path.exists() {
        report.problems.push(Problem::MissingFile {
            path: MODULES.to_owned(),
        });
        return None;
    }
    let text = fs::read(&path).map_err(Error::io("read", &path));
    let parsed = text.and_then(|text| {
        let bad = |e: serde_json::Error| Error::BadJson {
            path,
            reason: e.to_string(),
        };
        serde_json::from_slice::<Modules>(&text).map_err(bad)
    });
    match parsed {
        Ok(Modules(modules)) => {
            check_names(report, &modules);
            Some(modules.into_iter().map(|(_, module)| module).collect())
        }
        Err(error) => {
            report.problems.push(bad_file(MODULES, error));
            None
        }
    }
}

/// Each module is named once, and its name says which attention it is.
fn check_names(report: &mut PartReport, modules: &[(String, Module)]) {
    let mut seen = BTreeSet::new();
    for (name, module) in modules {
        let text = module.cross_attention_dim.is_some_and(|width| width > 0);
        let end = if text { "_attn2" } else { "_attn1" };
        let reason = if !seen.insert(name) {
            format!("{name} is named a second time")
        } else if !name.ends_with(end) {
            format!(
                "{name}: cross_attention_dim {:?} belongs to a name that ends with {end}",
                module.cross_attention_dim
            )
        } else {
            continue;
        };
        let path = MODULES.to_owned();
        report.problems.push(Problem::BadFile { path, reason });
    }
}

/// The sizes of a resampler, read off its tensors.
struct Sizes {
    tokens: usize,
    dim: usize,
    inner: usize,
    ff: usize,
    depth: usize,
    k: usize,
    inputs: usize,
}

/// One size of one tensor; notes the tensor as missing where it is.
fn size(
    report: &mut PartReport,
    file: &str,
    header: &Header,
    tensor: &str,
    axis: usize,
) -> Option<usize> {
    let found = header
        .tensors
        .get(tensor)
        .and_then(|t| t.shape.get(axis))
        .copied();
    if found.is_none() {
        let (file, tensor) = (file.to_owned(), tensor.to_owned());
        report.problems.push(Problem::MissingTensor {
            file,
            tensor,
            expected: None,
        });
    }
    found
}

impl Sizes {
    fn read(report: &mut PartReport, file: &str, header: &Header) -> Option<Self> {
        let mut of = |tensor: &str, axis| size(report, file, header, tensor, axis);
        // Every size is asked for before one may be given up, so that all missing tensors are named.
        let (tokens, dim) = (of("latents", 1), of("latents", 2));
        let (k, inputs) = (of("proj_out.weight", 0), of("proj_in.weight", 1));
        let inner = of("layers.0.attn1.to_q.weight", 0);
        let ff = of("layers.0.ff.net.0.proj.weight", 0);
        Some(Self {
            tokens: tokens?,
            dim: dim?,
            k: k?,
            inputs: inputs?,
            inner: inner?,
            ff: ff?,
            depth: depth(header),
        })
    }
}

/// One more than the highest layer number.
fn depth(header: &Header) -> usize {
    let number = |name: &String| {
        name.strip_prefix("layers.")?
            .split('.')
            .next()?
            .parse()
            .ok()
    };
    header
        .tensors
        .keys()
        .filter_map(number)
        .max()
        .map_or(0, |last: usize| last.saturating_add(1))
}

fn check_resampler(
    report: &mut PartReport,
    file: &str,
    header: &Header,
    modules: Option<&[Module]>,
    dim_head: usize,
) {
    let Some(mut sizes) = Sizes::read(report, file, header) else {
        return;
    };
    if let Some(modules) = modules {
        sizes.tokens = modules.len() * TOKENS_PER_MODULE;
    }
    if sizes.inner % dim_head != 0 {
        let reason = format!(
            "attention width {} is no multiple of dim_head {dim_head}",
            sizes.inner
        );
        report.problems.push(Problem::BadFile {
            path: file.to_owned(),
            reason,
        });
    }
    // A layer number cannot be trusted to be small, the number of tensors can.
    sizes.depth = sizes.depth.min(header.tensors.len());
    let second = header
        .tensors
        .get("proj_in_2.weight")
        .and_then(|t| t.shape.get(1))
        .copied();
    compare_file(report, file, header, &resampler_tensors(&sizes, second));
}

/// `second` is the width of the CLIP states where there is a second input.
fn resampler_tensors(sizes: &Sizes, second: Option<usize>) -> Expected {
    let mut to = Expected::new();
    to.insert("latents".to_owned(), vec![1, sizes.tokens, sizes.dim]);
    linear(&mut to, "proj_in", sizes.dim, sizes.inputs);
    linear(&mut to, "proj_out", sizes.k, sizes.dim);
    if let Some(width) = second {
        linear(&mut to, "proj_in_2", sizes.dim, width);
    }
    for layer in 0..sizes.depth {
        layer_tensors(&mut to, &format!("layers.{layer}"), sizes, second.is_some());
    }
    to
}

fn layer_tensors(to: &mut Expected, name: &str, sizes: &Sizes, second: bool) {
    let (attentions, norms): (&[&str], &[&str]) = if second {
        (
            &["attn1", "attn2", "attn3"],
            &["attn1", "attn2_l", "attn2_x", "attn3_l", "attn3_y", "ff"],
        )
    } else {
        (&["attn1", "attn2"], &["attn1", "attn2_l", "attn2_x", "ff"])
    };
    for attention in attentions {
        for matrix in ["to_q", "to_k", "to_v"] {
            to.insert(
                format!("{name}.{attention}.{matrix}.weight"),
                vec![sizes.inner, sizes.dim],
            );
        }
        to.insert(
            format!("{name}.{attention}.to_out.0.weight"),
            vec![sizes.dim, sizes.inner],
        );
    }
    for norm in norms {
        to.insert(format!("{name}.norm_{norm}.weight"), vec![sizes.dim]);
        to.insert(format!("{name}.norm_{norm}.bias"), vec![sizes.dim]);
    }
    linear(to, &format!("{name}.ff.net.0.proj"), sizes.ff, sizes.dim);
    linear(to, &format!("{name}.ff.net.2"), sizes.dim, sizes.ff);
}

fn linear(to: &mut Expected, name: &str, outputs: usize, inputs: usize) {
    to.insert(format!("{name}.weight"), vec![outputs, inputs]);
    to.insert(format!("{name}.bias"), vec![outputs]);
}

/// The projector's tokens are as wide as the resampler's first input.
fn check_projector(report: &mut PartReport, header: &Header, resampler: Option<&Header>) {
    let rows = size(report, PROJECTOR, header, "0.weight", 0);
    let own = size(report, PROJECTOR, header, "2.weight", 0);
    let input = resampler.and_then(|r| r.tensors.get("proj_in.weight")?.shape.get(1).copied());
    let (Some(rows), Some(width)) = (rows, input.or(own)) else {
        return;
    };
    let mut to = Expected::new();
    let tokens = rows.checked_div(width).unwrap_or(0).max(1);
    linear(&mut to, "0", tokens * width, EMBEDDING);
    to.insert("2.weight".to_owned(), vec![width]);
    to.insert("2.bias".to_owned(), vec![width]);
    compare_file(report, PROJECTOR, header, &to);
}

fn check_basis(
    report: &mut PartReport,
    header: &Header,
    modules: &[Module],
    resampler: Option<&Header>,
) {
    let first = "0.to_q.id_down_basis";
    let own = size(report, BASIS, header, first, 0);
    let predicted =
        resampler.and_then(|r| r.tensors.get("proj_out.weight")?.shape.first().copied());
    let (Some(k), Some(rank)) = (predicted.or(own), size(report, BASIS, header, first, 2)) else {
        return;
    };
    let mut to = Expected::new();
    basis_tensors(&mut to, modules, "id", k, rank);
    if header.tensors.keys().any(|name| name.contains(".base_")) {
        let found = header
            .tensors
            .get("0.to_q.base_down_basis")
            .and_then(|t| t.shape.get(2));
        basis_tensors(
            &mut to,
            modules,
            "base",
            k,
            found.copied().unwrap_or(rank / 2),
        );
    }
    compare_file(report, BASIS, header, &to);
}

fn basis_tensors(to: &mut Expected, modules: &[Module], kind: &str, k: usize, rank: usize) {
    for (number, module) in modules.iter().enumerate() {
        let hidden = module.hidden_size;
        // Self-attention is written as null or as 0.
        let context = module
            .cross_attention_dim
            .filter(|&width| width > 0)
            .unwrap_or(hidden);
        let inputs = [
            ("to_q", hidden),
            ("to_k", context),
            ("to_v", context),
            ("to_out", hidden),
        ];
        for (matrix, width) in inputs {
            let name = format!("{number}.{matrix}.{kind}");
            to.insert(format!("{name}_down_basis"), vec![k, width, rank]);
            to.insert(format!("{name}_up_basis"), vec![k, rank, hidden]);
        }
    }
}

fn compare_file(report: &mut PartReport, file: &str, header: &Header, expected: &Expected) {
    compare(report, &Found::one(file, &header.tensors), expected, |_| {
        false
    });
}
