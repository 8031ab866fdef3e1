//! The client session against scripted servers, with the habits of real ones.

use super::*;

struct Bench {
    session: ClientSession,
    now: Instant,
    events: Vec<ClientEvent>,
    sent: String,
}

const SDP: &str = "v=0\r\ns=-\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
                   a=control:trackID=0\r\nm=application 0 RTP/AVP 107\r\na=control:trackID=1\r\n\
                   m=audio 0 RTP/AVP 0\r\na=control:trackID=2\r\n";

impl Bench {
    fn new(url: &str) -> Self {
        Self::with(ClientConfig::new(url).unwrap())
    }

    fn with(config: ClientConfig) -> Self {
        let now = crate::clock::now();
        let session = ClientSession::new(now, 1, config);
        let mut bench = Self { session, now, events: Vec::new(), sent: String::new() };
        bench.drain();
        bench
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => self.sent += &String::from_utf8_lossy(&bytes),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let read = self.session.handle_input(self.now, Bytes::copy_from_slice(bytes));
        self.drain();
        read
    }

    /// Checks what was asked and answers it, with its own CSeq.
    fn answer(&mut self, asked: &str, status: &str, headers: &[&str], body: &str) {
        let sent = std::mem::take(&mut self.sent);
        let line = sent.lines().next().unwrap_or_default();
        assert_eq!(line, format!("{asked} RTSP/1.0"), "{sent}");
        let cseq = header(&sent, "CSeq").unwrap().to_owned();
        let response = response(status, &[&[&*format!("CSeq: {cseq}")], headers].concat(), body);
        self.feed(response.as_bytes()).unwrap();
    }

    fn last(&self) -> Option<&ClientEvent> {
        self.events.last()
    }

    /// A client that has described the stream of two tracks.
    fn described(config: ClientConfig) -> Self {
        let mut bench = Self::with(config);
        bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
        bench.answer("DESCRIBE rtsp://h/live/a", "200 OK", &[], SDP);
        bench
    }

    /// A client that has sent PLAY.
    fn playing() -> Self {
        let mut bench = Self::described(ClientConfig::new("rtsp://h/live/a").unwrap());
        let session = "Session: abc;timeout=20";
        bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[session], "");
        bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[session], "");
        bench
    }

    fn timeout(&mut self, after: Duration) -> Option<ClientError> {
        let result = self.session.handle_timeout(self.now + after).err();
        self.drain();
        result
    }
}

