//! A training without a command line's trimmings.

use std::ops::ControlFlow;
use std::path::Path;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let recipe = likeness_train::recipe::Recipe::read(Path::new(&args[1]))?;
    let mut watch = |p: likeness_train::run::Progress<'_>| {
        if p.done % 10 == 0 || p.done == p.steps {
            println!(
                "{} {}/{} loss {:.4} {:.2}/s",
                p.stage, p.done, p.steps, p.loss, p.rate
            );
        }
        ControlFlow::Continue(())
    };
    let out = Path::new(&args[2]);
    match args[0].as_str() {
        "base" => println!(
            "{:?}",
            likeness_train::base::train(&recipe, out, &candle_core::Device::Cpu, &mut watch)?
        ),
        "judge" => println!(
            "{:?}",
            likeness_train::base::train_judge(&recipe, out, &candle_core::Device::Cpu, &mut watch)?
        ),
        _ => println!(
            "{:?}",
            likeness_train::hyperlora::train(&recipe, out, &candle_core::Device::Cpu, &mut watch)?
        ),
    }
    Ok(())
}
