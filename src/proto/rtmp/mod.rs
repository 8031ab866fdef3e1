//! tmp
pub mod chunk_encoding;
mod chunk_header;
pub mod message;
