//! The trained basis, and synthesis: coefficients × basis → LoRA.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use likeness_domain::coefficients::Coefficients;
use rayon::prelude::*;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::error::Error;
use crate::files::{Layout, TensorFile, read_json};
use crate::lora::{Lora, LoraMatrix};
use crate::names::{Attention, Block, Naming, Projection};
use crate::product::{all_finite, product, transposed};
use crate::sizes::Sizes;

const NAMES: &str = "hyper_lora_modules.json";
const TENSORS: &str = "hyper_lora_modules.safetensors";

/// Its presence says that a model has a Base-LoRA.
const BASE_TENSOR: &str = "0.to_q.base_down_basis";

/// Tokens of one module: four matrices, down and up each.
const TOKENS_PER_MODULE: usize = 8;

/// alpha over rank of a synthesised LoRA.
const SCALE: f64 = 0.5;

/// The most modules that a file may name: SDXL has 140.
const MAX_MODULES: usize = 4096;

/// Which LoRA to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The identity's.
    Id,
    /// The one for all that is not the face, if the model has it.
    Base,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Base => "base",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix())
    }
}

/// The basis matrices of a HyperLoRA model. On the CPU they stay in the file, mapped into memory; on
/// another device they are kept there in the file's number type.
pub struct Basis {
    modules: Vec<Module>,
    naming: Naming,
    k: usize,
    id_rank: usize,
    base_rank: Option<usize>,
    file: TensorFile,
    device: Device,
    on_device: BTreeMap<String, Tensor>,
}

/// One attention module: its block and the width of what it reads and writes.
pub(crate) struct Module {
    pub block: Block,
    pub hidden: usize,
    pub context: usize,
}

