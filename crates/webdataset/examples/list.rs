//! `list PLACE` prints one line of JSON for each sample: key, caption, width, height, whether it has landmarks, identity.
//! PLACE is a folder, a file, or a pattern such as `data/shard-{000000..000099}.tar`. What was skipped follows on
//! standard error. `tests/parity/webdataset_shards.py` compares it with the webdataset library.

use std::error::Error;
use std::io::Write;

use likeness_webdataset::{Options, Reader, Shards};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [place] = &args[..] else {
        return Err("usage: list PLACE".into());
    };
    let mut out = std::io::stdout().lock();
    let mut reader = Reader::new(Shards::find(place)?, Options::default());
    for sample in &mut reader {
        let sample = sample?;
        let (width, height) = sample.image.dimensions();
        let line = serde_json::json!({
            "key": sample.key,
            "caption": sample.caption,
            "width": width,
            "height": height,
            "landmarks": sample.landmarks.is_some(),
            "identity": sample.identity,
        });
        writeln!(out, "{line}")?;
    }
    writeln!(std::io::stderr(), "{}", reader.skipped())?;
    Ok(())
}
