//! What crosses a core, and nothing else does.

pub mod event;
pub mod keeper;
pub mod mesh;
pub mod message;
mod outbox;
pub mod view;

pub use keeper::KeeperPort;
pub use mesh::{Mesh, MeshPort};
pub use message::{Answer, Ask, LocalId, Message, PullOptions, Ticket};
pub use outbox::Outbox;
