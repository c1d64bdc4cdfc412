//! A training of a few steps, from its recipe to a bundle that the services' own loaders open.

use std::ops::ControlFlow;

use candle_core::DType;
use likeness_bundle::Bundle;
use likeness_domain::coefficients::Coefficients;
use likeness_face::Recognizer as RecognizerFile;
use likeness_hyperlora::{Basis as Released, ClipVision, Encoder, Kind, Stack};
use likeness_models::{face_files, load_sdxl, low_rank_updates};
use likeness_sdxl::{LoadOptions, Unmerged};

use super::*;
use crate::crops::{clip_pictures, crops_with_base};
use crate::hypernetwork::{batch_terms, normalised};
use crate::run::Progress;

const RECIPE: &str = r#"
seed = 3
[portraits]
side = 64
people = 4
held_out = 1
pictures = 2
[base]
models = "MODELS"
autoencoder = { batch = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
decoder = { batch = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
clip = { batch = 4, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
face = { batch = 4, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
detector = { batch = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
landmarks = { batch = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
painter = { batch = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
[hyperlora]
k = 4
rank = 2
base_rank = 1
dim = 16
depth = 1
heads = 2
dim_head = 8
ff = 32
id_tokens = 2
same_picture = 0.25
bases_rate = 3.0
base = { batch = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
clip = { batch = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
face = { batch = 4, parts = 2, every = 2, rate = { peak = 1e-3, warm_up = 1, decay_from = 2, steps = 2 } }
"#;

/// The tensors of the files are f16, and the base's are read from there: what is computed with them is that far off.
const HALF: f32 = 4e-3;

fn recipe() -> Recipe {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/pocket");
    toml::from_str(&RECIPE.replace("MODELS", models)).unwrap()
}

fn near(found: &Tensor, expected: &Tensor) {
    let off = (found - expected).unwrap().abs().unwrap().max_all();
    let size = expected.abs().unwrap().max_all().unwrap();
    let [off, size] = [off.unwrap(), size].map(|t| t.to_scalar::<f32>().unwrap());
    assert!(size > 0.0 && off <= HALF * size, "{off} of {size}");
}

#[test]
fn a_bundle_that_was_trained_says_to_the_services_what_the_trainer_says() {
    let (recipe, out) = (recipe(), tempfile::tempdir().unwrap());
    let mut watch = |_: crate::run::Progress<'_>| ControlFlow::Continue(());
    let ended = train(&recipe, out.path(), &Device::Cpu, &mut watch).unwrap();
    assert_eq!(ended, Ended::Done);
    let bundle = Bundle::open(out.path().join("bundle")).unwrap();
    bundle.write_hashes(|_| {}).unwrap();
    let bundle = Bundle::open(bundle.dir()).unwrap();
    assert!(bundle.verify(|_| {}).unwrap().is_ok());

    // The trainer's side: everything is loaded from its checkpoints.
    let plan = recipe.hyperlora.as_ref().unwrap();
    let world = World {
        recipe: &recipe,
        base: recipe.base.as_ref().unwrap(),
        out: out.path(),
        device: &Device::Cpu,
    };
    let trained = trained(&world, &mut watch).unwrap().unwrap();
    let unet = super::unet(&world, &trained).unwrap();
    let network = Network::start(over(&world, &unet).unwrap(), plan, recipe.seed).unwrap();
    stages(&network, &world, &trained, &mut watch).unwrap();
    let who = &world.everyone()[..1];
    let seen = Seen::of(&world, &trained, who).unwrap();
    let own = network.coefficients(&seen.clip, Some(&seen.faces)).unwrap();

    // The services' side.
    let found = encoded(&bundle, who, recipe.seed ^ 1);
    near(&found.clip, &seen.clip);
    near(&found.face, &seen.faces);
    near(&tensor(&found.id), &own);

    // What the noise is told to be with this person's LoRAs, the trainer's terms beside the files'.
    let ones = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
    let [_, (resampler, base)] = network.base.as_ref().unwrap();
    let other = normalised(&resampler.forward(&seen.base, None).unwrap()).unwrap();
    let parts = [(&network.basis, &own, &ones), (base, &other, &ones)];
    let expected = batch_terms(network.unet, &parts).unwrap();
    let found = terms(&bundle, network.unet, &found);
    let captions = Captioned::of(&world, &trained).unwrap();
    let latents = trained.latents.all.narrow(0, 0, 1).unwrap();
    let told = |terms: Option<&Unmerged>| {
        let caption = captions.conditioning(vec![captions.nothing()]).unwrap();
        let unet = &network.unet;
        unet.forward(&latents, &[500.0], &caption, &[terms])
            .unwrap()
    };
    let plain = told(None);
    near(
        &(told(Some(&found)) - &plain).unwrap(),
        &(told(Some(&expected)) - &plain).unwrap(),
    );

    // The base is a model that SDXL's loader takes.
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
    };
    load_sdxl(&bundle.sdxl(None).unwrap(), &options).unwrap();
}

/// One picture as the services see it.
struct Encoded {
    clip: Tensor,
    face: Tensor,
    id: Coefficients,
    base: Coefficients,
}

/// The one picture's crops, whose inexactness follows from the seed, through the bundle's models.
fn encoded(bundle: &Bundle, who: &[(u64, u64)], seed: u64) -> Encoded {
    let part = bundle.hyperlora().unwrap();
    let encoder = Encoder::load(&part.dir, part.dim_head, &Device::Cpu).unwrap();
    let tower = ClipVision::load(&bundle.clip_vision().unwrap(), &Device::Cpu).unwrap();
    let side = tower.image_size() as u32;
    let crops = &crops_with_base(who, side, seed)[0];
    let clip = clip_pictures(&[crops.clip()], &Device::Cpu).unwrap();
    let clip = tower.hidden_states(&clip).unwrap();
    let recognizer = face_files(bundle.face().unwrap()).recognizer;
    let face = RecognizerFile::load(&recognizer).unwrap();
    let face = Tensor::new(&face.embed(crops.face()).unwrap()[..], &Device::Cpu).unwrap();
    let face = face.unsqueeze(0).unwrap();
    let blurred = clip_pictures(&[crops.base().unwrap()], &Device::Cpu).unwrap();
    let blurred = tower.hidden_states(&blurred).unwrap();
    Encoded {
        id: encoder.per_photo(&clip, &face).unwrap()[0].normalised(),
        base: encoder.base_per_photo(&blurred).unwrap()[0].normalised(),
        clip,
        face,
    }
}

/// Both LoRAs of the bundle's basis, as the UNet takes them.
fn terms(bundle: &Bundle, unet: &UNet, person: &Encoded) -> Unmerged {
    let basis = Released::load(&bundle.hyperlora().unwrap().dir, &Device::Cpu).unwrap();
    let mut stack = Stack::default();
    for (coefficients, kind) in [(&person.id, Kind::Id), (&person.base, Kind::Base)] {
        let lora = basis.synthesize(coefficients, kind).unwrap();
        stack.push(&lora, 1.0).unwrap();
    }
    let terms = low_rank_updates(&stack).unwrap().into_iter();
    let terms = terms.map(|term| (format!("unet.{}", term.matrix), term.down, term.up));
    unet.own_terms(terms.collect()).unwrap()
}

/// Coefficients as a tensor [1, tokens, k].
fn tensor(coefficients: &Coefficients) -> Tensor {
    let shape = (1, coefficients.tokens(), coefficients.k());
    Tensor::from_slice(coefficients.values(), shape, &Device::Cpu).unwrap()
}

/// All tensors of a checkpoint, to the bit.
fn bytes(folder: &Path, stage: Which) -> Vec<u8> {
    std::fs::read(folder.join(stage.name()).join("checkpoint.safetensors")).unwrap()
}

#[test]
fn a_stage_that_was_stopped_goes_on_to_the_bit() {
    let mut recipe = recipe();
    let plan = recipe.hyperlora.as_mut().unwrap();
    plan.base = None;
    for plan in [&mut plan.clip, &mut plan.face] {
        plan.rate.steps = 4;
        plan.every = 3;
    }
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let device = Device::Cpu;
    let mut go_on = |_: Progress<'_>| ControlFlow::Continue(());
    let ended = crate::base::train(&recipe, whole.path(), &device, &mut go_on);
    assert_eq!(ended.unwrap(), Ended::Done);
    // The base is the same for both: it is copied.
    copy(whole.path(), parts.path());
    let ended = train(&recipe, whole.path(), &device, &mut go_on);
    assert_eq!(ended.unwrap(), Ended::Done);
    let mut ends = 0;
    loop {
        // In the middle of either stage, nothing is left of the process but its folder.
        let mut stop = |progress: Progress<'_>| {
            if progress.stage.starts_with("hyperlora") && progress.done == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        if train(&recipe, parts.path(), &device, &mut stop).unwrap() == Ended::Done {
            break;
        }
        ends += 1;
    }
    assert_eq!(ends, 2);
    for stage in [Which::Clip, Which::Face] {
        assert!(
            bytes(whole.path(), stage) == bytes(parts.path(), stage),
            "{}",
            stage.name()
        );
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}
