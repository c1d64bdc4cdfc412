//! From an uploaded file to upright RGB: which files are read, how large they may be, and what is done with them.
//!
//! [`check`] reads the header alone, for those who pass a file on; [`decode`] reads it all. Both hold the same
//! [`Limits`] and refuse with the same words. Nothing here keeps a picture in an error.

mod cover;
mod decode;
mod error;
mod format;

pub use cover::cover;
pub use decode::{GREY, check, decode};
pub use error::{Excess, Limits, Refused};