fn response(status: &str, headers: &[&str], body: &str) -> String {
    let mut lines = vec![format!("RTSP/1.0 {status}")];
    lines.extend(headers.iter().map(|header| (*header).to_owned()));
    if !body.is_empty() {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn refused(status: u16) -> ClientEvent {
    ClientEvent::Refused { status, reason: "why".to_owned() }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn stream_is_pulled_the_same_at_every_split() {
    let sdp = SDP;
    let transcript = [
        response("200 OK", &["CSeq: 1", "Public: DESCRIBE, GET_PARAMETER"], ""),
        response("200 OK", &["CSeq: 2", "Content-Base: rtsp://h/live/a/"], sdp),
        response(
            "200 OK",
            &["CSeq: 3", "Session: abc", "Transport: RTP/AVP/TCP;interleaved=0-1;ssrc=0A"],
            "",
        ),
        response("200 OK", &["CSeq: 4", "Transport: RTP/AVP/TCP;unicast;interleaved=4-5"], ""),
        // Packets before the answer, and in a channel of nobody.
        "$\x04\0\x01a$\x02\0\x01?".to_owned(),
        response("200 OK", &["CSeq: 5", "RTP-Info: url=trackID=2;seq=7;rtptime=8,url=x;seq=1"], ""),
        "$\x00\0\x01b$\x01\0\x01c$\x05\0\x01d".to_owned(),
        "TEARDOWN * RTSP/1.0\r\nCSeq: 77\r\n\r\n$\x00\0\x01e".to_owned(),
    ]
    .concat();
    let mut whole = Bench::new("rtsp://h/live/a");
    whole.feed(transcript.as_bytes()).unwrap();

    let events = &whole.events;
    let progress = |stage| ClientEvent::Progress(stage);
    assert_eq!(events[0], progress(ClientStage::AskingOptions));
    assert_eq!(events[1], progress(ClientStage::Describing));
    assert!(matches!(&events[2], ClientEvent::Described(found) if found.media.len() == 3));
    assert_eq!(events[3], progress(ClientStage::SettingUp));
    let setups: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ClientEvent::Setup(setup) => Some((setup.track, setup.delivery, setup.ssrc)),
            _ => None,
        })
        .collect();
    let channels = |rtp| Delivery::Interleaved(Channels { rtp, rtcp: rtp + 1 });
    assert_eq!(setups, [(0, channels(0), Some(10)), (2, channels(4), None)]);
    let starts = vec![
        ClientStart { track: 2, sequence: Some(7), timestamp: Some(8) },
        ClientStart { track: 2, sequence: Some(1), timestamp: None },
    ];
    assert!(events.contains(&ClientEvent::Playing(starts)), "{events:?}");
    let packets: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ClientEvent::Packet { track, kind, packet } => Some((*track, *kind, packet.packet())),
            _ => None,
        })
        .collect();
    let packet = |track, kind, bytes: &'static [u8]| (track, kind, Bytes::from_static(bytes));
    assert_eq!(
        packets,
        [
            packet(2, PacketKind::Rtp, b"a"),
            packet(0, PacketKind::Rtp, b"b"),
            packet(0, PacketKind::Rtcp, b"c"),
            packet(2, PacketKind::Rtcp, b"d"),
        ]
    );
    assert_eq!(events.last(), Some(&ClientEvent::Ended));
    assert_eq!(whole.session.stray_packets(), 1);
    let requests: Vec<&str> = whole.sent.lines().filter(|l| l.contains("RTSP/1.0")).collect();
    assert_eq!(
        requests,
        [
            "OPTIONS rtsp://h/live/a RTSP/1.0",
            "DESCRIBE rtsp://h/live/a RTSP/1.0",
            "SETUP rtsp://h/live/a/trackID=0 RTSP/1.0",
            "SETUP rtsp://h/live/a/trackID=2 RTSP/1.0",
            "PLAY rtsp://h/live/a/ RTSP/1.0",
            "RTSP/1.0 200 OK",
        ]
    );
    assert_eq!(whole.sent.matches("Session: abc\r\n").count(), 2);
    for at in 0..transcript.len() {
        let mut split = Bench::new("rtsp://h/live/a");
        split.feed(&transcript.as_bytes()[..at]).unwrap();
        split.feed(&transcript.as_bytes()[at..]).unwrap();
        assert_eq!((&split.events, &split.sent), (&whole.events, &whole.sent), "at {at}");
    }
}

#[test]
fn urls_lose_their_credentials() {
    let config = ClientConfig::new("rtsp://us%40er:p%3Aw@[::1]:8554/a/b?c=/d").unwrap();
    assert_eq!(config.url, "rtsp://[::1]:8554/a/b?c=/d");
    let credentials = Credentials { user: "us@er".to_owned(), password: "p:w".to_owned() };
    assert_eq!(config.credentials, Some(credentials));
    assert_eq!(ClientConfig::new("rtsp://h/a").unwrap().credentials, None);
    for url in ["http://h/a", "rtsp:", "rtsp:///a", ""] {
        assert_eq!(ClientConfig::new(url), None, "{url}");
    }
}

#[test]
fn answers_without_a_right_number_are_taken() {
    for cseq in [&[][..], &["cseq:3"], &["CSEQ : 99"], &["CSeq: x"]] {
        let mut bench = Bench::described(ClientConfig::new("rtsp://h/live/a").unwrap());
        bench.feed(response("200 OK", cseq, "").as_bytes()).unwrap();
        let setups = bench.events.iter().filter(|event| matches!(event, ClientEvent::Setup(_)));
        assert_eq!(setups.count(), 1, "{cseq:?}");
    }
}

