//! RTSP in and RTSP out: the packets of a publisher are those of its players, over TCP and UDP, from
//! and to ffmpeg, GStreamer and another rillcast.

mod kit;

use kit::compare::AtLeast;
use kit::ffmpeg::Modern;
use kit::flv::Kind;
use kit::process::Process;
use kit::relay::key;
use kit::rtp::parse_description;
use kit::rtp_media::{Media, Plan};
use kit::rtsp::{Client, Lower, Message};
use kit::rtsp_crowd::{BOTH, assert_all_told, four_players, stop_and_compare};
use kit::rtsp_peers::{Clip, FilePlayer, Sound, ffmpeg_publish, gstreamer_publish};
use kit::rtsp_player::RtspPlayer;
use kit::rtsp_publisher::RtspPublisher;
use kit::units::{Unit, WithinMs, assert_same};
use kit::{LIVENESS, Relay, wait_until};

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

#[track_caller]
fn passes_bit_equal(file: &str, lower: Lower, shards: usize) {
    passes_bit_equal_with(file, lower, shards, "");
}

#[track_caller]
fn passes_bit_equal_with(file: &str, lower: Lower, shards: usize, config: &str) {
    let relay = Relay::start_with(shards, config);
    let media = Media::of(file, Plan::default());
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), lower, &media);
    relay.wait_online("a");
    assert_eq!(relay.schemas("a"), ["rtmp", "rtsp"]);
    let first = RtspPlayer::start(relay.rtsp, &relay.rtsp_url("a"), lower);
    first.wait_in_gop();
    let mut players = four_players(&relay, "a");
    assert_all_told(&players);
    players.push(first);
    stop_and_compare(players, &media);
    publisher.stop();
    relay.stop();
}

#[test]
fn packets_published_over_tcp_pass_bit_equal() {
    passes_bit_equal("av.flv", Lower::Tcp, 1);
    passes_bit_equal("av.flv", Lower::Tcp, 2);
}

#[test]
fn packets_published_over_udp_pass_bit_equal() {
    passes_bit_equal("av.flv", Lower::Udp, 1);
    passes_bit_equal("av.flv", Lower::Udp, 2);
}

#[test]
fn packets_pass_bit_equal_without_gso() {
    passes_bit_equal_with("av.flv", Lower::Udp, 2, kit::config::WITHOUT_GSO);
}

#[test]
fn packets_of_hevc_pass_bit_equal() {
    passes_bit_equal("hevc_aac.flv", Lower::Tcp, 2);
    passes_bit_equal("hevc_aac.flv", Lower::Udp, 2);
}

/// A datagram is a packet and is copied once, whoever plays. Of a packet that the end of a receive buffer cuts
/// in two, as happens over TCP, the beginning was copied before, with the whole at the most.
#[test]
fn packets_are_copied_once_for_any_number_of_players() {
    let media = Media::of("av.flv", Plan { turns: 1, ..Plan::default() });
    let packets = media.packets.iter().filter(|packet| !packet.is_rtcp);
    let sent: u64 = packets.map(|packet| packet.bytes.len() as u64).sum();
    // Over UDP the first packets of each track wait for those that may come behind them.
    for (lower, copied_max) in [(Lower::Udp, sent + sent / 5), (Lower::Tcp, 3 * sent)] {
        for pairs in [1, 6] {
            let relay = Relay::start(2);
            let url = relay.rtsp_url("a");
            let publisher = RtspPublisher::start(relay.rtsp, &url, lower, &media);
            relay.wait_online("a");
            let players: Vec<RtspPlayer> = (0..pairs)
                .flat_map(|_| LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower)))
                .collect();
            players.iter().for_each(|player| player.wait_units(Kind::Video, 100));
            wait_until(LIVENESS, "all has come", || {
                relay.metric("rillcast_media_bytes_in_total") == sent
            });
            let copied = relay.metric("rillcast_media_bytes_copied_total");
            let what = format!("{} over {}, {} players", sent, lower.name(), players.len());
            assert!((sent..=copied_max).contains(&copied), "{what}: {copied} bytes copied");
            for beside in ["bridge", "joined"] {
                let name = format!("rillcast_{beside}_bytes_copied_total");
                assert_eq!(relay.metric(&name), 0, "{what}: {beside}");
            }
            drop(players);
            publisher.stop();
            relay.stop();
        }
    }
}

