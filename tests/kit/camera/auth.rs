//! The camera's side of Basic and Digest authentication (RFC 7617, RFC 7616).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::habits::Access;
use crate::kit::rtsp::Message;

/// The values of `WWW-Authenticate`. The nonce is the one of this number.
pub(super) fn challenges(access: &Access, nonce: u32, is_stale: bool) -> Vec<String> {
    let digest = |more: &str| {
        let more = if is_stale { format!("{more}, stale=true") } else { more.to_owned() };
        format!("Digest realm=\"{REALM}\", nonce=\"{NONCE}{nonce}\"{more}")
    };
    let basic = format!("Basic realm=\"{REALM}\"");
    match access {
        Access::Basic => vec![basic],
        Access::DigestMd5 if is_stale => vec![digest("")],
        Access::DigestMd5 => vec![digest(", stale=FALSE")],
        Access::DigestSha256 => vec![digest(", algorithm=SHA-256")],
        Access::DigestQop => vec![digest(",qop=\"auth\",algorithm=\"MD5\"")],
        Access::DigestSha256Qop => vec![digest(", qop=\"auth,auth-int\", algorithm=SHA-256")],
        Access::Several => {
            let weak = format!("{basic}, {}", digest(", algorithm=MD5"));
            vec![weak, digest(", algorithm=SHA-256, qop=\"auth\"")]
        }
    }
}

/// How a request proves the password, by the nonce of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Right,
    /// Right by another nonce.
    Stale,
    Wrong,
}

pub(super) fn proof(access: &Access, nonce: u32, request: &Message) -> Proof {
    let Some(value) = request.header("authorization") else { return Proof::Wrong };
    if *access == Access::Basic {
        let right = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        return if value == right { Proof::Right } else { Proof::Wrong };
    }
    let parameter = |name: &str| {
        let rest = value.strip_prefix("Digest ")?;
        let mut pairs = rest.split(',').filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(have, _)| *have == name)?;
        Some(value.trim_matches('"').to_owned())
    };
    let is_sha256 =
        matches!(access, Access::DigestSha256 | Access::DigestSha256Qop | Access::Several);
    let has_qop = matches!(access, Access::DigestQop | Access::DigestSha256Qop | Access::Several);
    let hash = |text: String| match is_sha256 {
        true => hex(&Sha256::digest(text)),
        false => hex(&Md5::digest(text)),
    };
    let value = |name| parameter(name).unwrap_or_default();
    let (uri, told) = (value("uri"), value("nonce"));
    let secret = hash(format!("{USER}:{REALM}:{PASSWORD}"));
    let asked = hash(format!("{}:{uri}", request.method()));
    let middle = match has_qop {
        true => format!("{told}:{}:{}:auth", value("nc"), value("cnonce")),
        false => told.clone(),
    };
    let is_right = uri == request.uri()
        && value("username") == USER
        && (!is_sha256 || value("algorithm") == "SHA-256")
        && (!has_qop || value("qop") == "auth")
        && value("response") == hash(format!("{secret}:{middle}:{asked}"));
    match told == format!("{NONCE}{nonce}") {
        _ if !is_right => Proof::Wrong,
        true => Proof::Right,
        false => Proof::Stale,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) const USER: &str = "admin";
pub(super) const PASSWORD: &str = "p@ss:word";
const REALM: &str = "IP Camera(C6812)";
const NONCE: &str = "ab12cd34ef56";
