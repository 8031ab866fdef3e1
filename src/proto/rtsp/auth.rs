//! Basic and Digest authentication of both sides (RFC 7617; RFC 7616 and its forerunners RFC 2617 and
//! RFC 2069, which most cameras follow).
//!
//! Of Digest: MD5 and SHA-256, with `qop=auth` or without. Left out: `-sess` algorithms, `auth-int`,
//! hashed user names, `Authentication-Info`.
//!
//! Our nonce belongs to one connection and lives as long: what was overheard is of no use on another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::limits::CHALLENGES_MAX;

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// Without the password, so that no log has it.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How a password is proven, from the weakest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthScheme {
    Basic,
    DigestMd5,
    DigestSha256,
}

/// What is asked for: the method and the address of a request line.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub method: &'a str,
    pub uri: &'a str,
}

/// The server's side, for one connection.
#[derive(Debug)]
pub struct ServerAuth {
    schemes: Vec<AuthScheme>,
    realm: String,
    nonce: String,
    credentials: Credentials,
}

/// What an `Authorization` header proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// There is none: ask for it.
    Missing,
    /// Wrong, or for something else.
    Denied,
}

/// The client's side, for one connection: the challenge that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    scheme: AuthScheme,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    has_qop: bool,
    /// The last challenge was not about the password but about the age of its nonce.
    pub is_stale: bool,
    nonce_count: u32,
}

impl ServerAuth {
    /// Asks for these credentials by any of the schemes. `seed` makes the nonce: random, and another
    /// for each connection.
    pub fn new(schemes: &[AuthScheme], realm: &str, credentials: Credentials, seed: u64) -> Self {
        let mut schemes = schemes.to_vec();
        // Clients take the first that they know, or the strongest.
        schemes.sort_by(|a, b| b.cmp(a));
        let nonce = hex(&Sha256::digest(seed.to_be_bytes()))[..32].to_owned();
        let realm = realm.replace(['"', '\\'], "").replace(char::is_control, "");
        Self { schemes, realm, nonce, credentials }
    }

    /// The values of the `WWW-Authenticate` headers of a 401.
    pub fn challenges(&self) -> Vec<String> {
        let Self { realm, nonce, .. } = self;
        let challenge = |scheme: &AuthScheme| match scheme {
            AuthScheme::Basic => format!("Basic realm=\"{realm}\""),
            // Without an algorithm, as all clients understand it.
            AuthScheme::DigestMd5 => format!("Digest realm=\"{realm}\", nonce=\"{nonce}\""),
            AuthScheme::DigestSha256 => {
                format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm=SHA-256")
            }
        };
        self.schemes.iter().map(challenge).collect()
    }

    /// Judges the `Authorization` header of a request.
    pub fn verify(&self, authorization: Option<&str>, target: Target<'_>) -> Verdict {
        let Some(value) = authorization else { return Verdict::Missing };
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value, ""));
        let allowed = if scheme.eq_ignore_ascii_case("basic") {
            self.schemes.contains(&AuthScheme::Basic) && self.verify_basic(rest)
        } else {
            scheme.eq_ignore_ascii_case("digest") && self.verify_digest(rest, target)
        };
        if allowed { Verdict::Allowed } else { Verdict::Denied }
    }

    fn verify_basic(&self, encoded: &str) -> bool {
        let Credentials { user, password } = &self.credentials;
        let given = STANDARD.decode(encoded.trim());
        given.is_ok_and(|given| is_same(&given, format!("{user}:{password}").as_bytes()))
    }

    fn verify_digest(&self, text: &str, target: Target<'_>) -> bool {
        let parameters = parse_parameters(text);
        let value = |name| find(&parameters, name).unwrap_or_default();
        let Some(scheme) = digest_scheme(find(&parameters, "algorithm")) else { return false };
        let is_ours = value("nonce") == self.nonce
            && value("realm") == self.realm
            && value("username") == self.credentials.user
            && self.schemes.contains(&scheme);
        // Players sign the stream's address for its tracks, too (VLC).
        let uri = value("uri");
        let is_for_target = !uri.is_empty() && target.uri.starts_with(uri.trim_end_matches('/'));
        if !is_ours || !is_for_target {
            return false;
        }
        let qop = find(&parameters, "qop")
            .map(|_| Qop { nonce_count: value("nc"), client_nonce: value("cnonce") });
        let signed = Target { uri, ..target };
        let expected =
            response(scheme, &self.credentials, &self.realm, &self.nonce, signed, qop.as_ref());
        is_same(expected.as_bytes(), value("response").to_ascii_lowercase().as_bytes())
    }
}