#[test]
fn refusals_end_the_pull() {
    let mut bench = Bench::new("rtsp://h/live/a");
    // A server may not know OPTIONS.
    bench.answer("OPTIONS rtsp://h/live/a", "501 Not Implemented", &[], "");
    bench.answer("DESCRIBE rtsp://h/live/a", "404 why", &[], "");
    assert_eq!(bench.last(), Some(&refused(404)));
    assert_eq!(bench.session.poll_timeout(), None);
    bench.feed(b"$\0\0\x01a garbage").unwrap();

    let mut bench = Bench::playing();
    bench.answer("PLAY rtsp://h/live/a", "453 why", &[], "");
    assert_eq!(bench.last(), Some(&refused(453)));

    let mut bench = Bench::described(ClientConfig::new("rtsp://h/live/a").unwrap());
    let long = format!("500 {}", "é".repeat(300));
    bench.answer("SETUP rtsp://h/live/a/trackID=0", &long, &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", &long, &[], "");
    let Some(ClientEvent::Refused { status: 500, reason }) = bench.last() else { panic!() };
    assert_eq!(reason.len(), REASON_LEN_MAX);
}

#[test]
fn redirects_are_the_drivers() {
    for (location, target) in [
        ("rtsp://other:555/live/b", "rtsp://other:555/live/b"),
        ("/live/b", "rtsp://h/live/b"),
        ("b", "rtsp://h/live/b"),
    ] {
        let header = format!("Location: {location}");
        let mut bench = Bench::new("rtsp://u:p@h/live/a");
        bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
        bench.answer("DESCRIBE rtsp://h/live/a", "302 Moved", &[&header], "");
        assert_eq!(bench.last(), Some(&ClientEvent::Redirect(target.to_owned())));
        // While it plays, the server may ask for it.
        let mut bench = Bench::playing();
        let request = format!("REDIRECT * RTSP/1.0\r\nCSeq: 1\r\n{header}\r\n\r\n");
        bench.sent.clear();
        bench.feed(request.as_bytes()).unwrap();
        assert_eq!(bench.last(), Some(&ClientEvent::Redirect(target.to_owned())));
        // The session there is ended first.
        let (answer, rest) = bench.sent.split_once("\r\n\r\n").unwrap();
        assert_eq!(answer, "RTSP/1.0 200 OK\r\nCSeq: 1");
        assert!(rest.starts_with("TEARDOWN rtsp://h/live/a RTSP/1.0\r\n"), "{rest}");
    }
    let mut bench = Bench::new("rtsp://h/live/a");
    bench.answer("OPTIONS rtsp://h/live/a", "301 Moved", &[], "");
    // Nowhere to go is no redirect.
    assert_eq!(bench.last(), Some(&ClientEvent::Progress(ClientStage::Describing)));
}

#[test]
fn track_that_is_refused_is_left_out() {
    let mut bench = Bench::described(ClientConfig::new("rtsp://h/live/a").unwrap());
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "404 why", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &["Session: s"], "");
    bench.answer("PLAY rtsp://h/live/a", "200 OK", &[], "");
    assert_eq!(bench.last(), Some(&ClientEvent::Progress(ClientStage::AwaitingMedia)));
}

/// A server that describes its stream so.
fn describe(sdp: &str) -> Bench {
    let mut bench = Bench::new("rtsp://h/live/a");
    bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
    bench.answer("DESCRIBE rtsp://h/live/a", "200 OK", &[], sdp);
    bench
}