#[test]
fn packets_pass_bit_equal_through_two_rillcasts() {
    for (shards, rtp_type) in [(1, "0"), (2, "0"), (1, "1"), (2, "1")] {
        let origin = Relay::start(2);
        let relay = Relay::start(shards);
        let media = Media::of("av.flv", Plan::default());
        let publisher =
            RtspPublisher::start(origin.rtsp, &origin.rtsp_url("a"), Lower::Tcp, &media);
        origin.wait_online("a");
        let added = relay.add("a", &origin.rtsp_url("a"), &[("rtp_type", rtp_type)]);
        assert_eq!(added["code"], 0, "{added}");
        assert_eq!(added["data"]["key"], key("a"), "{added}");
        relay.wait_online("a");
        assert_eq!(relay.schemas("a"), ["rtmp", "rtsp"]);
        let first = RtspPlayer::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp);
        first.wait_in_gop();
        let players = four_players(&relay, "a");
        assert_all_told(&players);
        drop(first);
        stop_and_compare(players, &media);
        assert_eq!(relay.delete("a")["data"]["flag"], true);
        publisher.stop();
        relay.stop();
        origin.stop();
    }
}

/// ffmpeg 5.1 does not always know how long a sound is when the first packet of several comes, and gives the
/// second one the time of the first: those of that packet are a unit of AAC early. Packets of ffmpeg have
/// half a second at the most, and the first may have one sound alone.
const FFMPEG_5_LEARNS_MS: f64 = 600.0;

/// How AAC comes, for what depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AacFormat {
    Generic,
    /// GStreamer's player is left out: its parser does not make frames of it again.
    Latm,
}

/// One publisher; ffmpeg of both versions, GStreamer and the kit's player over TCP and UDP.
#[track_caller]
fn plays_everywhere(clip: &Clip, aac: Option<AacFormat>, start: impl FnOnce(&str) -> Process) {
    let relay = Relay::start(2);
    let url = relay.rtsp_url("a");
    let mut publisher = start(&url);
    relay.wait_online("a");
    // GStreamer sends nothing for a while.
    let first = RtspPlayer::start(relay.rtsp, &url, Lower::Tcp);
    first.wait_units(Kind::Video, 5);
    drop(first);
    // Its payloader of LATM gives the first two frames one timestamp, and its tracks are some frames
    // apart by its own reports (1.22).
    let close = WithinMs(if aac == Some(AacFormat::Latm) { 100.0 } else { 10.0 });
    let own = LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
    let mut players: Vec<(FilePlayer, WithinMs, f64)> = Vec::new();
    for lower in LOWERS {
        for modern in [Modern::No, Modern::Yes] {
            let is_old = (modern, lower) == (Modern::No, Lower::Udp);
            let learns_ms = if is_old { FFMPEG_5_LEARNS_MS } else { 0.0 };
            players.push((FilePlayer::ffmpeg(modern, &url, lower), close, learns_ms));
        }
        if aac == Some(AacFormat::Generic) {
            let player = FilePlayer::gstreamer(&url, lower);
            players.push((player, WithinMs(f64::INFINITY), 0.0));
        }
    }
    for player in own {
        player.wait_units(Kind::Audio, 60);
        player.wait_units(Kind::Video, 60);
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        assert_same(&what, &clip.units, &recording.units(), BOTH, close);
    }
    players.iter_mut().for_each(|(player, ..)| player.wait(25, 40));
    for (player, within, learns_ms) in players {
        let what = player.what().to_owned();
        let audio = if learns_ms > 0.0 { 12 } else { 40 };
        let units = sounds_from(player.stop(), learns_ms);
        assert_same(&what, &clip.units, &units, AtLeast { video: 25, audio }, within);
    }
    publisher.terminate(LIVENESS);
    relay.stop();
}

/// Without the sounds of the first so many milliseconds.
fn sounds_from(mut units: Vec<Unit>, from_ms: f64) -> Vec<Unit> {
    let first = units.iter().find(|unit| unit.kind == Kind::Audio && !unit.pts_ms.is_nan());
    let from_ms = first.map_or(0.0, |unit| unit.pts_ms) + from_ms;
    units.retain(|unit| unit.kind != Kind::Audio || unit.pts_ms.is_nan() || unit.pts_ms >= from_ms);
    units
}

