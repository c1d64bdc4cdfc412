//! The rectangles that the crops are made of, for reports and comparisons.

use serde::Serialize;

use crate::face::Face;
use crate::geometry::{self, CropRect};

/// Every rectangle of a photo's preprocessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CropRectangles {
    /// What CLIP sees.
    pub clip: CropRect,
    /// Where the face's outline is cut out and softened.
    pub outline: CropRect,
    /// Upper left corner at which the softened outline is pasted: truncated, where `outline` is rounded.
    pub outline_paste: (i32, i32),
    /// Where the face is looked for once more, to align it for ArcFace.
    pub arcface: CropRect,
}

/// The rectangles of a face.
pub fn crop_rectangles(face: &Face) -> CropRectangles {
    let square = geometry::face_square(&face.landmarks);
    let outline = geometry::outline_square(&geometry::outline(&face.landmarks));
    CropRectangles {
        clip: square.rounded(),
        outline: outline.rounded(),
        outline_paste: outline.truncated_origin(),
        arcface: square.scaled(2.0).rounded(),
    }
}
