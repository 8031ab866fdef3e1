//! RTSP peers that mean harm or are broken: noise in place of requests, packets, reports and
//! descriptions. Each harms its own connection at most, and is counted for what it was.

mod kit;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};

use kit::compare::assert_never_steps_back;
use kit::flv::Kind;
use kit::player::is_wait;
use kit::relay::label;
use kit::rtp::{Codec, Packet, SenderReport, parse_description};
use kit::rtp_media::{Media, Plan, Timed, assert_same_packets};
use kit::rtsp::{Client, Lower, Message, interleaved};
use kit::rtsp_crowd::{four_players, stop_and_compare};
use kit::rtsp_player::RtspPlayer;
use kit::rtsp_publisher::RtspPublisher;
use kit::units::{self, assert_part_of};
use kit::{LIVENESS, Player, Relay, noise, wait_until};

/// Media of a publisher over UDP goes through while `disturb` does its worst.
#[track_caller]
fn goes_on_while(disturb: impl FnOnce(&Relay, &RtspPublisher, &Media)) {
    let relay = Relay::start(2);
    let ports = relay.udp_pairs_free();
    let media = Media::of("av.flv", Plan::default());
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Udp, &media);
    relay.wait_online("a");
    let players = four_players(&relay, "a");
    disturb(&relay, &publisher, &media);
    stop_and_compare(players, &media);
    publisher.stop();
    relay.wait_udp_pairs_free(ports);
    relay.stop();
}

/// Sends all of it and waits for the relay to close.
#[track_caller]
fn assert_closed_after(relay: &Relay, pieces: &[&[u8]]) {
    let mut socket = TcpStream::connect(relay.rtsp).expect("the relay listens");
    socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
    // The relay may have had enough before the end.
    let _ = pieces.iter().try_for_each(|piece| socket.write_all(piece));
    assert_closed(&mut socket);
}

#[track_caller]
fn assert_closed(socket: &mut TcpStream) {
    match socket.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => {}
    }
}