impl ClientAuth {
    /// The strongest challenge that we can answer, from the `WWW-Authenticate` headers of a 401.
    pub fn from_challenges<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let challenges = values.flat_map(split_challenges).take(CHALLENGES_MAX);
        challenges.filter_map(Self::from_challenge).max_by_key(|auth| auth.scheme)
    }

    fn from_challenge(challenge: &str) -> Option<Self> {
        let challenge = challenge.trim();
        let (name, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let parameters = parse_parameters(rest);
        let value = |name| find(&parameters, name).map(str::to_owned);
        let scheme = if name.eq_ignore_ascii_case("basic") {
            AuthScheme::Basic
        } else if name.eq_ignore_ascii_case("digest") {
            value("nonce")?;
            digest_scheme(find(&parameters, "algorithm"))?
        } else {
            return None;
        };
        let qops = value("qop").unwrap_or_default();
        let has_qop = qops.split(',').any(|qop| qop.trim().eq_ignore_ascii_case("auth"));
        // Only `auth-int` is offered.
        if !qops.is_empty() && !has_qop {
            return None;
        }
        Some(Self {
            scheme,
            realm: value("realm").unwrap_or_default(),
            nonce: value("nonce").unwrap_or_default(),
            opaque: value("opaque"),
            has_qop,
            is_stale: value("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
            nonce_count: 0,
        })
    }

    pub fn scheme(&self) -> AuthScheme {
        self.scheme
    }

    /// The value of the `Authorization` header for a request. `seed` is random.
    pub fn authorization(
        &mut self,
        credentials: &Credentials,
        target: Target<'_>,
        seed: u64,
    ) -> String {
        let Credentials { user, password } = credentials;
        if self.scheme == AuthScheme::Basic {
            return format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        }
        self.nonce_count = self.nonce_count.wrapping_add(1);
        let (nonce_count, client_nonce) =
            (format!("{:08x}", self.nonce_count), hex(&seed.to_be_bytes()));
        let qop = Qop { nonce_count: &nonce_count, client_nonce: &client_nonce };
        let qop = self.has_qop.then_some(&qop);
        let Self { realm, nonce, .. } = &*self;
        let response = response(self.scheme, credentials, realm, nonce, target, qop);
        let mut value = format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{}\", response=\"{response}\"",
            quoted(user),
            quoted(realm),
            quoted(nonce),
            quoted(target.uri)
        );
        if let Some(opaque) = &self.opaque {
            value += &format!(", opaque=\"{}\"", quoted(opaque));
        }
        if self.scheme == AuthScheme::DigestSha256 {
            value += ", algorithm=SHA-256";
        }
        if let Some(Qop { nonce_count, client_nonce }) = qop {
            value += &format!(", qop=auth, nc={nonce_count}, cnonce=\"{client_nonce}\"");
        }
        value
    }
}

/// What `qop=auth` adds to a digest.
#[derive(Debug, Clone, Copy)]
struct Qop<'a> {
    nonce_count: &'a str,
    client_nonce: &'a str,
}

