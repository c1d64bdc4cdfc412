use std::num::NonZeroUsize;
use std::path::Path;

use image::{Rgb, RgbImage};
use likeness_face::FaceModels;
use likeness_models::face_files;
use likeness_webdataset::{ImageFile, Record, ShardWriter};

use super::*;
use crate::hyperlora::testing::{SAMPLES, shards};

fn feed(folder: &Path, batch: usize) -> ShardFeed {
    let bundle = folder.join("bundle");
    likeness_bundle::pocket::make(&bundle, 1).unwrap();
    let bundle = likeness_bundle::Bundle::open(&bundle).unwrap();
    let preparer = Preparer {
        faces: FaceModels::load(&face_files(bundle.face().unwrap())).unwrap(),
        side: 64,
        clip_side: 32,
        smallest_face: 20,
    };
    let data = Data {
        shards: folder.join("shards").to_string_lossy().into_owned(),
        side: 64,
        smallest_face: 20,
        buffer: NonZeroUsize::new(3).unwrap(),
    };
    ShardFeed::new(&data, 7, Worker::WHOLE, batch, &Arc::new(preparer)).unwrap()
}

/// What tells samples apart.
fn captions(feed: &ShardFeed, batch: usize) -> Vec<String> {
    let samples = feed.samples(0, batch);
    assert_eq!(samples.len(), batch);
    samples.iter().map(|one| one.caption.clone()).collect()
}

#[test]
fn a_feed_goes_on_from_its_place_and_counts_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    shards(&folder.path().join("shards"));
    let whole = feed(folder.path(), 3);
    whole.start(None).unwrap();
    let (mut all, mut places, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..6 {
        whole.next().unwrap();
        all.push(captions(&whole, 3));
        places.push(whole.place().unwrap());
        skipped.push(whole.skipped());
    }
    // 18 samples are three epochs of six good ones: by then each epoch's bad ones were left out.
    let mut first: Vec<&String> = all[..2].iter().flatten().collect();
    first.sort();
    first.dedup();
    assert_eq!(first.len(), SAMPLES);
    let reasons = whole.reasons();
    for reason in [
        "no face: ",
        "face too small: ",
        "picture does not decode: ",
        "landmarks that make no face: ",
    ] {
        let count = reasons
            .lines()
            .find_map(|line| line.strip_prefix(reason))
            .unwrap();
        let count = count.split(',').next().unwrap();
        assert!(
            (2..=3).contains(&count.parse::<u64>().unwrap()),
            "{reasons}"
        );
    }
    assert!(
        !reasons.contains("person"),
        "captions are nobody's business: {reasons}"
    );
    let again = feed(folder.path(), 3);
    again.start(Some(&places[2])).unwrap();
    assert_eq!(again.skipped(), skipped[2]);
    for step in 3..6 {
        again.next().unwrap();
        assert_eq!(captions(&again, 3), all[step]);
        assert_eq!(again.place().unwrap(), places[step]);
    }
}

#[test]
fn places_of_other_data_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    shards(&folder.path().join("shards"));
    let feed = feed(folder.path(), 2);
    assert!(matches!(feed.next(), Err(Error::ReaderGone)));
    assert!(matches!(feed.start(Some("{}")), Err(Error::Place { .. })));
    feed.start(None).unwrap();
    feed.next().unwrap();
    let place = feed.place().unwrap().replace("\"seed\":7", "\"seed\":8");
    assert!(matches!(feed.start(Some(&place)), Err(Error::Data(_))));
}

#[test]
fn data_without_any_face_end_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("shards");
    let mut writer = ShardWriter::new(&place, "s", NonZeroUsize::new(9).unwrap()).unwrap();
    let image = ImageFile::png(&RgbImage::from_pixel(40, 40, Rgb([90; 3]))).unwrap();
    for key in ["a", "b"] {
        let record = Record {
            key,
            image: &image,
            caption: "nobody",
            landmarks: None,
            identity: None,
        };
        writer.write(&record).unwrap();
    }
    writer.finish().unwrap();
    let feed = feed(folder.path(), 2);
    feed.start(None).unwrap();
    let error = feed.next().unwrap_err();
    assert!(matches!(error, Error::NoFaces { .. }), "{error}");
    assert!(error.to_string().contains("no face: "), "{error}");
}