#[test]
fn tracks_lie_behind_the_address_of_all() {
    let at = |control: &str| SDP.replace("m=video", &format!("a=control:{control}\r\nm=video"));
    for headers in [&[][..], &["Content-Base: rtsp://h/live/a/"]] {
        let mut bench = Bench::new("rtsp://h/live?ch=1");
        bench.answer("OPTIONS rtsp://h/live?ch=1", "200 OK", &[], "");
        let sdp = at("rtsp://h/b/");
        bench.answer("DESCRIBE rtsp://h/live?ch=1", "200 OK", headers, &sdp);
        bench.answer("SETUP rtsp://h/b/trackID=0", "200 OK", &[], "");
        bench.answer("SETUP rtsp://h/b/trackID=2", "200 OK", &[], "");
        bench.answer("PLAY rtsp://h/b/", "200 OK", &[], "");
    }
    // One that is relative itself is that of all together alone.
    let mut bench = describe(&at("all"));
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[], "");
    bench.answer("PLAY rtsp://h/live/a/all", "200 OK", &[], "");
}

#[test]
fn back_channels_are_not_set_up() {
    let back_channel = "m=audio 0 RTP/AVP 8\r\na=control:trackID=3\r\na=sendonly\r\n";
    let mut bench = describe(&[back_channel, SDP].concat());
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[], "");
    bench.answer("PLAY rtsp://h/live/a", "200 OK", &[], "");
    // A server that says of itself what it does.
    let mut bench = describe(back_channel);
    bench.answer("SETUP rtsp://h/live/a/trackID=3", "200 OK", &[], "");
    bench.answer("PLAY rtsp://h/live/a", "200 OK", &[], "");
}

const METADATA: &str = "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n\
    a=control:trackID=3\r\n";

#[test]
fn tracks_beside_audio_and_video_are_set_up_behind_them() {
    let mut bench = describe(&[METADATA, SDP].concat());
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=3", "200 OK", &[], "");
    assert!(bench.sent.starts_with("PLAY "), "{}", bench.sent);
    // One that is refused is left out, and one that the client would send.
    let mut bench = describe(&[METADATA, SDP].concat());
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=3", "404 why", &[], "");
    assert!(bench.sent.starts_with("PLAY "), "{}", bench.sent);
    let mut bench = describe(&[METADATA, "a=sendonly\r\n", SDP].concat());
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[], "");
    assert!(bench.sent.starts_with("PLAY "), "{}", bench.sent);
    // Alone they are not asked for.
    let mut bench = describe(&[METADATA, SDP].concat());
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "404 why", &[], "");
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "404 why", &[], "");
    assert_eq!(bench.last(), Some(&refused(404)));
}

#[test]
fn ports_that_the_server_refuses_are_told() {
    for (status, is_tried_again) in [("461 Unsupported Transport", true), ("404 Not Found", false)]
    {
        let transports = vec![LowerTransport::Udp, LowerTransport::Tcp];
        let config = ClientConfig { transports, ..ClientConfig::new("rtsp://h/live/a").unwrap() };
        let mut bench = Bench::described(config);
        assert_eq!(bench.last(), Some(&ClientEvent::UdpWanted { track: 0 }));
        bench.session.open_udp(bench.now, Ports { rtp: 5000, rtcp: 5001 });
        bench.drain();
        bench.answer("SETUP rtsp://h/live/a/trackID=0", status, &[], "");
        assert!(bench.events.contains(&ClientEvent::UdpRefused { track: 0 }), "{status}");
        let is_next = bench.last() == Some(&ClientEvent::UdpWanted { track: 2 });
        assert_eq!(is_next, !is_tried_again, "{status}: {}", bench.sent);
        assert_eq!(bench.sent.contains("interleaved=0-1"), is_tried_again, "{}", bench.sent);
    }
}