#[test]
fn ffmpeg_5_publishes_to_everybody_over_tcp() {
    let clip = Clip::of("av.flv");
    let start = |url: &str| ffmpeg_publish(Modern::No, &clip, url, Lower::Tcp);
    plays_everywhere(&clip, Some(AacFormat::Generic), start);
}

#[test]
fn ffmpeg_5_publishes_to_everybody_over_udp() {
    let clip = Clip::of("av.flv");
    let start = |url: &str| ffmpeg_publish(Modern::No, &clip, url, Lower::Udp);
    plays_everywhere(&clip, Some(AacFormat::Generic), start);
}

#[test]
fn ffmpeg_9_publishes_to_everybody_over_tcp() {
    let clip = Clip::of("demo.flv");
    let start = |url: &str| ffmpeg_publish(Modern::Yes, &clip, url, Lower::Tcp);
    plays_everywhere(&clip, Some(AacFormat::Generic), start);
}

#[test]
fn ffmpeg_9_publishes_to_everybody_over_udp() {
    let clip = Clip::of("av.flv");
    let start = |url: &str| ffmpeg_publish(Modern::Yes, &clip, url, Lower::Udp);
    plays_everywhere(&clip, Some(AacFormat::Generic), start);
}

#[test]
fn gstreamer_publishes_to_everybody_over_tcp() {
    let clip = Clip::of("av.flv");
    let start = |url: &str| gstreamer_publish(&clip, url, Lower::Tcp);
    plays_everywhere(&clip, Some(AacFormat::Latm), start);
}

#[test]
fn gstreamer_publishes_both_tracks_to_an_address_with_a_query() {
    let (relay, clip) = (Relay::start(1), Clip::of("av.flv"));
    let url = relay.rtsp_url("a");
    let mut publisher = gstreamer_publish(&clip, &format!("{url}?token=t"), Lower::Tcp);
    relay.wait_online("a");
    let mut player = FilePlayer::ffmpeg(Modern::Yes, &url, Lower::Tcp);
    player.wait(20, 20);
    player.stop();
    publisher.terminate(LIVENESS);
    relay.stop();
}

#[test]
fn gstreamer_publishes_to_everybody_over_udp() {
    let clip = Clip::of("av.flv");
    let start = |url: &str| gstreamer_publish(&clip, url, Lower::Udp);
    plays_everywhere(&clip, Some(AacFormat::Latm), start);
}

#[test]
fn hevc_is_published_to_everybody() {
    let clip = Clip::of("hevc_aac.flv").into_matroska();
    for modern in [Modern::No, Modern::Yes] {
        let start = |url: &str| ffmpeg_publish(modern, &clip, url, Lower::Tcp);
        plays_everywhere(&clip, None, start);
    }
}

#[test]
fn opus_and_g711_are_published_to_everybody() {
    for sound in [Sound::Opus, Sound::PcmA, Sound::PcmU] {
        let clip = Clip::with_sound("av.flv", sound);
        let start = |url: &str| ffmpeg_publish(Modern::Yes, &clip, url, Lower::Tcp);
        plays_everywhere(&clip, None, start);
    }
}

/// How long GStreamer goes by `RTP-Info` alone, which has each track begin at 0: until the sender reports
/// that follow the first ones.
const GSTREAMER_SETTLES_MS: f64 = 1200.0;

#[test]
fn gstreamer_plays_pictures_and_sounds_together() {
    let relay = Relay::start(2);
    let media = Media::of("av.flv", Plan::default());
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    relay.wait_online("a");
    let mut players = LOWERS.map(|lower| FilePlayer::gstreamer(&url, lower));
    players.iter_mut().for_each(|player| player.wait(115, 185));
    for player in players {
        let what = player.what().to_owned();
        let units = player.stop();
        let is_settled = |unit: &&Unit| unit.pts_ms >= GSTREAMER_SETTLES_MS;
        let mut late = units.iter().filter(is_settled);
        let start = late.find(|unit| unit.is_keyframe).expect("a keyframe").pts_ms;
        let late: Vec<Unit> = units.iter().filter(|unit| unit.pts_ms >= start).cloned().collect();
        let some = AtLeast { video: 25, audio: 40 };
        assert_same(&what, &media.units, &late, some, WithinMs(10.0));
    }
    publisher.stop();
    relay.stop();
}

const SDP: (&str, &str) = ("Content-Type", "application/sdp");

