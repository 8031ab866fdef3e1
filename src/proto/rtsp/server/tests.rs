//! The server session on its own: transcripts of players and publishers, refusals, timeouts.

use super::*;
use crate::limits::{RTSP_AUTH_ATTEMPTS_MAX, RTSP_BODY_LEN_MAX};
use crate::media::Codec;
use crate::proto::rtp::Format;
use crate::proto::rtsp::stream_url::StreamRequest;
use crate::proto::rtsp::transport::Channels;

const SEED: u64 = 5;
const FIRST: FirstPacket = FirstPacket { track: 0, sequence: 65_535, timestamp: 4_000_000_000 };

struct Bench {
    session: ServerSession,
    now: Instant,
    events: Vec<ServerEvent>,
    sent: String,
    /// The session's answers are those of a driver that refuses nothing.
    accepts: bool,
}

fn description() -> SessionDescription {
    let aac = Format::of_codec(Codec::Aac, b"\x11\x90").unwrap();
    let pcma = Format::of_codec(Codec::PcmA, b"").unwrap();
    let media = [aac, pcma].map(|format| MediaDescription::new(format, 9)).to_vec();
    SessionDescription { name: "a".to_owned(), control: None, media }
}

fn server_port() -> Ports {
    Ports { rtp: 7000, rtcp: 7001 }
}