#[test]
fn next_transport_is_tried() {
    let transports = vec![LowerTransport::Tcp, LowerTransport::Udp];
    let config = ClientConfig { transports, ..ClientConfig::new("rtsp://h/live/a").unwrap() };
    let mut bench = Bench::described(config.clone());
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "461 why", &[], "");
    assert_eq!(bench.last(), Some(&ClientEvent::UdpWanted { track: 0 }));
    let client_port = Ports { rtp: 5000, rtcp: 5001 };
    bench.session.open_udp(bench.now, client_port);
    bench.session.open_udp(bench.now, client_port);
    bench.drain();
    let asked = header(&bench.sent, "Transport");
    assert_eq!(asked, Some("RTP/AVP;unicast;client_port=5000-5001"));
    let told = "Transport: RTP/AVP;unicast;client_port=5000-5001;server_port=9-10;source=1.2.3.4";
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[told], "");
    let setup = bench.events.iter().find_map(|event| match event {
        ClientEvent::Setup(setup) => Some(setup),
        _ => None,
    });
    let server_port = Ports { rtp: 9, rtcp: 10 };
    let setup = setup.unwrap();
    assert_eq!(setup.delivery, Delivery::Udp { client_port, server_port });
    assert_eq!(setup.source.as_deref(), Some("1.2.3.4"));
    assert_eq!(bench.last(), Some(&ClientEvent::UdpWanted { track: 2 }));
    // No ports for the second: it is left out.
    bench.session.refuse_udp(bench.now);
    bench.drain();
    bench.answer("PLAY rtsp://h/live/a", "200 OK", &[], "");
    bench.session.note_media(bench.now);
    assert_eq!(bench.timeout(11 * SECOND), None);
    assert!(!bench.session.send_packet(0, PacketKind::Rtcp, b"RR"));

    let mut bench = Bench::described(config);
    let udp = "Transport: RTP/AVP;unicast;client_port=1-2";
    bench.sent.clear();
    let error = bench.feed(response("200 OK", &["CSeq: 3", udp], "").as_bytes());
    assert_eq!(error, Err(ClientError::Transport));
}

#[test]
fn tracks_are_played_one_by_one_where_they_must() {
    let mut bench = Bench::playing();
    bench.answer("PLAY rtsp://h/live/a", "457 Invalid Range", &[], "");
    assert_eq!(header(&bench.sent, "Range"), None);
    bench.answer("PLAY rtsp://h/live/a", "459 Aggregate Operation Not Allowed", &[], "");
    let info = "RTP-Info: url=rtsp://h/live/a/trackID=0;seq=1";
    bench.answer("PLAY rtsp://h/live/a/trackID=0", "200 OK", &[info], "");
    let info = "RTP-Info: url=whatever;seq=2";
    bench.answer("PLAY rtsp://h/live/a/trackID=2", "200 OK", &[info], "");
    let start = ClientStart { track: 0, sequence: Some(1), timestamp: None };
    assert!(bench.events.contains(&ClientEvent::Playing(vec![start])), "{:?}", bench.events);
}

#[test]
fn starts_are_those_of_the_tracks_that_they_name() {
    let sdp = SDP.replace("trackID=0", "1").replace("trackID=2", "x1");
    let mut bench = Bench::new("rtsp://h/live/a");
    bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
    bench.answer("DESCRIBE rtsp://h/live/a", "200 OK", &[], &sdp);
    for track in ["1", "x1"] {
        bench.answer(&format!("SETUP rtsp://h/live/a/{track}"), "200 OK", &["Session: abc"], "");
    }
    let info = "RTP-Info: url=rtsp://other/live/a/x1;seq=2,url=rtsp://h/live/a/1;seq=1";
    bench.answer("PLAY rtsp://h/live/a", "200 OK", &[info], "");
    let start = |track, number| ClientStart { track, sequence: Some(number), timestamp: None };
    let starts = ClientEvent::Playing(vec![start(2, 2), start(0, 1)]);
    assert!(bench.events.contains(&starts), "{:?}", bench.events);
}