fn ask(relay: &Relay, method: &str, headers: &[(&str, &str)], body: &str) -> Message {
    let mut client = Client::connect(relay.rtsp);
    client.ask(method, &relay.rtsp_url("a"), headers, body).expect("an answer")
}

/// Status of the first SETUP over this lower transport, of a player and of a publisher.
#[track_caller]
fn setup_statuses(relay: &Relay, lower: Lower, description: &str) -> [Option<u16>; 2] {
    let transport = match lower {
        Lower::Tcp => "RTP/AVP/TCP;unicast;interleaved=0-1",
        Lower::Udp => "RTP/AVP;unicast;client_port=45678-45679",
    };
    let mut player = Client::connect(relay.rtsp);
    let url = relay.rtsp_url("a");
    let described = player.demand("DESCRIBE", &url, &[], "");
    let control = &parse_description(&described.text()).expect("a description")[0].control;
    let track = kit::rtsp_player::control_url(&url, control);
    let played = player.ask("SETUP", &track, &[("Transport", transport)], "").expect("an answer");
    let mut publisher = Client::connect(relay.rtsp);
    let url = relay.rtsp_url("b");
    publisher.demand("ANNOUNCE", &url, &[SDP], description);
    let record = format!("{transport};mode=record");
    let track = format!("{url}/track1");
    let recorded = publisher.ask("SETUP", &track, &[("Transport", &record)], "");
    [played.status(), recorded.expect("an answer").status()]
}

#[test]
fn transport_that_is_not_allowed_is_answered_with_461() {
    let media = Media::of("av.flv", Plan::default());
    for (name, allowed) in [("tcp", Lower::Tcp), ("udp", Lower::Udp)] {
        let relay = Relay::start_with(1, &kit::config::rtp_transport(name));
        let url = relay.rtsp_url("a");
        let publisher = RtspPublisher::start(relay.rtsp, &url, allowed, &media);
        relay.wait_online("a");
        for lower in LOWERS {
            let status = Some(if lower == allowed { 200 } else { 461 });
            let found = setup_statuses(&relay, lower, &media.description());
            assert_eq!(found, [status; 2], "only {name}, asked for {lower:?}");
        }
        publisher.stop();
        relay.stop();
    }
}

#[test]
fn password_is_asked_of_publishers_and_players() {
    for basic in [false, true] {
        let relay = Relay::start_with(1, &kit::config::rtsp_user("user", "secret", basic));
        let sdp = Media::of("av.flv", Plan::default()).description();
        for (method, body) in [("DESCRIBE", ""), ("ANNOUNCE", sdp.as_str())] {
            let answer = ask(&relay, method, &[SDP], body);
            assert_eq!(answer.status(), Some(401), "{method}: {answer:?}");
            let challenges = answer.headers.iter().filter(|(name, _)| name == "www-authenticate");
            let mut challenges = challenges.map(|(_, value)| value.as_str());
            assert_eq!(challenges.clone().any(|value| value.starts_with("Basic")), basic);
            assert!(challenges.any(|value| value.starts_with("Digest")), "{answer:?}");
        }
        // user:wrong, user:secret
        let wrong = [SDP, ("Authorization", "Basic dXNlcjp3cm9uZw==")];
        assert_eq!(ask(&relay, "ANNOUNCE", &wrong, &sdp).status(), Some(401));
        let right = [SDP, ("Authorization", "Basic dXNlcjpzZWNyZXQ=")];
        let status = ask(&relay, "ANNOUNCE", &right, &sdp).status();
        assert_eq!(status, Some(if basic { 200 } else { 401 }));
        let clip = Clip::of("av.flv");
        let with = |password: &str| {
            relay.rtsp_url("a").replace("rtsp://", &format!("rtsp://user:{password}@"))
        };
        let mut refused = ffmpeg_publish(Modern::No, &clip, &with("wrong"), Lower::Tcp);
        let end = refused.wait(LIVENESS).expect("ffmpeg gives up");
        assert!(!end.success(), "{}", refused.log());
        let mut publisher = ffmpeg_publish(Modern::No, &clip, &with("secret"), Lower::Tcp);
        relay.wait_online("a");
        for modern in [Modern::No, Modern::Yes] {
            let mut player = FilePlayer::ffmpeg(modern, &with("secret"), Lower::Tcp);
            player.wait(25, 25);
            player.stop();
        }
        publisher.terminate(LIVENESS);
        relay.stop();
    }
}

