//! SliderService.

mod convert;
mod service;
mod sliders;

pub use convert::{own_slider, slider_name};
pub use service::Sliders;
