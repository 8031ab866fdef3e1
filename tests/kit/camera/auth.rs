//! The camera's side of Basic and Digest authentication (RFC 7617, RFC 7616).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::habits::Access;
use crate::kit::rtsp::Message;

pub(super) fn challenge(access: &Access) -> String {
    match access {
        Access::Basic => format!("Basic realm=\"{REALM}\""),
        Access::DigestMd5 => format!("Digest realm=\"{REALM}\", nonce=\"{NONCE}\", stale=FALSE"),
        Access::DigestSha256 => {
            format!("Digest realm=\"{REALM}\", nonce=\"{NONCE}\", algorithm=SHA-256")
        }
        Access::DigestQop => {
            format!("Digest realm=\"{REALM}\",qop=\"auth\",nonce=\"{NONCE}\",algorithm=\"MD5\"")
        }
    }
}

pub(super) fn is_allowed(access: &Access, request: &Message) -> bool {
    let Some(value) = request.header("authorization") else { return false };
    if *access == Access::Basic {
        return value == format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    }
    let parameter = |name: &str| {
        let rest = value.strip_prefix("Digest ")?;
        let mut pairs = rest.split(',').filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(have, _)| *have == name)?;
        Some(value.trim_matches('"').to_owned())
    };
    let hash = |text: String| match access {
        Access::DigestSha256 => hex(&Sha256::digest(text)),
        _ => hex(&Md5::digest(text)),
    };
    let value = |name| parameter(name).unwrap_or_default();
    let uri = value("uri");
    let secret = hash(format!("{USER}:{REALM}:{PASSWORD}"));
    let asked = hash(format!("{}:{uri}", request.method()));
    let middle = match access {
        Access::DigestQop => format!("{NONCE}:{}:{}:auth", value("nc"), value("cnonce")),
        _ => NONCE.to_owned(),
    };
    uri == request.uri()
        && value("username") == USER
        && value("nonce") == NONCE
        && value("response") == hash(format!("{secret}:{middle}:{asked}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) const USER: &str = "admin";
pub(super) const PASSWORD: &str = "p@ss:word";
const REALM: &str = "IP Camera(C6812)";
const NONCE: &str = "ab12cd34ef56";
