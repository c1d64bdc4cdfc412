//! From a sample's files to what is trained on.

use std::fmt;

use image::RgbImage;
use likeness_picture::{Limits, Refused};
use serde_json::{Map, Value};

use crate::skipped::Reason;
use crate::upright;

/// The 106 landmarks of a face in the order of the InsightFace `2d106` layout: x and y, in pixels.
pub type Landmarks = [[f32; 2]; 106];

/// One sample. Its `Debug` text shows neither what is seen nor what is said of it.
#[derive(Clone, PartialEq)]
pub struct Sample {
    /// Its name, unique in its shard.
    pub key: String,
    /// The picture, upright after its EXIF orientation, transparency over grey.
    pub image: RgbImage,
    /// What is to be seen, without white space at the end; may be empty.
    pub caption: String,
    /// Pixels of [`Self::image`]: turned with it if it was stored turned. All are finite; they may lie outside.
    pub landmarks: Option<Box<Landmarks>>,
    /// Who is to be seen.
    pub identity: Option<String>,
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("key", &self.key)
            .field("image", &self.image.dimensions())
            .finish_non_exhaustive()
    }
}

/// A sample's files as they are stored.
pub(crate) struct Encoded {
    pub(crate) image: Vec<u8>,
    /// `.txt`
    pub(crate) text: Option<Vec<u8>>,
    pub(crate) json: Option<Vec<u8>>,
}

impl Encoded {
    pub(crate) fn decode(&self, key: &str, limits: &Limits) -> Result<Sample, Reason> {
        let json = match &self.json {
            Some(file) => serde_json::from_slice(file).map_err(|_| Reason::Json)?,
            None => Map::new(),
        };
        let caption = match &self.text {
            Some(text) => std::str::from_utf8(text).map_err(|_| Reason::CaptionNotUtf8)?,
            None => text_of(&json, "caption")?.ok_or(Reason::MissingCaption)?,
        };
        let identity = text_of(&json, "identity")?;
        let mut landmarks = landmarks_of(&json)?;
        let image = likeness_picture::decode(&self.image, limits).map_err(refusal)?;
        if let Some(landmarks) = &mut landmarks {
            upright::turn(landmarks, &self.image, image.dimensions());
        }
        Ok(Sample {
            key: key.to_owned(),
            image,
            caption: caption.trim_end().to_owned(),
            landmarks,
            identity: identity.map(str::to_owned),
        })
    }
}

fn refusal(refused: Refused) -> Reason {
    match refused {
        Refused::TooLarge(_) => Reason::ImageTooLarge,
        Refused::NotAnImage | Refused::UnsupportedFormat { .. } => Reason::Image,
    }
}

fn text_of<'a>(json: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Reason> {
    match json.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Reason::Json),
    }
}

fn landmarks_of(json: &Map<String, Value>) -> Result<Option<Box<Landmarks>>, Reason> {
    let points = match json.get("landmarks") {
        None | Some(Value::Null) => return Ok(None),
        Some(points) => points.as_array().ok_or(Reason::Landmarks)?,
    };
    let points: Option<Vec<[f32; 2]>> = points.iter().map(point).collect();
    let points = points.and_then(|points| points.try_into().ok());
    points.map(Some).ok_or(Reason::Landmarks)
}

fn point(value: &Value) -> Option<[f32; 2]> {
    let [x, y] = value.as_array()?.as_slice() else {
        return None;
    };
    // A number that is too large for f32 becomes infinite.
    let point = [x.as_f64()? as f32, y.as_f64()? as f32];
    point.iter().all(|c| c.is_finite()).then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::png;

    fn decoded(text: Option<&[u8]>, json: Option<&str>) -> Result<Sample, Reason> {
        let encoded = Encoded {
            image: png(6, 4),
            text: text.map(<[u8]>::to_vec),
            json: json.map(|json| json.as_bytes().to_vec()),
        };
        encoded.decode("key", &Limits::default())
    }

    fn with_points(count: usize, last: &str) -> String {
        let points = vec!["[1.5, 2]"; count - 1].join(",");
        format!(r#"{{"caption": "c", "landmarks": [{points}, {last}]}}"#)
    }

    #[test]
    fn all_that_a_sample_may_have_is_read() {
        let json = with_points(106, "[-3, 4e2]").replace('{', r#"{"identity": "someone","#);
        let sample = decoded(Some(b"from the text\n"), Some(&json)).unwrap();
        assert_eq!(sample.image.dimensions(), (6, 4));
        assert_eq!(sample.caption, "from the text");
        assert_eq!(sample.identity.as_deref(), Some("someone"));
        let landmarks = sample.landmarks.as_deref().unwrap();
        assert_eq!((landmarks[0], landmarks[105]), ([1.5, 2.0], [-3.0, 400.0]));
        let shown = format!("{sample:?}");
        assert!(
            !shown.contains("text") && !shown.contains("someone"),
            "{shown}"
        );
        let bare = decoded(None, Some(r#"{"caption": "c", "landmarks": null}"#)).unwrap();
        assert_eq!((bare.caption.as_str(), bare.landmarks), ("c", None));
    }

    #[test]
    fn each_fault_has_its_reason() {
        let c = Some(&b"c"[..]);
        let cases = [
            (Some(&b"\xff"[..]), None, Reason::CaptionNotUtf8),
            (None, Some("{}"), Reason::MissingCaption),
            (None, Some(r#"{"caption": 7}"#), Reason::Json),
            (c, Some(r#"{"identity": 7}"#), Reason::Json),
            (c, Some("[]"), Reason::Json),
            (c, Some(r#"{"a": NaN}"#), Reason::Json),
            (c, Some(r#"{"landmarks": 7}"#), Reason::Landmarks),
            (c, Some(r#"{"landmarks": []}"#), Reason::Landmarks),
        ];
        for (text, json, reason) in cases {
            assert_eq!(decoded(text, json), Err(reason), "{json:?}");
        }
        for json in [
            with_points(105, "[1, 2]"),
            with_points(107, "[1, 2]"),
            with_points(106, "[1, 2, 3]"),
            with_points(106, "[1, null]"),
            with_points(106, "[1, 1e300]"),
        ] {
            assert_eq!(decoded(None, Some(&json)), Err(Reason::Landmarks), "{json}");
        }
    }

    #[test]
    fn pictures_must_decode_and_keep_the_limits() {
        let encoded = |image| Encoded {
            image,
            text: Some(Vec::new()),
            json: None,
        };
        let limits = Limits {
            max_side: 5,
            ..Limits::default()
        };
        let large = encoded(png(6, 4)).decode("key", &limits);
        assert_eq!(large, Err(Reason::ImageTooLarge));
        let mut cut = png(60, 40);
        cut.truncate(cut.len() - 20);
        let cut = encoded(cut).decode("key", &Limits::default());
        assert_eq!(cut, Err(Reason::Image));
    }
}
