//! Commands of clients.

mod identities;
mod models;
mod photos;
mod renders;
mod sliders;
mod watch;

pub use identities::{IdentitiesCommand, identities};
pub use models::{ModelsArgs, models};
pub use photos::{PhotosCommand, photos};
pub use renders::{RendersCommand, renders};
pub use sliders::{SlidersCommand, sliders};

use crate::fail::Failure;

/// Reads `key=value`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// What an answer must contain.
fn present<T>(part: Option<T>) -> Result<T, Failure> {
    part.ok_or_else(|| Failure::new("the api's answer was empty; is it of another version?"))
}
