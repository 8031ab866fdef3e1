//! Values of RTSP headers: what is read and written is read again as the same.
#![no_main]

use rillcast::proto::rtsp::auth::{ClientAuth, Credentials, ServerAuth, Target};
use rillcast::proto::rtsp::session_id::SessionId;
use rillcast::proto::rtsp::{AuthScheme, StreamRequest, TrackStart, Transport};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // What was in quotes loses them in the first turn.
    for transport in Transport::parse_list(text) {
        for transport in Transport::parse_list(&transport.to_string()) {
            let again = Transport::parse_list(&transport.to_string());
            assert_eq!(again.first(), Some(&transport));
        }
    }
    let starts = TrackStart::parse_list(&TrackStart::format_list(&TrackStart::parse_list(text)));
    assert_eq!(TrackStart::parse_list(&TrackStart::format_list(&starts)), starts);
    let _ = SessionId::parse(text);
    let request = StreamRequest::parse(text);
    assert!(request.is_none_or(|request| !request.app.is_empty() && !request.stream.is_empty()));
    authorize(text);
});

/// Whatever the challenge, an answer to it is well-formed; whatever the answer, it opens nothing.
fn authorize(text: &str) {
    let credentials = Credentials { user: "u\"".to_owned(), password: "p".to_owned() };
    let target = Target { method: "PLAY", uri: "rtsp://h/a" };
    if let Some(mut auth) = ClientAuth::from_challenges([text].into_iter()) {
        let value = auth.authorization(&credentials, target, 1);
        assert!(value.starts_with("Basic ") || value.starts_with("Digest username=\"u\\\"\""));
    }
    let schemes = [AuthScheme::DigestMd5, AuthScheme::DigestSha256];
    let server = ServerAuth::new(&schemes, "r", credentials, 7);
    let verdict = server.verify(Some(text), target);
    assert_eq!(verdict, rillcast::proto::rtsp::auth::Verdict::Denied);
}
