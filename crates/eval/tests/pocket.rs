//! A whole evaluation, tiny, on the pocket bundle of random weights: every section has its numbers, and none means anything.

// clippy takes the helper functions of this file for program code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, safetensors};
use likeness_bundle::{Bundle, pocket};
use likeness_eval::{Options, People, Report, evaluate};
use likeness_portraits::{Identity, Setting, draw};
use likeness_sdxl::parts::{Variables, Weights};
use likeness_train::judge::Judge;
use serde_json::{Value, json};
use tempfile::TempDir;

fn bundle(folder: &TempDir) -> PathBuf {
    let dir = folder.path().join("bundle");
    pocket::make(&dir, 1).unwrap();
    dir
}

/// A judge that has learnt nothing.
fn judge(folder: &TempDir) -> PathBuf {
    let variables = Variables::new(1, &Device::Cpu);
    Judge::load(&Weights::variables(&variables, &Device::Cpu), &Device::Cpu).unwrap();
    let all = variables.all().into_iter();
    let tensors: HashMap<_, _> = all
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect();
    let path = folder.path().join("judge.safetensors");
    safetensors::save(&tensors, &path).unwrap();
    path
}

fn options(bundle: &Bundle) -> Options {
    Options {
        count: 3,
        steps: 2,
        side: 64,
        guidances: vec![3.0],
        ..Options::of(bundle)
    }
}

fn table<'a>(report: &'a Report, name: &str) -> &'a likeness_eval::Table {
    let found = report.tables.iter().find(|table| table.name == name);
    found.unwrap()
}

fn cell(report: &Report, of: &str, row: &str, column: &str) -> Option<f64> {
    let table = table(report, of);
    let row = table.rows.iter().find(|r| r.name == row).unwrap();
    let at = table.columns.iter().position(|c| c == column).unwrap();
    row.cells[at].map(|estimate| estimate.mean)
}

#[test]
fn drawn_people_fill_every_section() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::open(bundle(&folder)).unwrap();
    let options = Options {
        judge: Some(judge(&folder)),
        without_base: Some(bundle.dir().to_owned()),
        ..options(&bundle)
    };
    let evaluation = evaluate(&bundle, &options, &|_| ()).unwrap();
    let report = &evaluation.report;
    let names: Vec<&str> = report
        .tables
        .iter()
        .map(|table| table.name.as_str())
        .collect();
    let expected = [
        "Similarity",
        "Attributes",
        "Prompts followed",
        "Spread over photos",
        "Sliders",
        "Blends",
        "Leakage",
    ];
    assert_eq!(names, expected);
    for table in &report.tables {
        assert!(!table.rows.is_empty());
        for row in &table.rows {
            assert_eq!(row.cells.len(), table.columns.len(), "{}", table.name);
            for estimate in row.cells.iter().flatten() {
                assert!(estimate.low <= estimate.high && estimate.mean.is_finite());
            }
        }
    }
    // Without a text tower there is no CLIP-T, and the report says why.
    assert_eq!(
        cell(report, "Similarity", "ID only, 1 photo", "CLIP-T"),
        None
    );
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("no text tower"))
    );
    assert!(cell(report, "Similarity", "ID only, 1 photo", "CLIP-I editing").unwrap() < 1.0);
    assert_eq!(
        cell(report, "Similarity", "no LoRA", "CLIP-I editing"),
        None
    );
    // The bundle beside itself leaks as much.
    let beside = report.findings.iter();
    let beside = beside.filter(|finding| finding.claim.starts_with("trained without"));
    let beside: Vec<f64> = beside.map(|finding| finding.number.mean).collect();
    assert_eq!(beside.len(), 3);
    assert!(beside.iter().all(|less| less.abs() < 1e-12));
    // The pocket encoder is random, but a mean over more photos is nearer to its like all the same.
    let spread = |photos: &str| cell(report, "Spread over photos", photos, "coefficients").unwrap();
    assert!(spread("4 photos") < spread("1 photo"));

    let out = folder.path().join("out");
    evaluation.write(&out).unwrap();
    let text = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(text.contains("## Sliders") && text.contains("## Findings"));
    let json: Value =
        serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(json["tables"][0]["rows"][0]["name"], "no LoRA");
    assert!(image::open(out.join("sheet.png")).unwrap().height() > 500);
}

#[test]
fn a_whole_clip_tells_how_well_prompts_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = bundle(&folder);
    give_text_tower(&dir);
    let bundle = Bundle::open(&dir).unwrap();
    let options = Options {
        sections: vec![likeness_eval::Section::Table],
        ..options(&bundle)
    };
    let report = evaluate(&bundle, &options, &|_| ()).unwrap().report;
    let cosine = cell(&report, "Similarity", "ID only, 1 photo", "CLIP-T").unwrap();
    assert!((-1.0..=1.0).contains(&cosine));
    assert!(!report.notes.iter().any(|note| note.contains("CLIP-T")));
}

