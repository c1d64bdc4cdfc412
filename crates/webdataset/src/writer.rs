//! Making shards.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use likeness_picture::Limits;
use serde::Serialize;
use tar::{Builder, Header};

use crate::error::WriteError;
use crate::sample::Landmarks;

/// A picture as a file of a kind that is read.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageFile {
    bytes: Vec<u8>,
    extension: &'static str,
}

impl ImageFile {
    /// A JPEG, PNG or WebP file, kept as it is. Only its header is looked at.
    ///
    /// # Errors
    /// [`WriteError::Picture`] for anything else, or if it exceeds the limits.
    pub fn stored(bytes: Vec<u8>, limits: &Limits) -> Result<Self, WriteError> {
        let extension = match likeness_picture::check(&bytes, limits)? {
            "image/jpeg" => "jpg",
            "image/webp" => "webp",
            _ => "png",
        };
        Ok(Self { bytes, extension })
    }

    /// A picture as PNG, without loss.
    ///
    /// # Errors
    /// [`WriteError::Encode`] for a picture without pixels.
    pub fn png(picture: &RgbImage) -> Result<Self, WriteError> {
        let mut file = Cursor::new(Vec::new());
        let encoded = picture.write_to(&mut file, ImageFormat::Png);
        encoded.map_err(WriteError::Encode)?;
        Ok(Self {
            bytes: file.into_inner(),
            extension: "png",
        })
    }
}

/// A sample to be written.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Its name, unique in its shard: a relative path without dots.
    pub key: &'a str,
    /// The picture.
    pub image: &'a ImageFile,
    /// What is to be seen. White space at its end is not given back by readers.
    pub caption: &'a str,
    /// Pixels of the picture as it is stored.
    pub landmarks: Option<&'a Landmarks>,
    /// Who is to be seen.
    pub identity: Option<&'a str>,
}

/// The `.json` of a sample that has one.
#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    landmarks: Option<&'a [[f32; 2]]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
}

/// Writes samples into `PREFIX-000000.tar`, `PREFIX-000001.tar` and so on.
///
/// A shard is called `.tar.part` until it is whole; [`ShardWriter::finish`] completes the last one. The same samples give
/// the same bytes. If writing fails, the samples of the shard being written are lost.
pub struct ShardWriter {
    folder: PathBuf,
    prefix: String,
    most: NonZeroUsize,
    done: Vec<PathBuf>,
    open: Option<Open>,
}

struct Open {
    tar: Builder<BufWriter<File>>,
    path: PathBuf,
    keys: HashSet<String>,
}

impl ShardWriter {
    /// A writer into a folder, which is made if it is not there; `most` samples go into each shard.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn new(folder: &Path, prefix: &str, most: NonZeroUsize) -> Result<Self, WriteError> {
        fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        Ok(Self {
            folder: folder.to_owned(),
            prefix: prefix.to_owned(),
            most,
            done: Vec::new(),
            open: None,
        })
    }

    /// Adds a sample, in a new shard if the last one is full.
    ///
    /// # Errors
    /// [`WriteError::Key`], [`WriteError::DuplicateKey`] and [`WriteError::Landmarks`] leave all as it was;
    /// [`WriteError::Exists`], [`WriteError::Write`].
    pub fn write(&mut self, record: &Record<'_>) -> Result<(), WriteError> {
        check(record)?;
        let mut open = match self.open.take() {
            Some(open) if open.keys.len() < self.most.get() => open,
            Some(full) => {
                self.done.push(full.finish()?);
                self.begin()?
            }
            None => self.begin()?,
        };
        if open.keys.insert(record.key.to_owned()) {
            open.add(record)?;
            self.open = Some(open);
            return Ok(());
        }
        self.open = Some(open);
        let key = record.key.to_owned();
        Err(WriteError::DuplicateKey { key })
    }

    /// Completes the last shard, and gives the paths of all in their order.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn finish(mut self) -> Result<Vec<PathBuf>, WriteError> {
        if let Some(open) = self.open.take() {
            self.done.push(open.finish()?);
        }
        Ok(self.done)
    }

    fn begin(&self) -> Result<Open, WriteError> {
        let name = format!("{}-{:06}.tar", self.prefix, self.done.len());
        let path = self.folder.join(name);
        if path.exists() {
            return Err(WriteError::Exists { path });
        }
        let file = File::create(partial(&path)).map_err(|source| failed(&path, source))?;
        Ok(Open {
            tar: Builder::new(BufWriter::new(file)),
            path,
            keys: HashSet::new(),
        })
    }
}

