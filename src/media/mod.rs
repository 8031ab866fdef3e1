//! What all protocols agree on. Plain data.

pub mod codec;
pub mod ids;
pub mod key;
pub mod part;
pub mod state;
pub mod timeline;
pub mod url;

pub use codec::Codec;
pub use ids::{AttemptId, ConnectionId, ShardId};
pub use key::StreamKey;
pub use part::{MediaPart, TagKind};
pub use url::SourceUrl;
