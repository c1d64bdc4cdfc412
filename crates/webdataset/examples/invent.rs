//! `invent DIR COUNT SIDE` writes COUNT invented samples of SIDE × SIDE pixels into shards of 1000 in DIR, as JPEG, every
//! second one with landmarks and identity. For `tests/parity/webdataset_shards.py`, and to measure with.

use std::error::Error;
use std::io::Cursor;
use std::num::NonZeroUsize;
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};
use likeness_webdataset::{ImageFile, Landmarks, Limits, Record, ShardWriter};

const PER_SHARD: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, count, side] = &args[..] else {
        return Err("usage: invent DIR COUNT SIDE".into());
    };
    let (count, side): (u32, u32) = (count.parse()?, side.parse()?);
    let mut writer = ShardWriter::new(Path::new(dir), "shard", PER_SHARD)?;
    for number in 0..count {
        let image = picture(side, number)?;
        let landmarks: Landmarks = std::array::from_fn(|i| [i as f32 + 0.25, number as f32]);
        let is_second = number % 2 == 1;
        writer.write(&Record {
            key: &format!("invented/{number:08}"),
            image: &image,
            caption: &format!("sample {number}: ein Gesicht, größer als zuvor"),
            landmarks: is_second.then_some(&landmarks),
            identity: is_second.then_some("someone"),
        })?;
    }
    writer.finish()?;
    Ok(())
}

/// Soft waves, which compress about as photos do.
fn picture(side: u32, number: u32) -> Result<ImageFile, Box<dyn Error>> {
    let wave = |at: u32, by: u32| ((at * (by + 3)) as f32 * 0.02).sin() * 60.0 + 128.0;
    let grain = |x: u32, y: u32| (x.wrapping_mul(31) ^ y.wrapping_mul(17)) % 16;
    let picture = RgbImage::from_fn(side, side, |x, y| {
        let grain = grain(x, y) as u8;
        Rgb([x, y, x + y].map(|at| wave(at, number % 7) as u8 + grain))
    });
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Jpeg)?;
    Ok(ImageFile::stored(file.into_inner(), &Limits::default())?)
}