/// Makes the bundle's CLIP a whole CLIPModel, with the second text encoder's tower as its own.
fn give_text_tower(dir: &Path) {
    let clip = dir.join("clip-vision");
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let text = read(dir.join("sdxl/text_encoder_2/config.json"));
    let mut vision = read(clip.join("config.json"));
    let wide = text["projection_dim"].as_u64().unwrap();
    vision["projection_dim"] = json!(wide);
    let width = vision["hidden_size"].as_u64().unwrap() as usize;
    let whole = json!({ "projection_dim": wide, "text_config": text, "vision_config": vision });
    std::fs::write(clip.join("config.json"), whole.to_string()).unwrap();
    let load = |path: PathBuf| safetensors::load(path, &Device::Cpu).unwrap();
    let mut tensors = load(clip.join("model.safetensors"));
    tensors.extend(load(dir.join("sdxl/text_encoder_2/model.safetensors")));
    let projection = Tensor::rand(-1f32, 1f32, (wide as usize, width), &Device::Cpu).unwrap();
    tensors.insert("visual_projection.weight".to_owned(), projection);
    safetensors::save(&tensors, clip.join("model.safetensors")).unwrap();
}

#[test]
fn a_base_lora_has_a_row_for_each_scale() {
    let folder = tempfile::tempdir().unwrap();
    let dir = bundle(&folder);
    give_base(&dir.join("hyperlora"));
    let bundle = Bundle::open(&dir).unwrap();
    let options = Options {
        sections: vec![
            likeness_eval::Section::Table,
            likeness_eval::Section::Leakage,
        ],
        judge: Some(judge(&folder)),
        base_scales: vec![0.5, 1.0],
        ..options(&bundle)
    };
    let report = evaluate(&bundle, &options, &|_| ()).unwrap().report;
    let fidelity = |row: &str| cell(&report, "Similarity", row, "CLIP-I fidelity").unwrap();
    let [none, half, whole] = ["ID only, 1 photo", "ID + Base 0.5", "ID + Base 1"].map(fidelity);
    assert!((none - half).abs() > 1e-6 && (half - whole).abs() > 1e-6);
    assert!(cell(&report, "Leakage", "ID + Base 1, silent", "shirt: photo's").is_some());
    let claims: Vec<&str> = report.findings.iter().map(|f| f.claim.as_str()).collect();
    assert!(
        claims.contains(&"the base scale costs editing"),
        "{claims:?}"
    );
}

/// Gives a HyperLoRA model a Base-LoRA: the part of its own resampler that looks at CLIP, and half of its bases.
fn give_base(dir: &Path) {
    let load = |name: &str| safetensors::load(dir.join(name), &Device::Cpu).unwrap();
    let save = |tensors: &HashMap<String, Tensor>, name: &str| {
        safetensors::save(tensors, dir.join(name)).unwrap();
    };
    let resampler = load("resampler.safetensors");
    let looks_at_clip = |name: &String| !name.contains("attn3") && !name.starts_with("proj_in.");
    let own = resampler
        .into_iter()
        .filter(|(name, _)| looks_at_clip(name));
    let base = own.map(|(name, tensor)| (name.replace("proj_in_2", "proj_in"), tensor));
    save(&base.collect(), "base_resampler.safetensors");
    let mut basis = load("hyper_lora_modules.safetensors");
    let halves: Vec<_> = basis
        .iter()
        .map(|(name, tensor)| {
            let rank = if name.ends_with("id_down_basis") {
                2
            } else {
                1
            };
            let half = tensor.dim(rank).unwrap() / 2;
            let half = tensor.narrow(rank, 0, half).unwrap().contiguous().unwrap();
            (name.replace(".id_", ".base_"), half)
        })
        .collect();
    basis.extend(halves);
    save(&basis, "hyper_lora_modules.safetensors");
}

#[test]
fn photos_in_folders_need_a_face_and_people_need_company() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::open(bundle(&folder)).unwrap();
    let photos = folder.path().join("photos");
    let person = photos.join("somebody");
    std::fs::create_dir_all(&person).unwrap();
    // No detector finds a face in a background.
    let empty = image::RgbImage::from_pixel(64, 64, image::Rgb([120; 3]));
    empty.save(person.join("1.png")).unwrap();
    let options = Options {
        people: People::Photos(photos.clone()),
        ..options(&bundle)
    };
    let error = evaluate(&bundle, &options, &|_| ()).err().unwrap();
    assert!(error.to_string().contains("at least 2 people"), "{error}");
    assert!(!error.to_string().contains("somebody"));
}

#[test]
fn drawn_photos_in_folders_are_evaluated_without_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::open(bundle(&folder)).unwrap();
    let photos = folder.path().join("photos");
    for person in 0..12u64 {
        let own = photos.join(person.to_string());
        std::fs::create_dir_all(&own).unwrap();
        for setting in 0..3 {
            let picture = draw(&Identity::drawn(person), &Setting::drawn(setting), 256);
            picture.save(own.join(format!("{setting}.png"))).unwrap();
        }
    }
    let options = Options {
        people: People::Photos(photos),
        count: 12,
        judge: Some(judge(&folder)),
        ..options(&bundle)
    };
    // The frontal detector takes few drawings for faces.
    match evaluate(&bundle, &options, &|_| ()) {
        Ok(evaluation) => {
            let tables = evaluation.report.tables;
            assert_eq!(tables.len(), 1);
            assert_eq!(tables[0].name, "Similarity");
        }
        Err(error) => assert!(error.to_string().contains("at least 2 people"), "{error}"),
    }
}
