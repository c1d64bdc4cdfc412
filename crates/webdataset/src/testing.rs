//! Tar files and pictures for tests.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use image::{ImageFormat, Rgb, RgbImage};

/// A tar file in memory.
#[derive(Default)]
pub(crate) struct TarFile(Vec<u8>);

impl TarFile {
    pub(crate) fn add(&mut self, name: &str, data: &[u8]) {
        let mut builder = tar::Builder::new(&mut self.0);
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
        builder.finish().unwrap();
        drop(builder);
        // The end mark, which `bytes` adds.
        self.0.truncate(self.0.len() - 1024);
    }

    /// A picture of which the key's number can be told, and a caption.
    pub(crate) fn add_sample(&mut self, key: &str, number: u32) {
        self.add(&format!("{key}.png"), &png(1 + number, 2));
        self.add(&format!("{key}.txt"), format!("caption {key}").as_bytes());
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.0[..], &[0; 1024]].concat()
    }
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_pixel(width, height, Rgb([9; 3]));
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Where the end mark of a tar file begins.
pub(crate) fn end_mark(tar: &[u8]) -> usize {
    tar.len() - 1024
}

/// A copy with a header spoiled.
pub(crate) fn damage(tar: &[u8], offset: usize) -> Vec<u8> {
    let mut tar = tar.to_vec();
    tar[offset + 20..offset + 200].fill(0xee);
    tar
}

/// Shards of `counts` samples in a folder, `s0.tar` and so on, with keys `s0-0` and so on; every third is compressed.
/// With `faults`, each shard has a sample without a caption, one of which the picture does not decode, and its first once
/// more at its end.
pub(crate) fn shards(folder: &Path, counts: &[usize], faults: bool) -> Vec<PathBuf> {
    let write = |(shard, count): (usize, &usize)| {
        let mut tar = TarFile::default();
        for number in 0..*count {
            if faults && number == count / 2 {
                tar.add(&format!("mute{shard}.png"), &png(3, 3));
                tar.add(&format!("noise{shard}.png"), b"no picture");
                tar.add(&format!("noise{shard}.txt"), b"a caption");
            }
            tar.add_sample(&format!("s{shard}-{number}"), number as u32);
        }
        if faults {
            tar.add_sample(&format!("s{shard}-0"), 0);
        }
        let (name, bytes) = if shard % 3 == 2 {
            (format!("s{shard}.tar.gz"), gzipped(&tar.bytes()))
        } else {
            (format!("s{shard}.tar"), tar.bytes())
        };
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    counts.iter().enumerate().map(write).collect()
}
