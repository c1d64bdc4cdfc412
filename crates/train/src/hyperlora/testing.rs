//! Shards of drawn people for tests.

use std::num::NonZeroUsize;
use std::path::Path;

use image::{Rgb, RgbImage};
use likeness_portraits::{Identity, Setting, caption, draw, landmarks};
use likeness_webdataset::{ImageFile, Landmarks, Limits, Record, ShardWriter};

/// Good samples in [`shards`].
pub(super) const SAMPLES: usize = 6;
/// Side of the drawn photos in pixels.
const SIDE: u32 = 96;

/// Two shards: good samples with landmarks, and one of each kind that is left out.
pub(super) fn shards(folder: &Path) {
    let mut writer = ShardWriter::new(folder, "s", NonZeroUsize::new(5).unwrap()).unwrap();
    let mut write = |key: &str, image: &ImageFile, caption: &str, landmarks: Option<&Landmarks>| {
        let record = Record {
            key,
            image,
            caption,
            landmarks,
            identity: None,
        };
        writer.write(&record).unwrap();
    };
    let drawn = |number: u64| {
        let (identity, setting) = (Identity::drawn(number), Setting::drawn(number));
        let picture = ImageFile::png(&draw(&identity, &setting, SIDE)).unwrap();
        (
            picture,
            caption(&setting),
            landmarks(&identity, &setting, SIDE),
        )
    };
    for number in 0..SAMPLES as u64 {
        let (picture, caption, landmarks) = drawn(number);
        let key = format!("good{number}");
        write(
            &key,
            &picture,
            &format!("{number}: {caption}"),
            Some(&landmarks),
        );
        if number == 2 {
            let (picture, ..) = drawn(number);
            let small = landmarks.map(|point| point.map(|v| v / 9.0));
            write("small", &picture, "small", Some(&small));
            write("spot", &picture, "spot", Some(&[[7.0; 2]; 106]));
            let grey = ImageFile::png(&RgbImage::from_pixel(40, 40, Rgb([90; 3]))).unwrap();
            write("nobody", &grey, "nobody", None);
            write("damaged", &damaged(), "damaged", None);
        }
    }
    writer.finish().unwrap();
}

/// A picture of which the header alone is whole.
fn damaged() -> ImageFile {
    let mut file = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_fn(40, 40, |x, y| Rgb([x as u8, y as u8, 7]));
    picture
        .write_to(&mut file, image::ImageFormat::Png)
        .unwrap();
    let mut bytes = file.into_inner();
    bytes.truncate(bytes.len() / 2);
    ImageFile::stored(bytes, &Limits::default()).unwrap()
}
