//! The networks that are trained, over a base that is not.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use likeness_hyperlora::{Kind, ResamplerSizes};
use likeness_sdxl::Unmerged;
use likeness_sdxl::parts::{UNet, Variables, Weights};

use super::Which;
use crate::hypernetwork::{Basis, IdProjector, Resampler, batch_terms, modules, normalised};
use crate::recipe::HyperLora;
use crate::recognizer::EMBEDDING;
use crate::run::Plan;
use crate::{Error, Group};

/// What a HyperLoRA is trained over.
#[derive(Clone, Copy)]
pub(crate) struct Over<'a> {
    pub unet: &'a UNet,
    /// Width of CLIP's states.
    pub clip_width: usize,
    pub device: &'a Device,
}

/// What the samples of a part show, each computed when it is asked for: a stage does not look at everything.
pub(super) struct Shown<'a> {
    /// CLIP's states of the face, [b, tokens, width].
    pub clip: &'a dyn Fn() -> Result<Tensor, Error>,
    /// CLIP's states of the picture with the face blurred, [b, tokens, width].
    pub base: &'a dyn Fn() -> Result<Tensor, Error>,
    /// Face embeddings of unit length, [b, 512].
    pub faces: &'a dyn Fn() -> Result<Tensor, Error>,
    /// 1 where the Base-LoRA takes part, [b].
    pub with_base: &'a Tensor,
}

/// A HyperLoRA in training, over its base.
pub(crate) struct Network<'a> {
    pub(super) plan: &'a HyperLora,
    pub variables: Variables,
    pub unet: &'a UNet,
    sizes: ResamplerSizes,
    projector: IdProjector,
    resampler: Resampler,
    pub(super) basis: Basis,
    /// As trained in stage 1, and as looked at afterwards.
    pub(super) base: Option<[(Resampler, Basis); 2]>,
}

impl<'a> Network<'a> {
    /// At its start.
    pub fn start(over: Over<'a>, plan: &'a HyperLora, seed: u64) -> Result<Self, Error> {
        let Over {
            unet,
            clip_width,
            device,
        } = over;
        let sizes = ResamplerSizes {
            tokens: modules(unet)?.len() * 8,
            dim: plan.dim,
            heads: plan.heads,
            dim_head: plan.dim_head,
            ff: plan.ff,
            depth: plan.depth,
            k: plan.k,
            id_tokens: plan.id_tokens,
            embedding: EMBEDDING,
            clip_width,
        };
        let variables = Variables::new(seed, device);
        let weights = Weights::variables(&variables, device);
        let (k, width) = (plan.k, sizes.clip_width);
        let id_resampler =
            Resampler::load(&weights.pp("resampler"), &sizes, plan.dim, Some(width))?;
        let projector = IdProjector::load(&weights.pp("id_projector"), &sizes)?;
        Basis::start(&variables, "basis", unet, Kind::Id, k, plan.rank)?;
        let basis = Basis::load(&weights.pp("basis"), unet, Kind::Id, k, plan.rank)?;
        let base = plan.base.as_ref().map(|_| {
            Basis::start(&variables, "basis", unet, Kind::Base, k, plan.base_rank)?;
            let frozen = Weights::frozen(&variables, device);
            let one = |weights: &Weights| {
                let resampler =
                    Resampler::load(&weights.pp("base_resampler"), &sizes, width, None)?;
                let basis = Basis::load(&weights.pp("basis"), unet, Kind::Base, k, plan.base_rank)?;
                Ok::<_, Error>((resampler, basis))
            };
            Ok::<_, Error>([one(&weights)?, one(&frozen)?])
        });
        Ok(Self {
            plan,
            variables,
            unet,
            sizes,
            projector,
            resampler: id_resampler,
            basis,
            base: base.transpose()?,
        })
    }

    /// The stages and their plans, in order.
    pub(super) fn stages(&self) -> Vec<(Which, &Plan)> {
        let first = self.plan.base.as_ref().map(|plan| (Which::Base, plan));
        let second = [
            (Which::Clip, &self.plan.clip),
            (Which::Face, &self.plan.face),
        ];
        first.into_iter().chain(second).collect()
    }

    /// Width of a head, which the files do not say.
    pub fn dim_head(&self) -> usize {
        self.plan.dim_head
    }

    /// What a stage trains.
    pub(super) fn trained_in(&self, which: Which) -> BTreeMap<String, Var> {
        let all = self.variables.all().into_iter();
        let own = all.filter(|(name, _)| {
            let of_base = name.starts_with("base_resampler.") || name.contains(".base_");
            let of_projector = name.starts_with("id_projector.");
            match which {
                Which::Base => of_base,
                Which::Clip => !of_base && !of_projector,
                Which::Face => !of_base,
            }
        });
        own.collect()
    }

    /// The ID-LoRA's unit tokens [b, tokens, k] from CLIP's states and, in stage 2b, face embeddings.
    pub(super) fn coefficients(
        &self,
        clip: &Tensor,
        faces: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        let tokens = match faces {
            Some(faces) => self.projector.forward(faces)?,
            None => Tensor::zeros(
                (clip.dim(0)?, self.sizes.id_tokens, self.sizes.dim),
                clip.dtype(),
                clip.device(),
            )?,
        };
        Ok(normalised(&self.resampler.forward(&tokens, Some(clip))?)?)
    }

    /// The low-rank terms of a batch: the ID-LoRA from the faces shown, the Base-LoRA from what is around them.
    pub(super) fn terms(&self, which: Which, shown: &Shown<'_>) -> Result<Unmerged, Error> {
        let Network {
            unet, basis, base, ..
        } = self;
        let with_base = shown.with_base;
        let ones = with_base.ones_like()?;
        let blurred = |resampler: &Resampler| -> Result<Tensor, Error> {
            Ok(normalised(&resampler.forward(&(shown.base)()?, None)?)?)
        };
        if let (Which::Base, Some([(resampler, basis), _])) = (which, base) {
            return batch_terms(unet, &[(basis, &blurred(resampler)?, &ones)]);
        }
        let faces = (which == Which::Face).then(shown.faces).transpose()?;
        let own = self.coefficients(&(shown.clip)()?, faces.as_ref())?;
        match base {
            Some([_, (resampler, base)]) => {
                let other = blurred(resampler)?.detach();
                batch_terms(unet, &[(basis, &own, &ones), (base, &other, with_base)])
            }
            None => batch_terms(unet, &[(basis, &own, &ones)]),
        }
    }

    /// The learning rate and decay of a variable: bases may have a rate of their own.
    pub(super) fn group(&self, name: &str, var: &Var) -> Group {
        let bases = self.plan.bases_rate;
        let rate = if name.ends_with("_basis") { bases } else { 1.0 };
        Group {
            rate,
            ..Group::of(var)
        }
    }
}
