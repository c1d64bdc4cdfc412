//! `speed PLACE COUNT BUFFER` measures on the shards of PLACE: samples per second over COUNT shuffled samples, the size of
//! the position after them as JSON, and how long a reader takes that resumes there, to be made and to its first sample.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use likeness_webdataset::{Options, Reader, Shards, Shuffle};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [place, count, buffer] = &args[..] else {
        return Err("usage: speed PLACE COUNT BUFFER".into());
    };
    let count: usize = count.parse()?;
    let shards = Shards::find(place)?;
    let options = Options {
        shuffle: Some(Shuffle {
            seed: 0,
            buffer: buffer.parse()?,
        }),
        ..Options::default()
    };
    let mut out = std::io::stdout().lock();

    let mut reader = Reader::new(shards.clone(), options);
    let start = Instant::now();
    reader.next().ok_or("no sample")??;
    writeln!(out, "first sample after {:?}", start.elapsed())?;
    let start = Instant::now();
    let read = reader.by_ref().take(count).flatten().count();
    let rate = read as f64 / start.elapsed().as_secs_f64();
    writeln!(out, "{read} samples, {rate:.0} per second")?;

    let position = reader.position();
    let bytes = serde_json::to_vec(&position)?.len();
    writeln!(out, "position: {bytes} bytes of JSON")?;
    let start = Instant::now();
    let mut resumed = Reader::resume(shards, options, &position)?;
    writeln!(out, "resumed after {:?}", start.elapsed())?;
    resumed.next().transpose()?;
    writeln!(out, "its first sample after {:?}", start.elapsed())?;
    Ok(())
}
