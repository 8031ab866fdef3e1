//! What all protocols agree on. Plain data.

pub mod codec;
pub mod form;
pub mod frame;
pub mod ids;
pub mod key;
pub mod part;
pub mod payload;
pub mod push;
pub mod start_points;
pub mod state;
pub mod timeline;
pub mod url;

pub use codec::Codec;
pub use form::Form;
pub use frame::Frame;
pub use ids::{AttemptId, ConnectionId, ShardId};
pub use key::StreamKey;
pub use part::{MediaPart, TagKind};
pub use payload::Payload;
pub use push::{PushState, UrlDigest};
pub use start_points::StartPoints;
pub use url::SourceUrl;