impl Basis {
    /// Loads `hyper_lora_modules.json` and `hyper_lora_modules.safetensors` from a model's directory.
    ///
    /// # Errors
    /// If a file is missing or damaged, the names are not attention modules of SDXL, or the tensors do
    /// not fit the names: missing, too many, misshapen, or of different ranks.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        let (modules, naming) = read_modules(&dir.join(NAMES))?;
        Self::from_file(
            TensorFile::open(&dir.join(TENSORS))?,
            modules,
            naming,
            device,
        )
    }

    /// A basis of random numbers of type f16, in memory (on the CPU) or on the device.
    ///
    /// # Errors
    /// If memory is short.
    pub fn random(sizes: &Sizes, seed: u64, device: &Device) -> Result<Self, Error> {
        let modules: Vec<Module> = sizes.modules().collect();
        let layout = layout(&modules, sizes.k, sizes.rank, None);
        let file = TensorFile::random(&layout, DType::F16, seed)?;
        Self::from_file(file, modules, Naming::Diffusers, device)
    }

    fn from_file(
        file: TensorFile,
        modules: Vec<Module>,
        naming: Naming,
        device: &Device,
    ) -> Result<Self, Error> {
        let [k, _, id_rank] = file.shape("0.to_q.id_down_basis")?;
        let base = file
            .has(BASE_TENSOR)
            .then(|| file.shape::<3>(BASE_TENSOR))
            .transpose()?;
        let base_rank = base.map(|[_, _, rank]| rank);
        if k == 0 || id_rank == 0 || base_rank == Some(0) {
            return Err(file.content("0.to_q has a size of zero".into()));
        }
        file.check(&layout(&modules, k, id_rank, base_rank), |_| false)?;
        let mut basis = Self {
            modules,
            naming,
            k,
            id_rank,
            base_rank,
            file,
            device: device.clone(),
            on_device: BTreeMap::new(),
        };
        if !device.is_cpu() {
            basis.move_to_device()?;
        }
        Ok(basis)
    }

    fn move_to_device(&mut self) -> Result<(), Error> {
        for name in self.file.names() {
            let (dtype, bytes) = self.file.bytes(&name)?;
            let shape = self.file.shape::<3>(&name)?;
            let rows = (shape[0], shape[1] * shape[2]);
            let tensor = Tensor::from_raw_buffer(bytes, dtype, &[rows.0, rows.1], &self.device)?;
            self.on_device.insert(name, tensor);
        }
        Ok(())
    }

    /// Tokens of the coefficients that it takes: 8 per module.
    pub fn tokens(&self) -> usize {
        TOKENS_PER_MODULE * self.modules.len()
    }

    /// Numbers per token of the coefficients that it takes.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The rank of a LoRA of this kind, or `None` if the model has none of it.
    pub fn rank(&self, kind: Kind) -> Option<usize> {
        match kind {
            Kind::Id => Some(self.id_rank),
            Kind::Base => self.base_rank,
        }
    }

    /// The attention modules, in the order of their tokens.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Block> + '_ {
        self.modules.iter().map(|module| module.block)
    }

    /// The naming that the model's own list of modules uses.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// Makes a LoRA from normalised coefficients.
    ///
    /// # Errors
    /// If the coefficients' shape is not this basis's, there is no LoRA of this kind, or the basis holds
    /// a value that is not finite.
    pub fn synthesize(&self, coefficients: &Coefficients, kind: Kind) -> Result<Lora, Error> {
        let (found_tokens, found_k) = (coefficients.tokens(), coefficients.k());
        let (tokens, k) = (self.tokens(), self.k);
        if (found_tokens, found_k) != (tokens, k) {
            return Err(Error::CoefficientsShape {
                tokens,
                k,
                found_tokens,
                found_k,
            });
        }
        let rank = self.rank(kind).ok_or(Error::NoBase)?;
        let mut products = self.products(coefficients, kind)?.into_iter();
        let mut matrices = Vec::with_capacity(tokens / 2);
        for module in &self.modules {
            for projection in Projection::ALL {
                let (Some(down), Some(up)) = (products.next(), products.next()) else {
                    break;
                };
                matrices.push(LoraMatrix {
                    block: module.block,
                    projection,
                    down,
                    up,
                    alpha: SCALE * rank as f64,
                });
            }
        }
        Ok(Lora { matrices })
    }

    /// One factor per token, in the order of the tokens: downs `[rank, in]`, ups `[out, rank]`.
    fn products(&self, coefficients: &Coefficients, kind: Kind) -> Result<Vec<Tensor>, Error> {
        let tokens: Vec<_> = coefficients
            .values()
            .chunks_exact(self.k)
            .zip(names(self.modules.len(), kind))
            .collect();
        if self.device.is_cpu() {
            tokens
                .par_iter()
                .map(|(token, name)| self.product_in_memory(token, name))
                .collect()
        } else {
            let products = tokens
                .iter()
                .map(|(token, name)| self.product_on_device(token, name));
            let products = products.collect::<Result<Vec<_>, Error>>()?;
            self.check_finite(&products, kind)?;
            Ok(products)
        }
    }

    /// Refuses products with NaN or infinity; the device is asked once for all of them.
    fn check_finite(&self, products: &[Tensor], kind: Kind) -> Result<(), Error> {
        // 0 · x is 0 for finite x and NaN otherwise.
        let probes = products.iter().map(|product| (product * 0.0)?.sum_all());
        let probes = probes.collect::<candle_core::Result<Vec<_>>>()?;
        let read = Tensor::stack(&probes, 0)?.to_vec1::<f32>()?;
        let damaged = read.iter().position(|&probe| probe != 0.0);
        match damaged.and_then(|at| names(self.modules.len(), kind).nth(at)) {
            Some(name) => Err(self.file.not_finite(&name)),
            None => Ok(()),
        }
    }

    fn product_in_memory(&self, token: &[f32], name: &str) -> Result<Tensor, Error> {
        let (dtype, bytes) = self.file.bytes(name)?;
        let [_, rows, columns] = self.file.shape(name)?;
        let values = product(token, bytes, dtype, rows * columns);
        if !all_finite(&values) {
            return Err(self.file.not_finite(name));
        }
        let values = transposed(&values, rows, columns);
        Ok(Tensor::from_vec(values, (columns, rows), &Device::Cpu)?)
    }

    fn product_on_device(&self, token: &[f32], name: &str) -> Result<Tensor, Error> {
        let missing = || self.file.content(format!("tensor {name} is not loaded"));
        let basis = self
            .on_device
            .get(name)
            .ok_or_else(missing)?
            .to_dtype(DType::F32)?;
        let token = Tensor::from_slice(token, (1, self.k), &self.device)?;
        let [_, rows, columns] = self.file.shape(name)?;
        let product = token.matmul(&basis)?.reshape((rows, columns))?;
        Ok(product.t()?.contiguous()?)
    }
}

