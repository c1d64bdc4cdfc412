//! What to evaluate, and with what.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use candle_core::{DType, Device};
use likeness_bundle::Bundle;
use serde::Serialize;

/// Who is enrolled.
#[derive(Clone, Debug)]
pub enum People {
    /// Drawn people of these numbers, whom no training has seen.
    Drawn(Range<u64>),
    /// A folder with one folder of photos for each person.
    Photos(PathBuf),
}

/// Where the face of a drawn photo is. Of other photos the detector says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Faces {
    /// Where the detector finds it; where the drawing has it if the detector finds none.
    Detected,
    /// Where the drawing has it.
    Drawn,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// The paper's table: CLIP-I, CLIP-T and ID similarity.
    Table,
    /// Attributes of the renders beside the enrolled people's.
    Attributes,
    /// How far draws of 1 to 4 photos are from each other.
    Spread,
    /// Sliders from pairs that differ in one attribute.
    Slider,
    /// Blends of two people in equal parts.
    Blend,
    /// Whose background and shirt a render has: the prompt's or the enrolled photo's.
    Leakage,
}

impl Section {
    /// All of them.
    pub const ALL: [Section; 6] = [
        Section::Table,
        Section::Attributes,
        Section::Spread,
        Section::Slider,
        Section::Blend,
        Section::Leakage,
    ];
    const NAMES: [&str; 6] = [
        "table",
        "attributes",
        "spread",
        "slider",
        "blend",
        "leakage",
    ];
}

impl FromStr for Section {
    type Err = String;

    fn from_str(text: &str) -> Result<Section, String> {
        let at = Section::NAMES.iter().position(|name| *name == text);
        at.map(|at| Section::ALL[at])
            .ok_or_else(|| format!("expected one of {}", Section::NAMES.join(", ")))
    }
}

/// What to evaluate, and with what. It may be printed and written: nothing in it is personal but the folder of photos,
/// which reports leave out.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Who.
    #[serde(skip)]
    pub people: People,
    /// How many of them, at most.
    pub count: usize,
    /// Where a drawn face is.
    pub faces: Faces,
    /// Prompts for people who are not drawn, in turn; a drawn person's prompt is a caption of another setting.
    #[serde(skip)]
    pub prompts: Vec<String>,
    /// The judge's file.
    #[serde(skip)]
    pub judge: Option<PathBuf>,
    /// A bundle that was trained without the stage of the Base-LoRA, to compare what leaks.
    #[serde(skip)]
    pub without_base: Option<PathBuf>,
    /// Parts of the report, in order.
    pub sections: Vec<Section>,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance everywhere but in the rows that vary it.
    pub guidance: f64,
    /// Guidance of the rows that vary it.
    pub guidances: Vec<f64>,
    /// Weight of the ID-LoRA.
    pub id_scale: f64,
    /// Weights of the Base-LoRA in the rows that have one.
    pub base_scales: Vec<f64>,
    /// Width and height of the renders.
    pub side: u32,
    /// The first person's seed; the next person's is one more.
    pub seed: u64,
    /// Renders that are painted together.
    pub batch: usize,
    /// Where models run.
    #[serde(skip)]
    pub device: Device,
    /// Number type of UNet and text encoders.
    #[serde(skip)]
    pub dtype: DType,
}

impl Options {
    /// The usual ones for a bundle: drawn people whom the pocket recipe holds out, and the bundle's own defaults.
    pub fn of(bundle: &Bundle) -> Options {
        let defaults = bundle.defaults();
        Options {
            people: People::Drawn(5800..6000),
            count: 72,
            faces: Faces::Detected,
            prompts: [
                "a person in a park",
                "a person in a library, reading",
                "a person at the sea, in a red coat",
                "a portrait of a person in front of a plain wall",
            ]
            .map(str::to_owned)
            .to_vec(),
            judge: None,
            without_base: None,
            sections: Section::ALL.to_vec(),
            steps: defaults.steps,
            guidance: defaults.guidance,
            guidances: vec![3.0, 5.0, 7.0],
            id_scale: defaults.id_scale,
            base_scales: vec![0.3, 0.6, 1.0],
            side: defaults.width,
            seed: 1,
            batch: 24,
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_go_by_their_names() {
        for (section, name) in Section::ALL.into_iter().zip(Section::NAMES) {
            assert_eq!(name.parse(), Ok(section));
        }
        assert!("all".parse::<Section>().unwrap_err().contains("spread"));
    }
}