impl Bench {
    fn new(config: ServerConfig) -> Self {
        let now = crate::clock::now();
        let session = ServerSession::new(now, SEED, config);
        Self { session, now, events: Vec::new(), sent: String::new(), accepts: true }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ServerError> {
        let input = Bytes::copy_from_slice(bytes);
        let read = self.session.handle_input(self.now, input);
        // What was read before a fault was read.
        self.drain()?;
        read
    }

    fn drain(&mut self) -> Result<(), ServerError> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => self.sent += std::str::from_utf8(&bytes).unwrap(),
                Output::Event(event) => {
                    self.events.push(event.clone());
                    if self.accepts {
                        self.accept(&event)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, event: &ServerEvent) -> Result<(), ServerError> {
        match event {
            ServerEvent::Describe(_) => self.session.accept_describe(self.now, description()),
            ServerEvent::Announce { .. } => self.session.accept_announce(self.now),
            ServerEvent::SetupUdp { .. } => self.session.accept_udp(self.now, server_port()),
            ServerEvent::Play(_) => self.session.accept_play(self.now, &[FIRST]),
            ServerEvent::Record(_) => self.session.accept_record(self.now),
            _ => Ok(()),
        }
    }

    /// Sends a request; the response.
    fn ask(&mut self, line: &str, headers: &[&str]) -> String {
        self.ask_with_body(line, headers, "")
    }

    fn ask_with_body(&mut self, line: &str, headers: &[&str], body: &str) -> String {
        let request = request(line, headers, body);
        self.feed(request.as_bytes()).unwrap();
        std::mem::take(&mut self.sent)
    }

    fn status(&mut self, line: &str, headers: &[&str]) -> u16 {
        status(&self.ask(line, headers))
    }

    /// A player that is ready to play.
    fn player(transport: &str, config: ServerConfig) -> Self {
        let mut bench = Self::new(config);
        assert_eq!(bench.status("DESCRIBE rtsp://h/live/a", &[]), 200);
        let header = format!("Transport: {transport}");
        assert_eq!(bench.status("SETUP rtsp://h/live/a/trackID=0", &[&header]), 200);
        bench.events.clear();
        bench
    }
}

fn request(line: &str, headers: &[&str], body: &str) -> String {
    let mut lines = vec![format!("{line} RTSP/1.0")];
    lines.extend(headers.iter().map(|header| (*header).to_owned()));
    if !body.is_empty() {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

fn status(response: &str) -> u16 {
    response.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a response")
}

fn header<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = response.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn session_id() -> String {
    ServerSession::new(crate::clock::now(), SEED, ServerConfig::default()).session_id
}

const TCP: &str = "RTP/AVP/TCP;unicast;interleaved=0-1";
const UDP: &str = "RTP/AVP;unicast;client_port=5000-5001";

#[test]
fn player_is_served_the_same_at_every_split() {
    let session = format!("Session: {};timeout=60", session_id());
    let tcp = format!("Transport: {TCP}");
    let mut transcript = Vec::new();
    for (line, headers) in [
        ("OPTIONS rtsp://h:554/live/a?t=1", vec!["CSeq: 1"]),
        ("DESCRIBE rtsp://h:554/live/a?t=1", vec!["CSeq: 2", "Accept: application/sdp"]),
        ("SETUP rtsp://h:554/live/a?t=1/trackID=1", vec!["CSeq: 3", &tcp]),
        ("SETUP rtsp://h:554/live/a?t=1/trackID=0", vec!["CSeq: 4", &session, &tcp]),
        ("PLAY rtsp://h:554/live/a?t=1/", vec!["CSeq: 5", &session, "Range: npt=0-"]),
    ] {
        transcript.extend_from_slice(request(line, &headers, "").as_bytes());
    }
    transcript.extend_from_slice(b"$\x03\0\x04RTCP$\x02\0\x03RTP$\x0f\0\x01?");
    for (line, headers) in [
        ("GET_PARAMETER rtsp://h:554/live/a?t=1/", vec!["CSeq: 6", &session]),
        ("PAUSE rtsp://h:554/live/a?t=1/", vec!["CSeq: 7", &session]),
        ("PLAY rtsp://h:554/live/a?t=1/", vec!["CSeq: 8", &session]),
        ("TEARDOWN rtsp://h:554/live/a?t=1/", vec!["CSeq: 9", &session]),
    ] {
        transcript.extend_from_slice(request(line, &headers, "").as_bytes());
    }
    let mut whole = Bench::new(ServerConfig::default());
    whole.feed(&transcript).unwrap();

    let stream = StreamRequest::parse("rtsp://h:554/live/a?t=1").unwrap();
    let setup = |track: usize| TrackSetup {
        track,
        delivery: Delivery::Interleaved(Channels {
            rtp: 2 * track as u8,
            rtcp: 2 * track as u8 + 1,
        }),
        url: format!("rtsp://h:554/live/a?t=1/trackID={track}"),
    };
    let mut expected =
        vec![ServerEvent::Describe(stream), ServerEvent::Play(vec![setup(0), setup(1)])];
    let [ServerEvent::Packet { track: 1, kind: PacketKind::Rtcp, packet }] = &whole.events[2..3]
    else {
        panic!("{:?}", whole.events)
    };
    assert_eq!(packet.packet(), &b"RTCP"[..]);
    expected.push(whole.events[2].clone());
    expected.extend([
        ServerEvent::Pause,
        ServerEvent::Play(vec![setup(0), setup(1)]),
        ServerEvent::Teardown,
    ]);
    assert_eq!(whole.events, expected);
    assert_eq!(whole.session.stray_packets(), 2);
    for at in 0..transcript.len() {
        let mut split = Bench::new(ServerConfig::default());
        split.feed(&transcript[..at]).unwrap();
        split.feed(&transcript[at..]).unwrap();
        assert_eq!((&split.events, &split.sent), (&whole.events, &whole.sent), "at {at}");
    }
}

#[test]
fn responses_tell_what_players_need() {
    let mut bench = Bench::new(ServerConfig::default());
    let options = bench.ask("OPTIONS *", &["CSeq: 1"]);
    assert_eq!(header(&options, "CSeq"), Some("1"));
    assert!(header(&options, "Public").unwrap().contains("GET_PARAMETER"));
    let described = bench.ask("DESCRIBE rtsp://h/live/a/", &["cseq:2"]);
    assert_eq!(header(&described, "Content-Type"), Some("application/sdp"));
    assert_eq!(header(&described, "Content-Base"), Some("rtsp://h/live/a/"));
    assert!(described.contains("a=control:trackID=0\r\nm=audio 0 RTP/AVP 8\r\n"), "{described}");
    let transport = "Transport: RTP/AVP;multicast, RTP/AVP/TCP;unicast;interleaved=8-9";
    let setup = bench.ask("SETUP rtsp://h/live/a/trackID=1", &["CSeq: 3", transport]);
    let expected = "RTP/AVP/TCP;unicast;interleaved=2-3;mode=\"PLAY\"";
    assert_eq!(header(&setup, "Transport"), Some(expected));
    let session = format!("{};timeout=60", session_id());
    assert_eq!(header(&setup, "Session"), Some(session.as_str()));
    // The first packet of track 0 is known, of track 1 none.
    bench.ask("SETUP rtsp://h/live/a/trackID=0", &["CSeq: 4", transport]);
    let playing = bench.ask("PLAY rtsp://h/live/a/", &["CSeq: 5"]);
    let expected = "url=rtsp://h/live/a/trackID=0;seq=65535;rtptime=4000000000";
    assert_eq!(header(&playing, "RTP-Info"), Some(expected));
    assert_eq!(header(&playing, "Range"), Some("npt=0.000-"));
}

#[test]
fn tracks_behind_one_without_packets_are_not_told() {
    let entry = |first: &FirstPacket| {
        let FirstPacket { track, sequence, timestamp } = first;
        format!("url=rtsp://h/live/a/trackID={track};seq={sequence};rtptime={timestamp}")
    };
    let second = FirstPacket { track: 1, sequence: 7, timestamp: 0 };
    for (known, told) in [
        (vec![second, FIRST], Some(format!("{},{}", entry(&FIRST), entry(&second)))),
        (vec![FIRST], Some(entry(&FIRST))),
        // To live555 its numbers would be the first track's.
        (vec![second], None),
        (vec![], None),
    ] {
        let mut bench = Bench::player(TCP, ServerConfig::default());
        let transport = format!("Transport: {TCP}");
        assert_eq!(bench.status("SETUP rtsp://h/live/a/trackID=1", &[&transport]), 200);
        bench.accepts = false;
        assert_eq!(bench.ask("PLAY rtsp://h/live/a/", &[]), "");
        bench.session.accept_play(bench.now, &known).unwrap();
        bench.drain().unwrap();
        assert_eq!(header(&bench.sent, "RTP-Info"), told.as_deref());
    }
}

/// The captures of publishers, with the session that they were given made ours.
fn captures() -> Vec<(&'static str, Vec<u8>, usize)> {
    let captures: [(&str, &[u8], usize); 2] = [
        ("ffmpeg", include_bytes!("../../../../tests/captures/ffmpeg-5.1.9-h264-aac"), 2),
        ("GStreamer", include_bytes!("../../../../tests/captures/gstreamer-1.22-h264-latm"), 2),
    ];
    let named = captures.map(|(name, capture, tracks)| {
        let mut bytes = capture.to_vec();
        let session = format!("\nSession: {}\r", session_id());
        while let Some(at) = bytes.windows(13).position(|part| part == b"\nSession: 1\r\n") {
            bytes.splice(at..at + 12, session.bytes());
        }
        (name, bytes, tracks)
    });
    named.to_vec()
}

#[test]
fn publishers_are_served() {
    for (name, capture, tracks) in captures() {
        let mut bench = Bench::new(ServerConfig::default());
        for piece in capture.chunks(1000) {
            bench.feed(piece).unwrap();
        }
        let statuses = bench.sent.lines().filter(|line| line.starts_with("RTSP/1.0"));
        assert!(statuses.clone().all(|line| line == "RTSP/1.0 200 OK"), "{name}");
        let [ServerEvent::Announce { request, description }, ServerEvent::Record(setups), ..] =
            &bench.events[..]
        else {
            panic!("{name}: {:?}", bench.events)
        };
        assert_eq!((request.app.as_str(), request.stream.as_str()), ("live", "a"));
        assert_eq!((description.media.len(), setups.len()), (tracks, tracks), "{name}");
        let count = |wanted: PacketKind| {
            let packets = bench.events.iter().filter(
                |event| matches!(event, ServerEvent::Packet { kind, .. } if *kind == wanted),
            );
            packets.count()
        };
        assert!(count(PacketKind::Rtp) > 50 && count(PacketKind::Rtcp) > 0, "{name}");
        assert_eq!(bench.session.stray_packets(), 0, "{name}");
        if name == "ffmpeg" {
            assert_eq!(bench.events.last(), Some(&ServerEvent::Teardown));
        } else {
            // As GStreamer does at its end.
            assert_eq!(bench.status("PAUSE rtsp://h/live/a", &[]), 200, "{name}");
        }
    }
}

#[test]
fn packets_that_come_before_the_answer_are_kept() {
    let (_, capture, _) = captures().remove(0);
    let record = capture.windows(7).position(|part| part == b"RECORD ").unwrap();
    let mut bench = Bench::new(ServerConfig::default());
    bench.feed(&capture[..record]).unwrap();
    bench.accepts = false;
    bench.feed(&capture[record..]).unwrap();
    assert!(matches!(bench.events.last(), Some(ServerEvent::Record(_))));
    assert_eq!(bench.session.poll_timeout(), None);
    bench.accepts = true;
    let before = bench.events.len();
    bench.session.accept_record(bench.now).unwrap();
    bench.drain().unwrap();
    assert!(bench.events.len() > before + 50);
    assert_eq!(bench.events.last(), Some(&ServerEvent::Teardown));

    let mut bench = Bench::new(ServerConfig::default());
    bench.accepts = false;
    bench.feed(b"DESCRIBE rtsp://h/live/a RTSP/1.0\r\n\r\n").unwrap();
    let flood = vec![0; HELD_INPUT_LEN_MAX];
    bench.feed(&flood).unwrap();
    assert_eq!(bench.feed(&[0]), Err(ServerError::TooMuchBeforeAnswer));
}

#[test]
fn requests_that_come_at_once_are_bounded() {
    let many = |line: &str, count: usize| request(line, &[], "").repeat(count);
    // What was kept until an answer came counts together.
    let mut bench = Bench::new(ServerConfig::default());
    bench.accepts = false;
    let describe = "DESCRIBE rtsp://h/live/a";
    let setup = request("SETUP rtsp://h/live/a/trackID=0", &[&format!("Transport: {TCP}")], "");
    bench.feed(request(describe, &[], "").as_bytes()).unwrap();
    let turns = format!("{}{}", many("PLAY *", 1), many("PAUSE *", 1)).repeat(10_000);
    bench.feed(format!("{setup}{turns}").as_bytes()).unwrap();
    bench.accepts = true;
    let mut answered = bench.session.accept_describe(bench.now, description());
    let mut events = 0;
    while let (Ok(()), Some(output)) = (answered, bench.session.poll_output()) {
        if let Output::Event(event) = output {
            events += 1;
            answered = bench.accept(&event);
        }
    }
    assert_eq!(answered, Err(ServerError::TooManyAtOnce));
    assert!(events <= 2 * RTSP_REQUESTS_AT_ONCE_MAX, "{events}");
    // So does what needs no answer of the driver.
    let mut bench = Bench::player(TCP, ServerConfig::default());
    let allowed = RTSP_REQUESTS_AT_ONCE_MAX as usize;
    bench.feed(many(describe, allowed).as_bytes()).unwrap();
    bench.feed(many(describe, allowed).as_bytes()).unwrap();
    assert_eq!(bench.feed(many(describe, 10_000).as_bytes()), Err(ServerError::TooManyAtOnce));
    assert_eq!(bench.sent.matches("application/sdp").count(), 3 * allowed);
}

#[test]
fn udp_is_set_up_with_ports_of_both() {
    let mut bench = Bench::player(UDP, ServerConfig::default());
    let transport = format!("Transport: {UDP}");
    let setup = bench.ask("SETUP rtsp://h/live/a/trackID=1", &[&transport]);
    let expected = "RTP/AVP;unicast;client_port=5000-5001;server_port=7000-7001;mode=\"PLAY\"";
    assert_eq!(header(&setup, "Transport"), Some(expected));
    let client_port = Ports { rtp: 5000, rtcp: 5001 };
    let event = ServerEvent::SetupUdp { track: 1, mode: Mode::Play, client_port };
    assert_eq!(bench.events, [event]);
    // Another transport for another track is none.
    let tcp = format!("Transport: {TCP}");
    assert_eq!(bench.status("SETUP rtsp://h/live/a/trackID=1", &[&tcp]), 461);
    bench.ask("PLAY rtsp://h/live/a", &[]);
    let Some(ServerEvent::Play(setups)) = bench.events.last() else { panic!() };
    let delivery = Delivery::Udp { client_port, server_port: server_port() };
    assert_eq!((setups.len(), setups[1].delivery), (2, delivery));
}

#[test]
fn transports_are_the_operators_choice() {
    for (allowed, transport, expected) in [
        (LowerTransport::Tcp, UDP, 461),
        (LowerTransport::Tcp, "RTP/AVP;unicast;client_port=1-2,RTP/AVP/TCP;unicast", 200),
        (LowerTransport::Udp, TCP, 461),
        (LowerTransport::Udp, UDP, 200),
        (LowerTransport::Udp, "RTP/AVP;unicast", 461),
        (LowerTransport::Udp, "RTP/AVP;multicast;client_port=1-2", 461),
        (LowerTransport::Tcp, "RTP/SAVP/TCP", 461),
        (LowerTransport::Tcp, "", 461),
    ] {
        let config = ServerConfig { transports: vec![allowed], ..ServerConfig::default() };
        let mut bench = Bench::new(config);
        bench.ask("DESCRIBE rtsp://h/live/a", &[]);
        let header = format!("Transport: {transport}");
        let status = bench.status("SETUP rtsp://h/live/a/trackID=0", &[&header]);
        assert_eq!(status, expected, "{transport}");
    }
}

#[test]
fn announced_types_that_nobody_could_play_are_refused() {
    for (sdp, expected) in [
        ("m=video 0 RTP/AVP 96\r\n", 400),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/0\r\n", 400),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 0 RTP/AVP 97\r\n", 400),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 x/1\r\nm=audio 0 RTP/AVP 0\r\n", 200),
        ("m=audio 0 RTP/AVP 8\r\nm=application 0 RTP/AVP 98\r\n", 200),
    ] {
        let mut bench = Bench::new(ServerConfig::default());
        let answer = bench.ask_with_body("ANNOUNCE rtsp://h/live/a", &[], sdp);
        assert!(answer.starts_with(&format!("RTSP/1.0 {expected} ")), "{sdp}: {answer}");
    }
}

#[test]
fn requests_out_of_place_are_refused() {
    let tcp = format!("Transport: {TCP}");
    let tcp = tcp.as_str();
    let mut bench = Bench::new(ServerConfig::default());
    for (line, headers, expected) in [
        ("PLAY rtsp://h/live/a", vec![], 455),
        ("RECORD rtsp://h/live/a", vec![], 455),
        ("PAUSE rtsp://h/live/a", vec![], 455),
        ("TEARDOWN rtsp://h/live/a", vec![], 200),
        ("GET_PARAMETER rtsp://h/live/a", vec![], 200),
        ("SET_PARAMETER rtsp://h/live/a", vec![], 200),
        ("REDIRECT rtsp://h/live/a", vec![], 501),
        ("FLY rtsp://h/live/a", vec![], 501),
        ("DESCRIBE rtsp://h/live", vec![], 404),
        ("DESCRIBE *", vec![], 404),
        ("DESCRIBE rtsp://h/live/a", vec!["Require: implicit-play"], 551),
        ("ANNOUNCE rtsp://h/live/a", vec![], 400),
        ("ANNOUNCE rtsp://h/live/a", vec!["Content-Type: text/plain"], 415),
        ("SETUP rtsp://h/live/a/trackID=0", vec!["Transport: RTP/AVP/TCP;mode=record"], 455),
        ("PLAY rtsp://h/live/a", vec!["Session: other"], 454),
    ] {
        assert_eq!(bench.status(line, &headers), expected, "{line}");
    }
    assert_eq!(bench.events, [ServerEvent::BadDescription], "of an ANNOUNCE with nothing");
    assert_eq!(bench.status("DESCRIBE rtsp://h/live/a", &[]), 200);
    for (line, headers, expected) in [
        ("PLAY rtsp://h/live/a", vec![], 455),
        ("ANNOUNCE rtsp://h/live/a", vec![], 455),
        ("SETUP rtsp://h/live/a", vec![tcp], 459),
        ("SETUP rtsp://h/live/a/trackID=2", vec![tcp], 404),
        ("SETUP rtsp://h/live/b/trackID=0", vec![tcp], 404),
        ("SETUP rtsp://h/live/a/trackID=0", vec![tcp, "Session: stale"], 200),
        ("SETUP rtsp://h/live/a/trackID=1", vec![tcp, "Session: other"], 454),
        ("RECORD rtsp://h/live/a", vec![], 455),
        ("PLAY rtsp://h/live/a", vec!["Session: other"], 454),
        ("PLAY rtsp://h/live/a", vec![], 200),
        ("PLAY rtsp://h/live/a", vec![], 200),
        ("SETUP rtsp://h/live/a/trackID=1", vec![tcp], 455),
        ("DESCRIBE rtsp://h/live/b", vec![], 455),
        ("DESCRIBE rtsp://h/live/a", vec![], 200),
        ("TEARDOWN rtsp://h/live/a", vec![], 200),
        ("DESCRIBE rtsp://h/live/b", vec![], 200),
    ] {
        assert_eq!(bench.status(line, &headers), expected, "{line}");
    }
    let body = request("SET_PARAMETER rtsp://h/live/a", &["Content-Length: 3"], "") + "a:b";
    bench.feed(body.as_bytes()).unwrap();
    assert_eq!(status(&bench.sent), 451);
}

#[test]
fn a_stream_may_be_called_like_a_track() {
    let sdp = "m=audio 0 RTP/AVP 8\r\na=control:1\r\nm=audio 0 RTP/AVP 0\r\na=control:2\r\n";
    let mut bench = Bench::new(ServerConfig::default());
    bench.ask_with_body("ANNOUNCE rtsp://h/live/1?t=1", &[], sdp);
    let transport = "Transport: RTP/AVP/TCP;unicast;mode=record";
    bench.ask("SETUP rtsp://h/live/1?t=1/2", &[transport]);
    bench.ask("SETUP rtsp://h/live/1?t=1/1", &[transport]);
    bench.ask("RECORD rtsp://h/live/1?t=1", &[]);
    let Some(ServerEvent::Record(setups)) = bench.events.last() else { panic!() };
    assert!(setups.iter().map(|setup| setup.track).eq([0, 1]), "{setups:?}");
}

#[test]
fn tracks_of_publishers_are_found_by_their_names() {
    let sdp = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:stream=1\r\nm=audio 0 RTP/AVP 0\r\n\
               a=control:rtsp://h/live/a/x\r\nm=audio 0 RTP/AVP 8\r\na=control:stream=11\r\n";
    let mut bench = Bench::new(ServerConfig::default());
    let announced = bench.ask_with_body("ANNOUNCE rtsp://h/live/a?t=1", &[], sdp);
    assert_eq!(status(&announced), 200);
    for (url, channels, expected) in [
        ("rtsp://h/live/a/stream=11?t=1", "4-5", 200),
        ("rtsp://h/live/a?t=1/stream=11", "4-5", 200),
        ("rtsp://other/live/a/stream=1", "6-7", 200),
        ("rtsp://h/live/a/x", "7-8", 461),
        ("rtsp://h/live/a/x", "9-9", 461),
        ("rtsp://h/live/a/x", "0-1", 200),
        ("rtsp://h/live/a/stream=2", "8-9", 404),
        ("rtsp://h/live/a?t=1", "8-9", 459),
        ("rtsp://h/live/b/stream=1", "8-9", 404),
    ] {
        let transport = format!("Transport: RTP/AVP/TCP;interleaved={channels};mode=record");
        let status = bench.status(&format!("SETUP {url}"), &[&transport]);
        assert_eq!(status, expected, "{url}");
    }
    bench.ask("RECORD rtsp://h/live/a?t=1", &[]);
    let Some(ServerEvent::Record(setups)) = bench.events.last() else { panic!() };
    let channels = setups.iter().map(|setup| (setup.track, setup.delivery));
    let expected = [(0, 6), (1, 0), (2, 4)]
        .map(|(track, rtp)| (track, Delivery::Interleaved(Channels { rtp, rtcp: rtp + 1 })));
    assert!(channels.eq(expected), "{setups:?}");
    bench.feed(b"$\x04\0\x01a$\x05\0\x01b").unwrap();
    let packets: Vec<_> = bench
        .events
        .iter()
        .filter_map(|event| match event {
            ServerEvent::Packet { track, kind, .. } => Some((*track, *kind)),
            _ => None,
        })
        .collect();
    assert_eq!(packets, [(2, PacketKind::Rtp), (2, PacketKind::Rtcp)]);
}

#[test]
fn lone_track_may_be_set_up_without_its_name() {
    let mut bench = Bench::new(ServerConfig::default());
    let sdp = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
    bench.ask_with_body("ANNOUNCE rtsp://h/live/a", &[], sdp);
    let transport = "Transport: RTP/AVP/TCP;unicast;mode=record";
    let setup = bench.ask("SETUP rtsp://h/live/a", &[transport]);
    let expected = "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record";
    assert_eq!(header(&setup, "Transport"), Some(expected));
}

#[test]
fn player_without_describe_is_described_to_all_the_same() {
    let mut bench = Bench::new(ServerConfig::default());
    let transport = format!("Transport: {TCP}");
    let setup = bench.ask("SETUP rtsp://h/live/a/trackID=1", &["CSeq: 9", &transport]);
    assert!(matches!(&bench.events[..], [ServerEvent::Describe(stream)] if stream.stream == "a"));
    assert_eq!((status(&setup), header(&setup, "CSeq")), (200, Some("9")));
    assert_eq!(bench.status("PLAY rtsp://h/live/a", &[]), 200);
}

#[test]
fn refusals_are_told_by_status() {
    for (refusal, expected) in [
        (Refusal::NotFound, 404),
        (Refusal::Denied, 401),
        (Refusal::Forbidden, 403),
        (Refusal::InUse, 406),
        (Refusal::Unavailable, 503),
    ] {
        let mut bench = Bench::new(ServerConfig::default());
        bench.accepts = false;
        assert_eq!(bench.ask("DESCRIBE rtsp://h/live/a", &[]), "");
        bench.session.refuse(bench.now, refusal).unwrap();
        bench.drain().unwrap();
        assert_eq!(status(&bench.sent), expected);
        // An answer to nothing is none.
        bench.sent.clear();
        bench.session.refuse(bench.now, refusal).unwrap();
        bench.session.accept_play(bench.now, &[]).unwrap();
        bench.drain().unwrap();
        assert_eq!(bench.sent, "");
    }
}

#[test]
fn pausing_is_the_operators_choice() {
    let config = ServerConfig { pause_allowed: false, ..ServerConfig::default() };
    let mut bench = Bench::player(TCP, config);
    bench.ask("PLAY rtsp://h/live/a", &[]);
    let refused = bench.ask("PAUSE rtsp://h/live/a", &[]);
    assert_eq!(status(&refused), 405);
    assert!(!header(&refused, "Allow").unwrap().contains("PAUSE"));
    assert!(!bench.events.contains(&ServerEvent::Pause));
}

#[test]
fn credentials_are_asked_for_once() {
    let credentials = Credentials { user: "u".to_owned(), password: "p".to_owned() };
    let schemes = vec![AuthScheme::Basic, AuthScheme::DigestMd5];
    let auth = AuthConfig { schemes, realm: "r".to_owned(), credentials };
    let config = ServerConfig { auth: Some(auth), ..ServerConfig::default() };
    let mut bench = Bench::new(config.clone());
    assert_eq!(bench.status("OPTIONS rtsp://h/live/a", &[]), 200);
    let asked = bench.ask("DESCRIBE rtsp://h/live/a", &["CSeq: 2"]);
    let challenges: Vec<_> = asked.lines().filter(|l| l.starts_with("WWW-Auth")).collect();
    assert_eq!((status(&asked), challenges.len()), (401, 2));
    assert!(challenges[0].starts_with("WWW-Authenticate: Digest realm=\"r\", nonce=\""));
    assert_eq!(bench.events, []);
    let basic = "Authorization: Basic dTpw";
    assert_eq!(bench.status("DESCRIBE rtsp://h/live/a", &[basic]), 200);
    let transport = format!("Transport: {TCP}");
    assert_eq!(bench.status("SETUP rtsp://h/live/a/trackID=0", &[&transport]), 200);

    let mut bench = Bench::new(config);
    let wrong = request("DESCRIBE rtsp://h/live/a", &["Authorization: Basic dTpx"], "");
    for _ in 0..RTSP_AUTH_ATTEMPTS_MAX {
        bench.feed(wrong.as_bytes()).unwrap();
    }
    assert_eq!(bench.feed(wrong.as_bytes()), Err(ServerError::TooManyAttempts));
}

#[test]
fn body_that_is_too_long_is_answered_before_the_end() {
    let mut bench = Bench::new(ServerConfig::default());
    let len = format!("Content-Length: {}", RTSP_BODY_LEN_MAX + 1);
    let announce = request("ANNOUNCE rtsp://h/live/a", &["CSeq: 7", &len], "");
    assert_eq!(bench.status("OPTIONS *", &["CSeq: 6"]), 200);
    let error = ServerError::Message(MessageError::BodyTooLong);
    assert_eq!(bench.feed(announce.as_bytes()), Err(error));
    assert!(bench.sent.starts_with("RTSP/1.0 413 Request Entity Too Large\r\nCSeq: 7\r\n"));
    assert_eq!(ServerError::REASONS[error.reason()], "too_large");

    // A response is none of ours to answer.
    let mut bench = Bench::new(ServerConfig::default());
    let response = format!("RTSP/1.0 200 OK\r\n{len}\r\n\r\n");
    assert_eq!(bench.feed(response.as_bytes()), Err(error));
    assert_eq!(bench.sent, "");
}

#[test]
fn each_phase_has_its_deadline() {
    let second = Duration::from_secs(1);
    let timeout =
        |bench: &mut Bench, after: Duration| bench.session.handle_timeout(bench.now + after).err();
    let mut bench = Bench::new(ServerConfig::default());
    assert_eq!(timeout(&mut bench, 14 * second), None);
    assert_eq!(timeout(&mut bench, 15 * second), Some(ServerError::CommandTimeout));
    let mut bench = Bench::player(TCP, ServerConfig::default());
    assert_eq!(timeout(&mut bench, 15 * second), Some(ServerError::CommandTimeout));
    bench.ask("PLAY rtsp://h/live/a", &[]);
    assert_eq!(timeout(&mut bench, 9999 * second), None);

    let mut bench = Bench::player(UDP, ServerConfig::default());
    bench.ask("PLAY rtsp://h/live/a", &[]);
    assert_eq!(timeout(&mut bench, 69 * second), None);
    assert_eq!(timeout(&mut bench, 70 * second), Some(ServerError::SessionTimeout));
    bench.session.note_alive(bench.now + 50 * second);
    assert_eq!(timeout(&mut bench, 119 * second), None);
    bench.now += 100 * second;
    bench.ask("GET_PARAMETER rtsp://h/live/a", &[]);
    assert_eq!(timeout(&mut bench, 69 * second), None);
}

#[test]
fn requests_do_not_put_off_the_time_to_play() {
    let second = Duration::from_secs(1);
    let timeout =
        |bench: &mut Bench, after: Duration| bench.session.handle_timeout(bench.now + after).err();
    let mut bench = Bench::new(ServerConfig::default());
    bench.accepts = false;
    assert_eq!(bench.ask("DESCRIBE rtsp://h/live/a", &[]), "");
    // As long as we owe an answer the time stands still.
    assert_eq!(timeout(&mut bench, 99 * second), None);
    bench.now += 99 * second;
    bench.accepts = true;
    bench.session.accept_describe(bench.now, description()).unwrap();
    // To an answer that nobody waits for.
    bench.session.refuse(bench.now, Refusal::NotFound).unwrap();
    bench.drain().unwrap();
    for _ in 0..2 {
        bench.now += 7 * second;
        assert_eq!(bench.status("OPTIONS *", &[]), 200);
        assert_eq!(bench.status("GET_PARAMETER rtsp://h/live/a", &[]), 200);
        assert_eq!(bench.status("DESCRIBE rtsp://h/live/a", &[]), 200);
        assert_eq!(bench.status("TEARDOWN rtsp://h/live/a", &[]), 200);
    }
    assert_eq!(timeout(&mut bench, Duration::ZERO), None);
    assert_eq!(timeout(&mut bench, second), Some(ServerError::CommandTimeout));

    // One that has played may go on with something else.
    let mut bench = Bench::player(TCP, ServerConfig::default());
    assert_eq!(bench.status("PLAY rtsp://h/live/a", &[]), 200);
    bench.now += 99 * second;
    assert_eq!(bench.status("TEARDOWN rtsp://h/live/a", &[]), 200);
    assert_eq!(timeout(&mut bench, 14 * second), None);
    assert_eq!(timeout(&mut bench, 15 * second), Some(ServerError::CommandTimeout));
}

#[test]
fn player_that_paused_must_say_that_it_lives() {
    let second = Duration::from_secs(1);
    for transport in [TCP, UDP] {
        let mut bench = Bench::player(transport, ServerConfig::default());
        bench.ask("PLAY rtsp://h/live/a", &[]);
        bench.now += 60 * second;
        assert_eq!(bench.status("PAUSE rtsp://h/live/a", &[]), 200);
        let timeout = |bench: &mut Bench, after: Duration| {
            bench.session.handle_timeout(bench.now + after).err()
        };
        for line in ["GET_PARAMETER rtsp://h/live/a", "OPTIONS *"] {
            assert_eq!(timeout(&mut bench, 69 * second), None);
            bench.now += 69 * second;
            assert_eq!(bench.status(line, &[]), 200);
        }
        assert_eq!(timeout(&mut bench, 69 * second), None);
        if transport == TCP {
            // A report of the first track.
            bench.now += 69 * second;
            bench.feed(b"$\x01\0\x01a").unwrap();
            assert_eq!(timeout(&mut bench, 69 * second), None);
            // What nothing was agreed for tells nothing.
            bench.now += 69 * second;
            bench.feed(b"$\x09\0\x01a").unwrap();
            bench.now -= 69 * second;
        }
        assert_eq!(timeout(&mut bench, 70 * second), Some(ServerError::SessionTimeout));
    }
    // One that plays over TCP again has no deadline.
    let mut bench = Bench::player(TCP, ServerConfig::default());
    for line in ["PLAY", "PAUSE", "PLAY"] {
        assert_eq!(bench.status(&format!("{line} rtsp://h/live/a"), &[]), 200);
    }
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn faults_end_the_session() {
    let mut bench = Bench::new(ServerConfig::default());
    let error = ServerError::Message(MessageError::NoMessage(0x16));
    assert_eq!(bench.feed(b"OPTIONS * RTSP/1.0\r\n\r\n\x16\x03"), Err(error));
    // What came before it was answered.
    assert_eq!(status(&bench.sent), 200);
}
