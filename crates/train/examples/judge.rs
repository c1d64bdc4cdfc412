//! How well a judge's file tells held-out people apart: `judge configs/pocket.toml out/judge.safetensors`.
#![allow(clippy::print_stdout, reason = "its output is the measurement")]

use std::path::Path;

use likeness_portraits::{Identity, Setting};
use likeness_train::judge::{Judge, spoilt};
use likeness_train::recipe::Recipe;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, file] = args.as_slice() else {
        return Err("expected RECIPE FILE".into());
    };
    let portraits = Recipe::read(Path::new(recipe))?.portraits;
    let judge = Judge::read(Path::new(file), &candle_core::Device::Cpu)?;
    let who: Vec<(u64, u64)> = (portraits.shown()..portraits.people)
        .flat_map(|person| (0..5).map(move |n| (person, (1 << 24) + person * 8 + n)))
        .collect();
    for (name, pictures) in [
        ("drawn", likeness_train::judge::drawn(&who)),
        ("spoilt", spoilt(&who, 7, 7)),
    ] {
        let told = judge.tell(&pictures)?;
        println!("{name}, {} pictures of held-out people", who.len());
        for (at, level) in Identity::LEVELS.iter().enumerate() {
            let errors = told.iter().zip(&who).map(|(told, who)| {
                (told.levels[at] - Identity::drawn(who.0).levels()[at]).abs() / 2.0
            });
            println!(
                "  {level}: error {:.3}",
                errors.sum::<f32>() / who.len() as f32
            );
        }
        for (at, class) in Identity::CLASSES.iter().enumerate() {
            let right = told.iter().zip(&who);
            let right = right
                .filter(|(told, who)| told.classes()[at] == Identity::drawn(who.0).classes()[at]);
            println!(
                "  {}: {:.3}",
                class.name,
                right.count() as f32 / who.len() as f32
            );
        }
        for (at, class) in Setting::CLASSES.iter().enumerate() {
            let right = told.iter().zip(&who).filter(|(told, who)| {
                told.setting_classes()[at] == Setting::drawn(who.1).classes()[at]
            });
            println!(
                "  {}: {:.3}",
                class.name,
                right.count() as f32 / who.len() as f32
            );
        }
    }
    Ok(())
}