#[test]
fn player_that_comes_first_waits_for_the_publisher() {
    let relay = Relay::start(2);
    let url = relay.rtsp_url("a");
    let address = relay.rtsp;
    let waiting = std::thread::spawn(move || RtspPlayer::start(address, &url, Lower::Tcp));
    wait_until(LIVENESS, "a waiter", || relay.ledger()["waiters"] == 1);
    let media = Media::of("av.flv", Plan::default());
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp, &media);
    let player = waiting.join().expect("the player is let in");
    stop_and_compare(vec![player], &media);
    publisher.stop();
    relay.stop();
}

#[test]
fn stream_that_never_comes_is_not_found() {
    let relay = Relay::start_with(1, &kit::config::max_stream_wait_ms(300));
    assert_eq!(ask(&relay, "DESCRIBE", &[], "").status(), Some(404));
    relay.stop();
}

#[test]
fn second_publisher_of_a_name_is_refused_and_the_first_goes_on() {
    let relay = Relay::start(2);
    let media = Media::of("av.flv", Plan::default());
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp, &media);
    relay.wait_online("a");
    let players = four_players(&relay, "a");
    // Several, so that both shards get one.
    for _ in 0..4 {
        let answer = ask(&relay, "ANNOUNCE", &[SDP], &media.description());
        assert_ne!(answer.status(), Some(200), "{answer:?}");
    }
    stop_and_compare(players, &media);
    publisher.stop();
    relay.stop();
}

#[test]
fn publisher_that_ends_closes_its_players() {
    let relay = Relay::start(2);
    let start = relay.holdings();
    let media = Media::of("av.flv", Plan::default());
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp, &media);
    relay.wait_online("a");
    let players = four_players(&relay, "a");
    players.iter().for_each(|player| player.wait_units(Kind::Video, 10));
    publisher.stop();
    for player in players {
        player.wait_end(LIVENESS);
    }
    relay.assert_back_to(&start, "publisher and players are gone");
    relay.stop();
}

/// A player over TCP that reads nothing until its socket is full, within a packet.
#[track_caller]
fn full_player(relay: &Relay, url: &str) -> Client {
    let mut client = Client::connect(relay.rtsp);
    let described = client.demand("DESCRIBE", url, &[("Accept", "application/sdp")], "");
    let formats = parse_description(&described.text()).expect("a description");
    for (index, format) in formats.iter().enumerate() {
        let transport = format!("RTP/AVP/TCP;unicast;interleaved={}-{}", 2 * index, 2 * index + 1);
        let track = kit::rtsp_player::control_url(url, &format.control);
        client.demand("SETUP", &track, &[("Transport", &transport)], "");
    }
    client.demand("PLAY", url, &[], "");
    let lag = |rows: &serde_json::Value| rows[0]["lagBytes"].as_u64().unwrap_or(0);
    wait_until(LIVENESS, "a full socket", || lag(&players(relay)) > 200_000);
    client
}

/// Those of the stream `a` over RTSP, as the API has them.
fn players(relay: &Relay) -> serde_json::Value {
    let stream =
        [("schema", "rtsp"), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "a")];
    relay.api("getMediaPlayerList", &stream)["data"].clone()
}

/// The rest of the packet goes before the answer, whenever the player reads it.
#[test]
fn player_with_a_full_socket_is_answered_behind_its_packet() {
    let relay = Relay::start(2);
    let mut media = Media::of("av.flv", Plan { turns: 100, ..Plan::default() });
    // Ten times as fast.
    media.packets.iter_mut().for_each(|packet| packet.at_ms /= 10);
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    relay.wait_online("a");
    for method in ["PAUSE", "TEARDOWN"] {
        let mut client = full_player(&relay, &url);
        let session = client.session.clone().expect("it plays");
        let request = format!("{method} {url} RTSP/1.0\r\nCSeq: 99\r\nSession: {session}\r\n\r\n");
        client.send(request.as_bytes()).expect("room");
        let is_none = || players(&relay).as_array().is_some_and(Vec::is_empty);
        wait_until(LIVENESS, &format!("no player after {method}"), is_none);
        let answer = client.answer_behind_packets().unwrap_or_else(|e| panic!("{method}: {e}"));
        assert_eq!((answer.status(), answer.header("cseq")), (Some(200), Some("99")), "{answer:?}");
        assert!(client.early.len() > 50, "{method}: {} packets", client.early.len());
    }
    publisher.stop();
    relay.stop();
}
