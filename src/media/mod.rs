//! What all protocols agree on. Plain data.

pub mod codec;
pub mod key;
pub mod part;

pub use codec::Codec;
pub use key::StreamKey;
pub use part::{MediaPart, TagKind};