#[test]
fn credentials_are_sent_when_asked_for() {
    let challenge = "WWW-Authenticate: Digest realm=\"r\", nonce=\"1\"";
    let mut bench = Bench::new("rtsp://u:p@h/live/a");
    assert!(!bench.sent.contains("Authorization"));
    bench.answer("OPTIONS rtsp://h/live/a", "401 why", &[challenge], "");
    let value = header(&bench.sent, "Authorization").unwrap();
    assert!(value.starts_with("Digest username=\"u\", realm=\"r\", nonce=\"1\", uri=\"rtsp://h/"));
    bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
    assert!(bench.sent.contains("Authorization"));
    // A nonce that has become too old is no refusal.
    let stale = "WWW-Authenticate: Digest realm=\"r\", nonce=\"2\", stale=true";
    bench.answer("DESCRIBE rtsp://h/live/a", "401 why", &[stale], "");
    assert!(bench.sent.contains("nonce=\"2\""));
    bench.answer("DESCRIBE rtsp://h/live/a", "401 why", &[challenge], "");
    assert_eq!(bench.last(), Some(&refused(401)));

    // Wrong ones are not sent a second time.
    let mut bench = Bench::new("rtsp://u:p@h/live/a");
    bench.answer("OPTIONS rtsp://h/live/a", "401 why", &[challenge], "");
    bench.answer("OPTIONS rtsp://h/live/a", "401 why", &[challenge], "");
    assert_eq!(bench.last(), Some(&refused(401)));

    // Without any, the description is asked for all the same.
    let mut bench = Bench::new("rtsp://h/live/a");
    bench.answer("OPTIONS rtsp://h/live/a", "401 why", &[challenge], "");
    bench.answer("DESCRIBE rtsp://h/live/a", "401 why", &[challenge], "");
    assert_eq!(bench.last(), Some(&refused(401)));
}

#[test]
fn timeout_that_was_told_once_holds() {
    let told = "Session: abc;timeout=20";
    for (first, second, play, seconds) in [
        (told, "Session: abc", "Session: abc", 10),
        ("Session: abc", "Session: abc", told, 10),
        ("Session: abc", "Session: abc", "", 30),
    ] {
        let mut bench = Bench::new("rtsp://h/live/a");
        bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
        bench.answer("DESCRIBE rtsp://h/live/a", "200 OK", &[], SDP);
        bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[first], "");
        bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[second], "");
        let of_play: Vec<&str> = [play].into_iter().filter(|header| !header.is_empty()).collect();
        bench.answer("PLAY rtsp://h/live/a", "200 OK", &of_play, "");
        bench.feed(b"$\0\0\x01a").unwrap();
        let due = bench.now + seconds * SECOND;
        assert_eq!(bench.session.poll_timeout(), Some(due), "{first} {second} {play}");
    }
}

#[test]
fn session_is_kept_alive() {
    for (public, method) in
        [("Public: OPTIONS, get_parameter", "GET_PARAMETER"), ("Public: OPTIONS", "OPTIONS")]
    {
        let mut bench = Bench::new("rtsp://h/live/a");
        bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[public], "");
        bench.answer("DESCRIBE rtsp://h/live/a", "200 OK", &[], SDP);
        let session = "Session: abc;timeout=20";
        bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[session], "");
        bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[session], "");
        bench.answer("PLAY rtsp://h/live/a", "200 OK", &[], "");
        bench.feed(b"$\0\0\x01a").unwrap();
        assert_eq!(bench.session.poll_timeout(), Some(bench.now + 10 * SECOND));
        assert_eq!(bench.timeout(9 * SECOND), None);
        assert_eq!(bench.sent, "");
        for turn in 1..=3 {
            assert_eq!(bench.timeout(10 * turn * SECOND), None);
            assert_eq!(
                bench.sent.lines().next().unwrap(),
                format!("{method} rtsp://h/live/a RTSP/1.0")
            );
            assert_eq!(header(&bench.sent, "Session"), Some("abc"));
            // Nobody answers.
            bench.sent.clear();
        }
        assert_eq!(bench.session.dialog.pending_count(), 1);
        // A late answer to one that was given up.
        bench.feed(response("200 OK", &["CSeq: 6"], "").as_bytes()).unwrap();
        assert_eq!(bench.session.dialog.pending_count(), 1);
        bench.feed(response("405 No", &["CSeq: 8"], "").as_bytes()).unwrap();
        assert_eq!(bench.timeout(40 * SECOND), None);
        assert!(bench.sent.starts_with("OPTIONS "), "{}", bench.sent);
    }
}