/// The `response` of a digest (RFC 7616, 3.4.1), in lower case.
fn response(
    scheme: AuthScheme,
    credentials: &Credentials,
    realm: &str,
    nonce: &str,
    target: Target<'_>,
    qop: Option<&Qop<'_>>,
) -> String {
    let hash = |text: String| match scheme {
        AuthScheme::DigestSha256 => hex(&Sha256::digest(text)),
        _ => hex(&Md5::digest(text)),
    };
    let Credentials { user, password } = credentials;
    let secret = hash(format!("{user}:{realm}:{password}"));
    let request = hash(format!("{}:{}", target.method, target.uri));
    match qop {
        Some(Qop { nonce_count, client_nonce }) => {
            hash(format!("{secret}:{nonce}:{nonce_count}:{client_nonce}:auth:{request}"))
        }
        None => hash(format!("{secret}:{nonce}:{request}")),
    }
}

fn digest_scheme(algorithm: Option<&str>) -> Option<AuthScheme> {
    match algorithm.map(str::to_ascii_uppercase).as_deref() {
        None | Some("" | "MD5") => Some(AuthScheme::DigestMd5),
        Some("SHA-256") => Some(AuthScheme::DigestSha256),
        Some(_) => None,
    }
}

/// The challenges of one header, which may hold several behind commas (RFC 7235, 4.1).
fn split_challenges(value: &str) -> impl Iterator<Item = &str> {
    let starts = value.match_indices(' ').filter_map(|(blank, _)| {
        let word_start = value[..blank].rfind([' ', ',']).map_or(0, |at| at + 1);
        let word = &value[word_start..blank];
        let is_scheme = ["basic", "digest"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
        (is_scheme && is_outside_quotes(value, word_start)).then_some(word_start)
    });
    let starts: Vec<usize> = starts.collect();
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([value.len()]).collect();
    starts.into_iter().zip(ends).map(|(start, end)| value[start..end].trim_end_matches([' ', ',']))
}

fn is_outside_quotes(text: &str, at: usize) -> bool {
    text[..at].matches('"').count().is_multiple_of(2)
}

/// Names and values behind commas; values may be in quotes, with escapes.
fn parse_parameters(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_owned();
        let after = after.trim_start();
        let (value, behind) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        parameters.push((name, value));
        rest = behind;
    }
    parameters
}

/// The text up to the closing quote, and what is behind it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, "")
}