impl Module {
    /// What a matrix reads and writes: [out, in] of the U-Net's weight, the other way round.
    pub(crate) fn sizes(&self, projection: Projection) -> (usize, usize) {
        match projection {
            Projection::Q | Projection::Out => (self.hidden, self.hidden),
            Projection::K | Projection::V => (self.context, self.hidden),
        }
    }
}

/// The names of a kind's tensors, in the order of the tokens.
fn names(modules: usize, kind: Kind) -> impl Iterator<Item = String> {
    (0..modules).flat_map(move |module| {
        Projection::ALL.into_iter().flat_map(move |projection| {
            ["down", "up"].map(|side| basis_name(module, projection, kind, side))
        })
    })
}

fn basis_name(module: usize, projection: Projection, kind: Kind, side: &str) -> String {
    format!(
        "{module}.{}.{}_{side}_basis",
        projection.basis_name(),
        kind.prefix()
    )
}

/// Every tensor of the file.
fn layout(modules: &[Module], k: usize, id_rank: usize, base_rank: Option<usize>) -> Layout {
    let mut names = Layout::new();
    let kinds = [(Kind::Id, Some(id_rank)), (Kind::Base, base_rank)];
    for (kind, rank) in kinds
        .into_iter()
        .filter_map(|(kind, rank)| Some((kind, rank?)))
    {
        for (number, module) in modules.iter().enumerate() {
            for projection in Projection::ALL {
                let (input, out) = module.sizes(projection);
                let name = |side| basis_name(number, projection, kind, side);
                names.insert(name("down"), vec![k, input, rank]);
                names.insert(name("up"), vec![k, rank, out]);
            }
        }
    }
    names
}

fn read_modules(path: &Path) -> Result<(Vec<Module>, Naming), Error> {
    let content = |problem| Error::Content {
        path: path.to_owned(),
        problem,
    };
    let Entries(entries) = read_json(path)?;
    if entries.is_empty() || entries.len() > MAX_MODULES {
        let problem = format!("{} modules, expected 1 to {MAX_MODULES}", entries.len());
        return Err(content(problem));
    }
    let mut modules = Vec::with_capacity(entries.len());
    let mut namings = Vec::with_capacity(entries.len());
    let mut seen = BTreeSet::new();
    for (name, entry) in &entries {
        let (module, naming) = module(name, entry).map_err(content)?;
        if !seen.insert(module.block) {
            return Err(content(format!("{name} names a module a second time")));
        }
        modules.push(module);
        namings.push(naming);
    }
    if namings.iter().any(|naming| *naming != namings[0]) {
        return Err(content(
            "names of both sgm and diffusers naming, expected one".into(),
        ));
    }
    Ok((modules, namings[0]))
}

fn module(name: &str, entry: &Entry) -> Result<(Module, Naming), String> {
    let (block, naming) = Block::parse(name).ok_or_else(|| {
        format!(
            "{name:?} is not an attention module of SDXL; expected a name such as \
             lora_unet_input_blocks_4_1_transformer_blocks_0_attn1 or \
             lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1"
        )
    })?;
    let hidden = entry.hidden_size;
    let context = match (block.attention, entry.cross_attention_dim.unwrap_or(0)) {
        (Attention::Itself, 0) => hidden,
        // What attn1 attends to is as wide as what it reads; some lists say so.
        (Attention::Itself, context) if context == hidden => hidden,
        (Attention::Text, context) if context > 0 => context,
        (Attention::Itself, _) => return Err(format!("{name}: cross_attention_dim of an attn1")),
        (Attention::Text, _) => return Err(format!("{name}: attn2 without cross_attention_dim")),
    };
    match hidden {
        0 => Err(format!("{name}: hidden_size is 0")),
        _ => Ok((
            Module {
                block,
                hidden,
                context,
            },
            naming,
        )),
    }
}

/// What the list says of one module.
#[derive(Deserialize)]
struct Entry {
    hidden_size: usize,
    cross_attention_dim: Option<usize>,
}

/// The list of modules in the order of the document, which is what numbers them.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from module names to their sizes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
