//! What all protocols agree on. Plain data.

pub mod key;
pub mod part;

pub use key::StreamKey;
pub use part::{MediaPart, TagKind};