#[test]
fn noise_at_the_rtsp_port_ends_its_own_connection_alone() {
    goes_on_while(|relay, _, _| {
        let before = relay.metric("rillcast_session_errors_total");
        let filler = [b'a'; 65_536];
        let mut count = 0;
        let mut spoil = |pieces: &[&[u8]]| {
            assert_closed_after(relay, pieces);
            count += 1;
        };
        for seed in 1..20 {
            let bytes = noise(seed, 20_000);
            // Binary from the first byte, behind a request, and as the body of one.
            spoil(&[b"\0", &bytes]);
            spoil(&[b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n\0", &bytes]);
            spoil(&[b"OPTIONS * RTSP/1.0\r\nContent-Length: 99999999\r\n\r\n", &bytes]);
        }
        for endless in [&b"A"[..], b"DESCRIBE rtsp://h/live/a RTSP/1.0\r\nA: "] {
            spoil(&[&[endless][..], &[&filler[..]; 256]].concat());
        }
        wait_until(LIVENESS, "each is counted once", || {
            relay.metric("rillcast_session_errors_total") == before + count
        });
        assert_eq!(errors(relay), counted(&[("malformed", 2 * 19), ("too_large", 19 + 2)]));
        // Half a packet is no fault.
        let mut half = TcpStream::connect(relay.rtsp).expect("the relay listens");
        half.set_read_timeout(Some(LIVENESS)).expect("a timeout");
        half.write_all(&[b"$\x05\xff\xff", &noise(3, 20_000)[..]].concat()).expect("sent");
        half.shutdown(Shutdown::Write).expect("an open socket");
        assert_closed(&mut half);
        assert_eq!(relay.metric("rillcast_session_errors_total"), before + count);
    });
}

#[test]
fn requests_that_are_too_many_or_none_are_counted_by_their_reason() {
    let relay = Relay::start_with(1, &kit::config::rtsp_user("admin", "password", true));
    let mut guessing = Client::connect(relay.rtsp);
    guessing.authorization = Some("Basic YWRtaW46Z3Vlc3M=".to_owned());
    let mut ask = || guessing.ask("DESCRIBE", &relay.rtsp_url("a"), &[], "");
    let denied = std::iter::from_fn(|| ask().ok()).map(|answer| answer.status());
    assert_eq!(denied.collect::<Vec<_>>(), [Some(401); 5]);
    assert_closed_after(&relay, &[&b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n".repeat(400)]);
    wait_until(LIVENESS, "each is counted once", || {
        errors(&relay) == counted(&[("credentials", 1), ("too_many", 1)])
    });
    relay.stop();
    let relay = Relay::start_with(1, "[rtsp]\nhandshake_ms = 500\n");
    assert_closed_after(&relay, &[]);
    wait_until(LIVENESS, "it is counted", || errors(&relay) == counted(&[("no_request", 1)]));
    relay.stop();
}

#[test]
fn one_connection_takes_no_more_ports_than_its_part() {
    goes_on_while(|relay, _, _| {
        let url = relay.rtsp_url("a");
        let mut greedy = Client::connect(relay.rtsp);
        let described = greedy.demand("DESCRIBE", &url, &[], "");
        let control = &parse_description(&described.text()).expect("a description")[0].control;
        let track = kit::rtsp_player::control_url(&url, control);
        let transport = "Transport: RTP/AVP;unicast;client_port=45678-45679";
        let setup = format!("SETUP {track} RTSP/1.0\r\nCSeq: 7\r\n{transport}\r\n\r\n");
        greedy.send(setup.repeat(60).as_bytes()).expect("the relay reads");
        let answers: Vec<Option<u16>> =
            (0..60).map(|_| greedy.answer().expect("an answer").status()).collect();
        assert!(answers.iter().all(|status| matches!(status, Some(200 | 461))), "{answers:?}");
        let refused = answers.iter().filter(|status| **status == Some(461)).count();
        assert!(refused > 0, "60 pairs of ports for one track");
        // Others are served, and so is it when its old ports are closed.
        drop(RtspPlayer::start(relay.rtsp, &url, Lower::Udp));
        let header = [("Transport", "RTP/AVP;unicast;client_port=45678-45679")];
        greedy.demand("SETUP", &track, &header, "");
    });
}

#[test]
fn noise_of_strangers_at_the_udp_ports_does_not_come_in() {
    goes_on_while(|relay, publisher, media| {
        let before = dropped(relay);
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
        for seed in 1..500 {
            let port = publisher.relay_port((seed % 2) as usize);
            let mut packet = media.rtp((seed % 2) as usize)[0].clone();
            packet.ssrc = seed;
            packet.payload = noise(seed, 40);
            let bytes = if seed % 3 == 0 { packet.encode() } else { noise(seed, 200) };
            let at = (port.ip(), port.port() + u16::from(seed % 5 == 0));
            // A port may not take it, and say so by ICMP.
            let _ = socket.send_to(&bytes, at);
        }
        assert_eq!(dropped(relay), before);
    });
}

const SDP: (&str, &str) = ("Content-Type", "application/sdp");

#[test]
fn absurd_descriptions_are_refused() {
    goes_on_while(|relay, _, media| {
        let good = media.description();
        let no_format = "m=video 0 RTP/AVP 96\r\n";
        let table = [
            ("nothing", "v=0\r\n".to_owned(), Some(400)),
            ("noise", String::from_utf8_lossy(&noise(5, 3000)).into_owned(), Some(400)),
            ("type", "v=0\r\nm=video 0 RTP/AVP 999999999999\r\n".to_owned(), Some(400)),
            ("format", format!("v=0\r\n{no_format}"), Some(400)),
            ("rate", good.replace("H264/90000", "H264/0"), Some(400)),
            ("sections", format!("{good}{}", no_format.repeat(2000)), Some(400)),
            ("tracks", format!("{good}{}", "m=audio 0 RTP/AVP 0\r\n".repeat(7)), Some(400)),
            ("lines", format!("{good}{}", "a=x\r\n".repeat(2000)), Some(400)),
            // More than is read.
            ("length", format!("{good}a={}\r\n", "x".repeat(200_000)), Some(413)),
        ];
        let bad_count = table.iter().filter(|(_, _, status)| *status == Some(400)).count();
        for (name, text, status) in table {
            let mut client = Client::connect(relay.rtsp);
            let url = relay.rtsp_url(&format!("absurd-{name}"));
            let answer = client.ask("ANNOUNCE", &url, &[SDP], &text);
            let found = answer.as_ref().ok().and_then(Message::status);
            assert_eq!(found, status, "{name}: {answer:?}");
            assert!(relay.schemas(&format!("absurd-{name}")).is_empty(), "{name}");
        }
        // The connection goes on with a better one.
        let mut client = Client::connect(relay.rtsp);
        let url = relay.rtsp_url("better");
        let refused = client.ask("ANNOUNCE", &url, &[SDP], "v=0\r\n").expect("an answer");
        assert_eq!(refused.status(), Some(400));
        client.demand("ANNOUNCE", &url, &[SDP], &good);
        let counted = relay.metric("rillcast_rtsp_bad_descriptions_total");
        assert_eq!(counted, bad_count as u64 + 1);
    });
}

/// Bytes of a body that are read.
const BODY_LEN_MAX: usize = 65_536;

#[test]
fn body_that_is_too_long_is_told_and_ends_its_own_connection_alone() {
    goes_on_while(|relay, _, _| {
        let url = relay.rtsp_url("long");
        // The longest that is read, and what is said to it.
        for (method, status) in [("ANNOUNCE", 400), ("SET_PARAMETER", 451), ("GET_PARAMETER", 200)]
        {
            let mut client = Client::connect(relay.rtsp);
            let longest = "x".repeat(BODY_LEN_MAX);
            let answer = client.ask(method, &url, &[SDP], &longest).expect("an answer");
            assert_eq!(answer.status(), Some(status), "{method}");
            client.demand("OPTIONS", &url, &[], "");
        }
        let methods = ["ANNOUNCE", "SET_PARAMETER", "GET_PARAMETER"];
        for method in methods {
            let mut client = Client::connect(relay.rtsp);
            let long = "x".repeat(BODY_LEN_MAX + 1);
            let answer = client.ask(method, &url, &[SDP], &long).expect("an answer");
            assert_eq!(answer.status(), Some(413), "{method}");
            let end = client.answer().expect_err("nothing more is read");
            assert!(!is_wait(&end), "{method}: {end}");
        }
        wait_until(LIVENESS, "each is counted once", || {
            let ended = by_reason(relay, "rillcast_rtsp_errors_total");
            ended["too_large"] == methods.len() as u64
        });
    });
}

/// Who plays over RTP may know better than we do, or need none.
#[test]
fn configuration_that_can_not_be_read_is_passed_on() {
    let relay = Relay::start(1);
    let mut media = Media::of("av.flv", Plan::default());
    let url = relay.rtsp_url("a");
    media.formats[1].fmtp = media.formats[1].fmtp.replace("config=", "config=zz");
    let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    relay.wait_online("a");
    let flv = Player::http_flv(relay.http, "/live/a.live.flv");
    let player = RtspPlayer::start(relay.rtsp, &url, Lower::Tcp);
    player.wait_units(Kind::Video, 30);
    player.wait_units(Kind::Audio, 30);
    flv.wait_frames(Kind::Video, 30);
    let recording = player.stop();
    assert!(recording.description.contains("config=zz"), "{}", recording.description);
    assert_same_packets("rtsp", &media, &recording, 30);
    let got = units::of_tags(&flv.stop());
    assert_eq!(assert_part_of("flv", &media.units, &got, Kind::Video), 0);
    assert!(got.iter().all(|unit| unit.kind == Kind::Video), "sounds that nobody can configure");
    publisher.stop();
    relay.stop();
}

/// How many sessions ended by a fault of their peer, by the reasons of which there were any.
#[track_caller]
fn errors(relay: &Relay) -> Vec<(String, u64)> {
    let counts = by_reason(relay, "rillcast_rtsp_errors_total");
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn counted(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

/// How many packets were dropped, by reason.
#[track_caller]
fn dropped(relay: &Relay) -> BTreeMap<String, u64> {
    by_reason(relay, "rillcast_rtp_packets_dropped_total")
}

#[track_caller]
fn by_reason(relay: &Relay, metric: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (labels, value) in relay.samples(metric) {
        *counts.entry(label(&labels, "reason")).or_default() += value;
    }
    counts
}

/// Packets of video in which something can't be read, or that are not of the stream, go among the good
/// ones in these milliseconds.
const SPOILED_MS: std::ops::Range<u32> = 2000..4000;

/// A fragment and an aggregate that are cut off.
fn cut_payloads(codec: Codec) -> [Vec<u8>; 2] {
    match codec {
        Codec::H264 => [vec![0x7c], vec![0x78, 0x7f, 0xff, 1, 2, 3]],
        _ => [vec![0x62, 1], vec![0x60, 1, 0x7f, 0xff, 1, 2, 3]],
    }
}

/// A whole slice of a picture that is no keyframe.
fn is_slice(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => payload[0] & 0x1f == 1,
        _ => payload[0] >> 1 & 0x3f < 10,
    }
}

fn is_spoiled(timed: &Timed) -> bool {
    timed.track == 0 && !timed.is_rtcp && SPOILED_MS.contains(&timed.at_ms)
}

/// Before a slice of each fifth picture there is a fragment or an aggregate that is cut off, in the
/// picture and in the sequence: players of RTP get it as it came. How many pictures that are.
fn with_cut_packets(media: &Media) -> (Media, usize) {
    let mut cut_media = Media { packets: Vec::new(), ..media.clone() };
    let mut pictures = Vec::new();
    let mut cut_count = 0_u16;
    let codec = media.formats[0].codec;
    for timed in &media.packets {
        let Ok(mut packet) = Packet::parse(&timed.bytes) else { unreachable!("made here") };
        if timed.track != 0 || timed.is_rtcp {
            cut_media.packets.push(timed.clone());
            continue;
        }
        let is_slice = is_slice(codec, &packet.payload);
        if is_spoiled(timed) && is_slice && pictures.last() != Some(&packet.timestamp) {
            pictures.push(packet.timestamp);
            if pictures.len() % 5 == 1 {
                let payload = cut_payloads(codec)[pictures.len() % 2].clone();
                let sequence = packet.sequence.wrapping_add(cut_count);
                let cut = Packet { sequence, marker: false, payload, ..packet.clone() };
                cut_media.packets.push(Timed { bytes: cut.encode(), ..timed.clone() });
                cut_count += 1;
            }
        }
        packet.sequence = packet.sequence.wrapping_add(cut_count);
        cut_media.packets.push(Timed { bytes: packet.encode(), ..timed.clone() });
    }
    (cut_media, usize::from(cut_count))
}

/// Behind each fourth packet of video there is one that is no use. How many there are, by reason.
fn with_strays(media: &Media, lower: Lower) -> (Media, BTreeMap<String, u64>) {
    let mut stray_media = Media { packets: Vec::new(), ..media.clone() };
    let mut counts = BTreeMap::new();
    let mut seed = 0;
    for timed in &media.packets {
        stray_media.packets.push(timed.clone());
        if is_spoiled(timed) {
            seed += 1;
            if seed % 4 == 0 {
                let (reason, packet) = stray(seed / 4, timed, lower);
                *counts.entry(reason.to_owned()).or_default() += 1;
                stray_media.packets.push(packet);
            }
        }
    }
    (stray_media, counts)
}

/// A packet that is no use behind this one, and the reason for which it is dropped.
fn stray(seed: u32, timed: &Timed, lower: Lower) -> (&'static str, Timed) {
    let packet = Packet::parse(&timed.bytes).expect("made here");
    let rtp = |packet: Packet| Timed { bytes: packet.encode(), ..timed.clone() };
    let report = |bytes| Timed { is_rtcp: true, bytes, ..timed.clone() };
    // Not of version 2.
    let garbage = |len| {
        let mut bytes = noise(seed, len);
        bytes[0] &= 0x3f;
        bytes
    };
    match seed % 9 {
        0 => ("malformed", Timed { bytes: garbage(200), ..timed.clone() }),
        1 => ("malformed", Timed { bytes: timed.bytes[..11].to_vec(), ..timed.clone() }),
        2 => ("foreign_type", rtp(Packet { payload_type: 50, ..packet })),
        // Another one each time.
        3 => ("foreign_source", rtp(Packet { ssrc: seed, ..packet })),
        4 => {
            let ntp = u64::from(seed) << 32;
            let timestamp = packet.timestamp;
            ("foreign_source", report(SenderReport { ssrc: seed, ntp, timestamp }.encode()))
        }
        5 => ("malformed_rtcp", report(garbage(60))),
        6 => ("duplicate", timed.clone()),
        7 => {
            let sequence = packet.sequence.wrapping_add(20_000);
            ("stray", rtp(Packet { sequence, ..packet }))
        }
        _ if lower == Lower::Tcp => ("stray_interleaved", Timed { track: 20, ..timed.clone() }),
        _ => ("too_long", Timed { bytes: vec![0x80; 20_000], ..timed.clone() }),
    }
}

#[track_caller]
fn noise_among_media_is_counted(lower: Lower) {
    let relay = Relay::start(2);
    let ports = relay.udp_pairs_free();
    let media = Media::of("av.flv", Plan::default());
    let good = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("b"), Lower::Udp, &media);
    relay.wait_online("b");
    let good_players = four_players(&relay, "b");
    let before = dropped(&relay);
    let (cut_media, cut_count) = with_cut_packets(&media);
    let (spoiled, strays) = with_strays(&cut_media, lower);
    assert!(cut_count >= 5 && strays.len() == 7, "{cut_count} pictures, {strays:?}");
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), lower, &spoiled);
    relay.wait_online("a");
    let flv = Player::http_flv(relay.http, "/live/a.live.flv");
    flv.wait_frames(Kind::Video, 1);
    let players = four_players(&relay, "a");
    players.iter().for_each(|player| player.wait_units(Kind::Video, 150));
    flv.wait_frames(Kind::Video, 150);
    let tags = flv.stop();
    assert_never_steps_back("flv", &tags);
    let got = units::of_tags(&tags);
    let lost =
        [Kind::Video, Kind::Audio].map(|kind| assert_part_of("flv", &media.units, &got, kind));
    assert_eq!(lost, [cut_count, 0], "pictures with a packet that is cut off, and sounds");
    for player in players {
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        assert_same_packets(&what, &cut_media, &recording, 150);
    }
    let mut expected = before;
    for (reason, count) in &strays {
        *expected.entry(reason.clone()).or_default() += count;
    }
    assert_eq!(dropped(&relay), expected);
    assert_eq!(relay.metric("rillcast_rtp_packets_lost_total"), 0);
    assert_eq!(relay.metric("rillcast_rtp_packets_truncated_total"), cut_count as u64);
    for loss in losses(&relay, "a") {
        assert_eq!(loss, 0.0);
    }
    assert!(!publisher.is_closed(), "its connection is open");
    publisher.stop();
    stop_and_compare(good_players, &media);
    good.stop();
    relay.wait_udp_pairs_free(ports);
    // Sources that are gone have counted, too.
    assert_eq!(dropped(&relay), expected);
    relay.stop();
}

#[test]
fn noise_among_media_over_tcp_is_counted_and_all_else_plays() {
    noise_among_media_is_counted(Lower::Tcp);
}

#[test]
fn noise_among_media_over_udp_is_counted_and_all_else_plays() {
    noise_among_media_is_counted(Lower::Udp);
}

/// Players of RTSP get them as they came; of FLV the pictures that they are in are missing, and all else
/// is there.
#[test]
fn packets_of_hevc_that_are_cut_off_cost_their_pictures_alone() {
    let relay = Relay::start(2);
    let media = Media::of("hevc_aac.flv", Plan::default());
    let (cut_media, cut_count) = with_cut_packets(&media);
    assert!(cut_count >= 5, "{cut_count} pictures");
    let streams = [Lower::Tcp, Lower::Udp].map(|lower| {
        let stream = lower.name();
        let url = relay.rtsp_url(stream);
        let publisher = RtspPublisher::start(relay.rtsp, &url, lower, &cut_media);
        relay.wait_online(stream);
        let flv = Player::http_flv(relay.http, &format!("/live/{stream}.live.flv"));
        (publisher, flv, RtspPlayer::start(relay.rtsp, &url, lower))
    });
    for (publisher, flv, rtsp) in streams {
        flv.wait_frames(Kind::Video, 130);
        let tags = flv.stop();
        assert_never_steps_back("flv", &tags);
        let got = units::of_tags(&tags);
        let lost =
            [Kind::Video, Kind::Audio].map(|kind| assert_part_of("flv", &media.units, &got, kind));
        assert_eq!(lost, [cut_count, 0]);
        rtsp.wait_units(Kind::Video, 130);
        assert_same_packets(rtsp.what(), &cut_media, &rtsp.look(Clone::clone), 130);
        assert!(!publisher.is_closed(), "its connection is open");
        publisher.stop();
    }
    assert_eq!(relay.metric("rillcast_rtp_packets_truncated_total"), 2 * cut_count as u64);
    let unread = by_reason(&relay, "rillcast_bridge_packets_unread_total");
    assert_eq!(unread["cut_off"], 2 * cut_count as u64, "{unread:?}");
    assert_eq!(relay.metric("rillcast_session_errors_total"), 0);
    relay.stop();
}

/// Loss in percent of each track.
#[track_caller]
fn losses(relay: &Relay, stream: &str) -> Vec<f64> {
    let params =
        [("schema", "rtsp"), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", stream)];
    let told = relay.api("getMediaInfo", &params);
    let tracks = told["tracks"].as_array().unwrap_or_else(|| panic!("{told}"));
    tracks.iter().map(|track| track["loss"].as_f64().expect("a number")).collect()
}

#[test]
fn publisher_with_noise_for_media_harms_itself_alone() {
    goes_on_while(|relay, _, media| {
        let mut spoiled = media.clone();
        for (index, packet) in spoiled.packets.iter_mut().enumerate() {
            let seed = u32::try_from(index).expect("few packets") + 1;
            let len = packet.bytes.len();
            match index % 3 {
                0 => packet.bytes = noise(seed, len),
                // Another SSRC each time.
                1 if len > 12 => packet.bytes[8..12].copy_from_slice(&seed.to_be_bytes()),
                _ if len > 12 => packet.bytes.splice(12.., noise(seed, len - 12)).for_each(drop),
                _ => {}
            }
        }
        let url = relay.rtsp_url("spoiled");
        let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &spoiled);
        let player = Player::http_flv(relay.http, "/live/spoiled.live.flv");
        for reason in ["malformed", "foreign_type", "foreign_source"] {
            wait_until(LIVENESS, reason, || dropped(relay)[reason] >= 10);
        }
        assert!(!publisher.is_closed(), "its connection is open");
        assert_eq!(relay.metric("rillcast_session_errors_total"), 0);
        drop((player, publisher));
    });
}

#[test]
fn publisher_that_loses_the_frame_of_its_packets_ends_alone() {
    goes_on_while(|relay, _, media| {
        let url = relay.rtsp_url("broken");
        let mut client = Client::connect(relay.rtsp);
        client.demand("ANNOUNCE", &url, &[SDP], &media.description());
        for (track, format) in media.formats.iter().enumerate() {
            let transport = format!(
                "RTP/AVP/TCP;unicast;interleaved={}-{};mode=record",
                2 * track,
                2 * track + 1
            );
            let url = format!("{url}/{}", format.control);
            client.demand("SETUP", &url, &[("Transport", &transport)], "");
        }
        client.demand("RECORD", &url, &[], "");
        let early = media.packets.iter().take(100);
        let channel = |timed: &Timed| (2 * timed.track) as u8 + u8::from(timed.is_rtcp);
        let frames: Vec<u8> =
            early.flat_map(|timed| interleaved(channel(timed), &timed.bytes)).collect();
        client.send(&frames).expect("the relay reads");
        let player = RtspPlayer::start(relay.rtsp, &url, Lower::Tcp);
        player.wait_units(Kind::Video, 5);
        // The relay may have had enough before the end.
        let _ = client.send(&[&b"\0"[..], &noise(7, 20_000)].concat());
        let end = client.answer().expect_err("its connection is closed");
        assert!(!is_wait(&end), "{end}");
        wait_until(LIVENESS, "it is counted", || {
            relay.metric("rillcast_session_errors_total") == 1
        });
    });
}