/// A server that can't count is heard on: what it refuses, and a nonce that has become too old.
#[test]
fn session_with_wrong_numbers_is_kept_alive() {
    let mut bench = Bench::new("rtsp://u:p@h/live/a");
    let session = "Session: abc;timeout=20";
    let challenge = "WWW-Authenticate: Digest realm=\"r\", nonce=\"1\"";
    let stale = "WWW-Authenticate: Digest realm=\"r\", nonce=\"2\", stale=true";
    let mut number = 100;
    let mut answer =
        |bench: &mut Bench, asked: &str, status: &str, headers: &[&str], body: &str| {
            assert!(bench.sent.starts_with(asked), "{asked}: {}", bench.sent);
            bench.sent.clear();
            number += 1;
            let cseq = format!("CSeq: {number}");
            let headers = [&[cseq.as_str()], headers].concat();
            bench.feed(response(status, &headers, body).as_bytes()).unwrap();
        };
    answer(&mut bench, "OPTIONS", "200 OK", &["Public: GET_PARAMETER"], "");
    answer(&mut bench, "DESCRIBE", "401 why", &[challenge], "");
    answer(&mut bench, "DESCRIBE", "200 OK", &[], SDP);
    answer(&mut bench, "SETUP", "200 OK", &[session], "");
    answer(&mut bench, "SETUP", "200 OK", &[session], "");
    // PLAY has no answer.
    bench.session.deadline = None;
    bench.feed(b"$\0\0\x01a").unwrap();
    bench.sent.clear();
    for turn in 1..=2 {
        bench.sent.clear();
        assert_eq!(bench.timeout(10 * turn * SECOND), None);
    }
    answer(&mut bench, "GET_PARAMETER", "401 why", &[stale], "");
    assert!(bench.sent.contains("nonce=\"2\""), "{}", bench.sent);
    answer(&mut bench, "GET_PARAMETER", "501 why", &[], "");
    assert_eq!(bench.timeout(30 * SECOND), None);
    answer(&mut bench, "OPTIONS", "200 OK", &[], "");
    assert!(!matches!(bench.last(), Some(ClientEvent::Refused { .. })), "{:?}", bench.last());
}

#[test]
fn each_stage_has_its_deadline() {
    let stages = |bench: &mut Bench| match bench.timeout(5 * SECOND) {
        Some(ClientError::Timeout(stage)) => Some(stage),
        _ => None,
    };
    let mut bench = Bench::new("rtsp://h/live/a");
    assert_eq!(bench.timeout(4 * SECOND), None);
    assert_eq!(stages(&mut bench), Some(ClientStage::AskingOptions));
    bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
    assert_eq!(stages(&mut bench), Some(ClientStage::Describing));
    bench.answer("DESCRIBE rtsp://h/live/a", "200 OK", &[], SDP);
    assert_eq!(stages(&mut bench), Some(ClientStage::SettingUp));
    bench.answer("SETUP rtsp://h/live/a/trackID=0", "200 OK", &[], "");
    bench.now += 4 * SECOND;
    bench.answer("SETUP rtsp://h/live/a/trackID=2", "200 OK", &[], "");
    assert_eq!(stages(&mut bench), Some(ClientStage::AwaitingPlay));
    bench.answer("PLAY rtsp://h/live/a", "200 OK", &[], "");
    assert_eq!(bench.timeout(9 * SECOND), None);
    let error = ClientError::Timeout(ClientStage::AwaitingMedia);
    assert_eq!(bench.timeout(10 * SECOND), Some(error));
    // A report is no media.
    bench.feed(b"$\x01\0\x01a").unwrap();
    assert_eq!(bench.timeout(10 * SECOND), Some(error));
    bench.feed(b"$\x02\0\x01a").unwrap();
    assert_eq!(bench.timeout(10 * SECOND), None);
}

