//! Drawn portraits for training and evaluation: who is shown, what else is in the picture, and the picture itself.
//!
//! An [`Identity`] is one person, a [`Setting`] is the rest: background, shirt, pose and light. One identity in many
//! settings is the same person many times. [`draw`] makes the picture, [`caption`] tells its setting in a few words
//! and nothing of its identity, [`landmarks`] and [`keypoints`] tell where the face is.
//!
//! Everything follows from its arguments, bit for bit, on every platform: the generator is ChaCha8, and drawing uses
//! only operations that IEEE 754 rounds in one way (no sines, no powers).
//!
//! The drawing's unit is a 64th of the picture's side, so that at 64×64 a unit is a pixel. Colours go from 0 to 255.

mod canvas;
mod caption;
mod chance;
mod classes;
mod draw;
mod frame;
mod identity;
mod landmarks;
mod level;
mod palette;
mod proportions;
mod setting;

pub use caption::{VOCABULARY, caption};
pub use classes::{Class, Colour, EyeColour, HairColour, HairStyle, Pattern};
pub use draw::{SIDES, draw};
pub use identity::Identity;
pub use landmarks::{keypoints, landmarks};
pub use level::Level;
pub use setting::Setting;
