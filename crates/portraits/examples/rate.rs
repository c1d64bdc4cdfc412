//! How many pictures a second one core draws: `rate [SIDE]`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use likeness_portraits::{Identity, Setting, draw};

#[allow(clippy::print_stdout, reason = "a program that tells what it measured")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let side = std::env::args()
        .nth(1)
        .map_or(Ok(64), |side| side.parse())?;
    let begun = Instant::now();
    let mut drawn = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let picture = draw(&Identity::drawn(drawn), &Setting::drawn(drawn), side);
        black_box(picture);
        drawn += 1;
    }
    let rate = drawn as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} pictures a second at {side}×{side}");
    Ok(())
}