#[test]
fn media_stands_for_an_answer_to_play() {
    let mut bench = Bench::playing();
    bench.feed(b"$\0\0\x01a").unwrap();
    assert_eq!(bench.timeout(5 * SECOND), None);
    assert!(bench.events.contains(&ClientEvent::Playing(vec![])));
    assert_eq!(bench.timeout(11 * SECOND), None);
}

#[test]
fn session_is_kept_alive_where_play_is_never_answered() {
    for over_udp in [false, true] {
        let mut bench = Bench::playing();
        bench.session.deadline = Some(bench.now + 3600 * SECOND);
        bench.sent.clear();
        if over_udp {
            bench.session.note_media(bench.now);
        } else {
            bench.feed(b"$\0\0\x01a").unwrap();
        }
        assert_eq!(bench.session.poll_timeout(), Some(bench.now + 10 * SECOND));
        assert_eq!(bench.timeout(10 * SECOND), None);
        assert!(bench.sent.starts_with("OPTIONS "), "{}", bench.sent);
    }
}

#[test]
fn multicast_is_a_fault() {
    let config = ClientConfig {
        transports: vec![LowerTransport::Udp],
        ..ClientConfig::new("rtsp://h/live/a").unwrap()
    };
    let mut bench = Bench::described(config);
    bench.session.open_udp(bench.now, Ports { rtp: 5000, rtcp: 5001 });
    bench.drain();
    let transport = "Transport: RTP/AVP;multicast;destination=239.1.1.1;port=5000-5001";
    let answer = response("200 OK", &["CSeq: 3", transport], "");
    assert_eq!(bench.feed(answer.as_bytes()), Err(ClientError::Multicast));
}

#[test]
fn requests_of_the_server_are_answered() {
    let mut bench = Bench::playing();
    bench.sent.clear();
    bench.feed(b"OPTIONS * RTSP/1.0\r\nCSeq: 4\r\n\r\n").unwrap();
    assert_eq!(bench.sent, "RTSP/1.0 200 OK\r\nCSeq: 4\r\n\r\n");
    bench.sent.clear();
    bench.feed(b"ANNOUNCE * RTSP/1.0\r\n\r\n").unwrap();
    assert_eq!(bench.sent, "RTSP/1.0 501 Not Implemented\r\n\r\n");
}

#[test]
fn packets_and_the_end_are_sent() {
    let mut bench = Bench::playing();
    bench.sent.clear();
    assert!(bench.session.send_packet(2, PacketKind::Rtcp, b"RR"));
    assert!(!bench.session.send_packet(1, PacketKind::Rtcp, b"RR"));
    bench.drain();
    assert_eq!(bench.sent, "$\x03\0\x02RR");
    bench.sent.clear();
    bench.session.teardown();
    bench.drain();
    assert!(bench.sent.starts_with("TEARDOWN rtsp://h/live/a RTSP/1.0\r\n"));
    assert_eq!(header(&bench.sent, "Session"), Some("abc"));
    bench.sent.clear();
    bench.session.teardown();
    bench.drain();
    assert_eq!(bench.sent, "");
}

#[test]
fn faults_are_errors() {
    let describe = |sdp: &str| {
        let mut bench = Bench::new("rtsp://h/live/a");
        bench.answer("OPTIONS rtsp://h/live/a", "200 OK", &[], "");
        bench.feed(response("200 OK", &["CSeq: 2"], sdp).as_bytes()).unwrap_err()
    };
    assert_eq!(describe("v=0\r\n"), ClientError::Description(SdpError::NoMedia));
    assert_eq!(describe("m=video 0 RTP/SAVP 96\r\n"), ClientError::NoTrack);
    assert_eq!(describe("m=application 0 RTP/AVP 96\r\n"), ClientError::NoTrack);
    assert_eq!(describe(METADATA), ClientError::NoTrack);
    let error = Bench::new("rtsp://h/a").feed(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
    assert_eq!(error, ClientError::Message(MessageError::Version));
}