fn find<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Compares by digests, so that the time taken tells nothing of the secret.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials { user: "Mufasa".to_owned(), password: "Circle of Life".to_owned() }
    }

    fn server(schemes: &[AuthScheme]) -> ServerAuth {
        ServerAuth::new(schemes, "cam \"1\"", credentials(), 7)
    }

    const ALL: [AuthScheme; 3] =
        [AuthScheme::Basic, AuthScheme::DigestMd5, AuthScheme::DigestSha256];

    const TARGET: Target<'_> = Target { method: "DESCRIBE", uri: "rtsp://h/live/a" };

    #[test]
    fn digest_is_that_of_the_specification() {
        // RFC 7616, 3.9.1, and RFC 2617, 3.5 without its qop.
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        let client_nonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let qop = Qop { nonce_count: "00000001", client_nonce };
        let target = Target { method: "GET", uri: "/dir/index.html" };
        let realm = "http-auth@example.org";
        for (scheme, expected) in [
            (
                AuthScheme::DigestSha256,
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
            (AuthScheme::DigestMd5, "8ca523f5e9506fed4657c9700eebdbec"),
        ] {
            let response = response(scheme, &credentials(), realm, nonce, target, Some(&qop));
            assert_eq!(response, expected);
        }
        let credentials =
            Credentials { user: "Mufasa".to_owned(), password: "CircleOfLife".to_owned() };
        let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
        let realm = "testrealm@host.com";
        let response = response(AuthScheme::DigestMd5, &credentials, realm, nonce, target, None);
        assert_eq!(response, "1949323746fe6a43ef61f9606e7febea");
    }

    #[test]
    fn our_client_satisfies_our_server() {
        for scheme in ALL {
            let server = server(&[scheme]);
            let challenges = server.challenges();
            let mut client =
                ClientAuth::from_challenges(challenges.iter().map(String::as_str)).unwrap();
            assert_eq!((client.scheme(), client.is_stale), (scheme, false));
            let value = client.authorization(&credentials(), TARGET, 3);
            assert_eq!(server.verify(Some(&value), TARGET), Verdict::Allowed, "{value}");
            // For its tracks, too; not for others.
            let track = Target { uri: "rtsp://h/live/a/trackID=0", ..TARGET };
            assert_eq!(server.verify(Some(&value), track), Verdict::Allowed);
            let wrong = Credentials { password: "x".to_owned(), ..credentials() };
            let value = client.authorization(&wrong, TARGET, 3);
            assert_eq!(server.verify(Some(&value), TARGET), Verdict::Denied);
        }
        assert_eq!(server(&ALL).verify(None, TARGET), Verdict::Missing);
    }

    #[test]
    fn digest_is_for_one_request_and_nonce() {
        let all = server(&ALL);
        let mut client = ClientAuth {
            has_qop: true,
            ..ClientAuth::from_challenges(all.challenges().iter().map(String::as_str)).unwrap()
        };
        let value = client.authorization(&credentials(), TARGET, 3);
        assert!(value.contains("nc=00000001"));
        assert_eq!(all.verify(Some(&value), TARGET), Verdict::Allowed);
        for other in
            [Target { method: "PLAY", ..TARGET }, Target { uri: "rtsp://h/live/b", ..TARGET }]
        {
            assert_eq!(all.verify(Some(&value), other), Verdict::Denied);
        }
        let another = ServerAuth::new(&ALL, "cam \"1\"", credentials(), 8);
        assert_eq!(another.verify(Some(&value), TARGET), Verdict::Denied);
        // A scheme that is not offered.
        let basic = format!("Basic {}", STANDARD.encode("Mufasa:Circle of Life"));
        let digest_only = server(&[AuthScheme::DigestMd5]);
        assert_eq!(digest_only.verify(Some(&basic), TARGET), Verdict::Denied);
        assert_eq!(all.verify(Some(&basic), TARGET), Verdict::Allowed);
    }

    #[test]
    fn strongest_challenge_is_answered() {
        let choose = |values: &[&str]| ClientAuth::from_challenges(values.iter().copied());
        let scheme = |values: &[&str]| choose(values).map(|auth| auth.scheme);
        let md5 = "Digest realm=\"a, Basic b\", nonce=\"n\\\"1\"";
        let sha = "digest nonce=\"1\",realm=\"r\",algorithm=sha-256,qop=\"auth-int, auth\"";
        assert_eq!(scheme(&["Basic realm=\"x\"", md5]), Some(AuthScheme::DigestMd5));
        assert_eq!(scheme(&[sha, md5]), Some(AuthScheme::DigestSha256));
        let joined = format!("Basic realm=\"x\", {md5}, {sha}");
        assert_eq!(scheme(&[&joined]), Some(AuthScheme::DigestSha256));
        assert_eq!(scheme(&["Basic"]), None);
        assert_eq!(scheme(&["Basic realm=x"]), Some(AuthScheme::Basic));
        let auth = choose(&[md5]).unwrap();
        assert_eq!((auth.realm.as_str(), auth.nonce.as_str()), ("a, Basic b", "n\"1"));
        for useless in [
            "",
            "Bearer x",
            "Digest realm=\"r\"",
            "Digest nonce=\"1\", algorithm=MD5-sess",
            "Digest nonce=\"1\", qop=\"auth-int\"",
        ] {
            assert_eq!(choose(&[useless]), None, "{useless}");
        }
        assert!(choose(&["Digest nonce=1, stale=TRUE"]).unwrap().is_stale);
    }

    #[test]
    fn nonsense_is_denied() {
        let server = server(&ALL);
        for value in
            ["", "Basic", "Basic !!", "Digest", "Digest =", "Digest uri=\"", "x", "Digest a=\"\\"]
        {
            assert_eq!(server.verify(Some(value), TARGET), Verdict::Denied, "{value}");
        }
    }
}