impl Open {
    fn add(&mut self, record: &Record<'_>) -> Result<(), WriteError> {
        let added = self.add_files(record);
        added.map_err(|source| failed(&self.path, source))
    }

    fn add_files(&mut self, record: &Record<'_>) -> io::Result<()> {
        let ImageFile { bytes, extension } = record.image;
        self.add_file(record.key, extension, bytes)?;
        self.add_file(record.key, "txt", record.caption.as_bytes())?;
        let metadata = Metadata {
            landmarks: record.landmarks.map(<[_; 106]>::as_slice),
            identity: record.identity,
        };
        if metadata.landmarks.is_none() && metadata.identity.is_none() {
            return Ok(());
        }
        self.add_file(record.key, "json", &serde_json::to_vec(&metadata)?)
    }

    fn add_file(&mut self, key: &str, extension: &str, data: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        let name = format!("{key}.{extension}");
        self.tar.append_data(&mut header, name, data)
    }

    fn finish(self) -> Result<PathBuf, WriteError> {
        let Self { tar, path, .. } = self;
        match close(tar).and_then(|()| fs::rename(partial(&path), &path)) {
            Ok(()) => Ok(path),
            Err(source) => Err(WriteError::Write { path, source }),
        }
    }
}

/// Writes what is buffered, and waits until it is on the disk: a name without `.part` must mean a whole shard.
fn close(tar: Builder<BufWriter<File>>) -> io::Result<()> {
    let mut file = tar.into_inner()?;
    file.flush()?;
    file.get_ref().sync_all()
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn failed(path: &Path, source: io::Error) -> WriteError {
    WriteError::Write {
        path: path.to_owned(),
        source,
    }
}

fn check(record: &Record<'_>) -> Result<(), WriteError> {
    if let Some(problem) = problem_of(record.key) {
        let key = record.key.to_owned();
        return Err(WriteError::Key { key, problem });
    }
    let mut numbers = record.landmarks.into_iter().flatten().flatten();
    if !numbers.all(|number| number.is_finite()) {
        let key = record.key.to_owned();
        return Err(WriteError::Landmarks { key });
    }
    Ok(())
}

/// Why readers would not find a sample under this key.
fn problem_of(key: &str) -> Option<&'static str> {
    let first = key.split('/').next().unwrap_or_default();
    let problems = [
        (key.split('/').any(str::is_empty), "a part of it is empty"),
        (key.contains('.'), "it has a dot, at which readers end it"),
        (key.contains(char::is_control), "it has control characters"),
        (
            first.starts_with("__") && first.ends_with("__"),
            "names in double underscores are not samples",
        ),
    ];
    let found = problems.into_iter().find(|(is_so, _)| *is_so);
    found.map(|(_, problem)| problem)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::{Options, Reader, Sample, Shards};

    fn picture(side: u32) -> RgbImage {
        RgbImage::from_fn(side, 3, |x, y| Rgb([x as u8 * 20, y as u8, 7]))
    }

    fn record<'a>(key: &'a str, image: &'a ImageFile) -> Record<'a> {
        Record {
            key,
            image,
            caption: "a caption",
            landmarks: None,
            identity: None,
        }
    }

    fn writer(folder: &Path, most: usize) -> ShardWriter {
        ShardWriter::new(folder, "set", NonZeroUsize::new(most).unwrap()).unwrap()
    }

    fn read(folder: &Path) -> Vec<Sample> {
        let shards = Shards::from_folder(folder).unwrap();
        let reader = Reader::new(shards, Options::default());
        reader.map(Result::unwrap).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 2);
        let mut landmarks: Landmarks = [[1.1, -2.5e-3]; 106];
        landmarks[105] = [0.1, 1e9];
        for number in 0..5_u32 {
            let image = ImageFile::png(&picture(number + 1)).unwrap();
            let [key, caption] = [
                format!("part/{number}"),
                format!("caption {number}, größer"),
            ];
            let record = Record {
                caption: &caption,
                landmarks: (number == 3).then_some(&landmarks),
                identity: (number > 2).then_some("someone"),
                ..record(&key, &image)
            };
            writer.write(&record).unwrap();
        }
        let paths = writer.finish().unwrap();
        let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(
            names,
            ["set-000000.tar", "set-000001.tar", "set-000002.tar"]
        );
        let samples = read(dir.path());
        assert_eq!(samples.len(), 5);
        assert_eq!(samples[4].image, picture(5));
        assert_eq!(samples[4].key, "part/4");
        assert_eq!(samples[3].caption, "caption 3, größer");
        assert_eq!(samples[3].landmarks.as_deref(), Some(&landmarks));
        assert_eq!(samples[3].identity.as_deref(), Some("someone"));
        assert_eq!(
            (&samples[2].landmarks, &samples[2].identity),
            (&None, &None)
        );
    }

    #[test]
    fn stored_files_keep_their_kind() {
        let png = ImageFile::png(&picture(4)).unwrap();
        let kept = ImageFile::stored(png.bytes.clone(), &Limits::default()).unwrap();
        assert!(kept == png);
        let mut jpeg = Cursor::new(Vec::new());
        picture(4).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let jpeg = ImageFile::stored(jpeg.into_inner(), &Limits::default()).unwrap();
        assert_eq!(jpeg.extension, "jpg");
        let text = ImageFile::stored(b"text".to_vec(), &Limits::default());
        assert!(matches!(text, Err(WriteError::Picture(_))));
    }

    #[test]
    fn what_readers_would_not_find_is_refused_and_the_rest_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 9);
        let image = ImageFile::png(&picture(2)).unwrap();
        writer.write(&record("one", &image)).unwrap();
        for key in ["", "/a", "a/", "a//b", "a.b", "../a", "__a__", "a\0b"] {
            let refused = writer.write(&record(key, &image));
            assert!(matches!(refused, Err(WriteError::Key { .. })), "{key}");
        }
        let again = writer.write(&record("one", &image));
        assert!(matches!(again, Err(WriteError::DuplicateKey { .. })));
        let mut landmarks = [[0.0; 2]; 106];
        landmarks[7][1] = f32::NAN;
        let broken = Record {
            landmarks: Some(&landmarks),
            ..record("two", &image)
        };
        let refused = writer.write(&broken);
        assert!(matches!(refused, Err(WriteError::Landmarks { .. })));
        writer.write(&record("two", &image)).unwrap();
        writer.finish().unwrap();
        let keys: Vec<String> = read(dir.path()).into_iter().map(|one| one.key).collect();
        assert_eq!(keys, ["one", "two"]);
    }

    #[test]
    fn an_unfinished_shard_is_no_shard_and_a_finished_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let image = ImageFile::png(&picture(2)).unwrap();
        let mut first = writer(dir.path(), 9);
        first.write(&record("one", &image)).unwrap();
        drop(first);
        assert!(Shards::from_folder(dir.path()).is_err());
        let mut second = writer(dir.path(), 9);
        second.write(&record("one", &image)).unwrap();
        second.finish().unwrap();
        let third = writer(dir.path(), 9).write(&record("one", &image));
        assert!(matches!(third, Err(WriteError::Exists { .. })));
    }
}
