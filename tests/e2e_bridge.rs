//! Between FLV and RTP: what comes in by RTMP is played over RTSP, and the other way round. The coded
//! pictures and sounds are the same, and they are together from the first second on.

mod kit;

use kit::compare::{AtLeast, assert_never_steps_back};
use kit::ffmpeg::{Modern, decode_first_frames};
use kit::flv::{Kind, Role, Tag};
use kit::process::Process;
use kit::rtp_media::{Media, Plan, Sets};
use kit::rtsp::{Client, Lower};
use kit::rtsp_crowd::{assert_all_told, four_players};
use kit::rtsp_peers::{Clip, FilePlayer, Sound, ffmpeg_publish, gstreamer_publish};
use kit::rtsp_player::{Recording, RtspPlayer};
use kit::rtsp_publisher::RtspPublisher;
use kit::tape::{Tap, Way};
use kit::units::{self, Unit, WithinMs, assert_same, settled};
use kit::{LIVENESS, Player, Publisher, Relay, wait_until};

/// About two seconds.
const BOTH: AtLeast = AtLeast { video: 50, audio: 40 };

/// RTSP on a side.
const CLOSE: WithinMs = WithinMs(10.0);

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

const BOTH_FFMPEGS: [Modern; 2] = [Modern::No, Modern::Yes];

/// Players of every FLV egress.
fn flv_players(relay: &Relay, stream: &str) -> [Player; 3] {
    let path = format!("/live/{stream}.live.flv");
    [
        Player::http_flv(relay.http, &path),
        Player::ws_flv(relay.http, &path),
        Player::rtmp(relay.rtmp, "live", stream),
    ]
}

/// Waits for so much, and compares it with what was sent.
#[track_caller]
fn compare_flv(players: [Player; 3], sent: &[Unit], at_least: AtLeast, within: WithinMs) {
    for player in &players {
        for (kind, count) in [(Kind::Video, at_least.video), (Kind::Audio, at_least.audio)] {
            if count > 0 {
                player.wait_frames(kind, count);
            }
        }
    }
    for player in players {
        let what = player.what().to_owned();
        let tags = player.stop();
        assert_never_steps_back(&what, &tags);
        assert_configured(&what, &tags);
        assert_same(&what, sent, &units::of_tags(&tags), at_least, within);
    }
}

/// A track whose codec has a configuration has it before its first frame.
#[track_caller]
fn assert_configured(what: &str, tags: &[Tag]) {
    for kind in [Kind::Video, Kind::Audio] {
        let own: Vec<&Tag> = tags.iter().filter(|tag| tag.kind == kind).collect();
        let has_config = kind == Kind::Video
            || own.first().is_some_and(|tag| matches!(tag.payload[0] >> 4, 9 | 10));
        if let (true, Some(first)) = (has_config, own.first()) {
            assert_eq!(first.role(), Role::Config, "{what}: {kind:?} begins without configuration");
        }
    }
}

/// RTMP in, RTSP out over TCP and UDP, to the kit's player and ffmpeg.
#[track_caller]
fn rtmp_plays_as_rtsp(modern: Modern, clip: &Clip, at_least: AtLeast, shards: usize) {
    let relay = Relay::start(shards);
    let mut publisher = ffmpeg_publish(modern, clip, &relay.rtmp_url("a"), Lower::Tcp);
    relay.wait_online("a");
    let url = relay.rtsp_url("a");
    let own = LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
    assert_eq!(relay.schemas("a"), ["rtmp", "rtsp"]);
    let both = |lower| {
        BOTH_FFMPEGS.map(|modern| FilePlayer::ffmpeg_of(modern, &url, lower, kinds(at_least)))
    };
    let files = LOWERS.into_iter().flat_map(both).collect();
    for player in own {
        for (kind, count) in [(Kind::Video, at_least.video), (Kind::Audio, at_least.audio)] {
            if count > 0 {
                player.wait_units(kind, count);
            }
        }
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        assert_same(&what, &clip.units, &recording.units(), at_least, CLOSE);
    }
    compare_files(files, &clip.units, at_least, CLOSE);
    publisher.terminate(LIVENESS);
    relay.stop();
}

fn kinds(at_least: AtLeast) -> &'static [Kind] {
    match at_least {
        AtLeast { video: 0, .. } => &[Kind::Audio],
        AtLeast { audio: 0, .. } => &[Kind::Video],
        _ => &[Kind::Video, Kind::Audio],
    }
}

/// Waits for half as much, and compares it with what was sent.
#[track_caller]
fn compare_files(mut players: Vec<FilePlayer>, sent: &[Unit], at_least: AtLeast, within: WithinMs) {
    let few = AtLeast { video: at_least.video / 2, audio: at_least.audio / 2 };
    players.iter_mut().for_each(|player| player.wait(few.video, few.audio));
    for player in players {
        let what = player.what().to_owned();
        assert_same(&what, sent, &player.stop(), few, within);
    }
}

/// RTSP in, every FLV egress out.
#[track_caller]
fn rtsp_plays_as_flv(
    clip: &Clip,
    at_least: AtLeast,
    within: WithinMs,
    start: impl FnOnce(&str) -> Process,
) {
    let relay = Relay::start(2);
    let mut publisher = start(&relay.rtsp_url("a"));
    relay.wait_online("a");
    let players = flv_players(&relay, "a");
    let ffmpegs = if clip.is_enhanced() { &BOTH_FFMPEGS[1..] } else { &BOTH_FFMPEGS[..] };
    let file =
        |modern: &Modern| FilePlayer::ffmpeg_of_flv(*modern, &relay.flv_url("a"), kinds(at_least));
    let files = ffmpegs.iter().map(file).collect();
    assert_eq!(relay.schemas("a"), ["rtmp", "rtsp"]);
    compare_flv(players, &clip.units, at_least, within);
    compare_files(files, &clip.units, at_least, within);
    publisher.terminate(LIVENESS);
    relay.stop();
}

#[test]
fn h264_and_aac_of_rtmp_play_as_rtsp() {
    let clip = Clip::of("av.flv");
    rtmp_plays_as_rtsp(Modern::No, &clip, BOTH, 1);
    rtmp_plays_as_rtsp(Modern::No, &clip, BOTH, 2);
}

#[test]
fn h264_without_b_frames_of_rtmp_plays_as_rtsp() {
    for modern in BOTH_FFMPEGS {
        rtmp_plays_as_rtsp(modern, &Clip::of("demo.flv"), BOTH, 2);
    }
}

#[test]
fn hevc_of_rtmp_plays_as_rtsp() {
    rtmp_plays_as_rtsp(Modern::Yes, &Clip::of("hevc_aac.flv"), BOTH, 2);
}

#[test]
fn opus_of_rtmp_plays_as_rtsp() {
    rtmp_plays_as_rtsp(Modern::Yes, &Clip::with_sound("av.flv", Sound::Opus), BOTH, 2);
}

#[test]
fn g711_of_rtmp_plays_as_rtsp() {
    for (sound, modern) in [(Sound::PcmA, Modern::Yes), (Sound::PcmU, Modern::No)] {
        let at_least = AtLeast { video: 50, audio: 8 };
        rtmp_plays_as_rtsp(modern, &Clip::with_sound("av.flv", sound), at_least, 1);
    }
}

#[test]
fn one_track_of_rtmp_plays_as_rtsp() {
    let video = AtLeast { video: 50, audio: 0 };
    rtmp_plays_as_rtsp(Modern::No, &Clip::of("video.flv"), video, 1);
    let audio = AtLeast { video: 0, audio: 60 };
    rtmp_plays_as_rtsp(Modern::No, &Clip::of("audio.flv"), audio, 1);
}

#[test]
fn known_packets_play_as_flv() {
    let sets = [Sets::Everywhere, Sets::DescriptionOnly, Sets::InBandOnly];
    for (file, lower, sets) in [
        ("av.flv", Lower::Tcp, sets[0]),
        ("av.flv", Lower::Udp, sets[1]),
        ("demo.flv", Lower::Tcp, sets[2]),
        ("hevc_aac.flv", Lower::Tcp, sets[1]),
        ("hevc_aac.flv", Lower::Udp, sets[2]),
    ] {
        let relay = Relay::start(2);
        let media = Media::of(file, Plan { sets, ..Plan::default() });
        let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), lower, &media);
        relay.wait_online("a");
        let players = flv_players(&relay, "a");
        decode_first_frames(Modern::Yes, &relay.flv_url("a"), 5);
        compare_flv(players, &media.units, BOTH, WithinMs(2.0));
        publisher.stop();
        relay.stop();
    }
}

#[test]
fn h264_and_aac_of_ffmpeg_over_rtsp_play_as_flv() {
    let clip = Clip::of("av.flv");
    for modern in [Modern::No, Modern::Yes] {
        for lower in LOWERS {
            let start = |url: &str| ffmpeg_publish(modern, &clip, url, lower);
            rtsp_plays_as_flv(&clip, BOTH, CLOSE, start);
        }
    }
}

#[test]
fn h264_without_b_frames_of_ffmpeg_over_rtsp_plays_as_flv() {
    let clip = Clip::of("demo.flv");
    for (modern, lower) in BOTH_FFMPEGS.into_iter().zip(LOWERS) {
        rtsp_plays_as_flv(&clip, BOTH, CLOSE, |url| ffmpeg_publish(modern, &clip, url, lower));
    }
}

#[test]
fn hevc_of_ffmpeg_over_rtsp_plays_as_flv() {
    let clip = Clip::of("hevc_aac.flv").into_matroska();
    for modern in [Modern::No, Modern::Yes] {
        for lower in LOWERS {
            let start = |url: &str| ffmpeg_publish(modern, &clip, url, lower);
            rtsp_plays_as_flv(&clip, BOTH, CLOSE, start);
        }
    }
}

#[test]
fn opus_and_g711_of_ffmpeg_over_rtsp_play_as_flv() {
    for sound in [Sound::Opus, Sound::PcmA, Sound::PcmU] {
        let clip = Clip::with_sound("av.flv", sound);
        let audio = if sound == Sound::Opus { 40 } else { 8 };
        let at_least = AtLeast { video: 50, audio };
        for lower in LOWERS {
            let start = |url: &str| ffmpeg_publish(Modern::Yes, &clip, url, lower);
            rtsp_plays_as_flv(&clip, at_least, CLOSE, start);
        }
        let clip = clip.into_matroska();
        let start = |url: &str| ffmpeg_publish(Modern::No, &clip, url, Lower::Tcp);
        rtsp_plays_as_flv(&clip, at_least, CLOSE, start);
    }
}

#[test]
fn latm_of_gstreamer_over_rtsp_plays_as_flv() {
    let clip = Clip::of("av.flv");
    for lower in LOWERS {
        let start = |url: &str| gstreamer_publish(&clip, url, lower);
        // Until its first reports, which come late, tracks lie where they arrive.
        rtsp_plays_as_flv(&clip, BOTH, WithinMs(100.0), start);
    }
}

/// GStreamer tells that its tracks begin together, which in the file are a sound of AAC apart (1.22). From
/// its first reports on they are where it says.
#[test]
fn latm_of_gstreamer_lies_where_its_reports_say() {
    let relay = Relay::start(2);
    let tap = Tap::start(relay.rtsp);
    let url = relay.rtsp_url("a").replace(&relay.rtsp.to_string(), &tap.address.to_string());
    let clip = Clip::of("av.flv");
    let mut publisher = gstreamer_publish(&clip, &url, Lower::Tcp);
    relay.wait_online("a");
    let flv = flv_players(&relay, "a");
    let rtsp = LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &relay.rtsp_url("a"), lower));
    flv.iter().for_each(|player| player.wait_frames(Kind::Video, 180));
    rtsp.iter().for_each(|player| player.wait_units(Kind::Video, 180));
    let flv = flv.map(|player| (player.what().to_owned(), units::of_tags(&player.stop())));
    let rtsp = rtsp.map(|player| (player.what().to_owned(), player.stop().units()));
    let sent = Recording::of_publisher(&tap.tape.bytes(Way::In)).units();
    let some = AtLeast { video: 25, audio: 40 };
    for (what, got) in flv.into_iter().chain(rtsp) {
        assert_same(&what, &sent, &settled(&got, GSTREAMER_REPORTS_MS), some, CLOSE);
    }
    publisher.terminate(LIVENESS);
    relay.stop();
}

/// In which each track of GStreamer's has had a report: five seconds, less or more by half (RFC 3550, 6.2),
/// and half of that for the first.
const GSTREAMER_REPORTS_MS: f64 = 4000.0;

#[test]
fn one_track_of_rtsp_plays_as_flv() {
    for (file, at_least) in [
        ("video.flv", AtLeast { video: 50, audio: 0 }),
        ("audio.flv", AtLeast { video: 0, audio: 60 }),
    ] {
        let clip = Clip::of(file);
        let start = |url: &str| ffmpeg_publish(Modern::No, &clip, url, Lower::Tcp);
        rtsp_plays_as_flv(&clip, at_least, CLOSE, start);
    }
}

/// Codecs that a second rillcast hands on, each with its name there and the sounds of about two seconds.
fn clips() -> Vec<(&'static str, Clip, usize)> {
    vec![
        ("aac", Clip::of("av.flv"), 40),
        ("no_b_frames", Clip::of("demo.flv"), 40),
        ("opus", Clip::with_sound("av.flv", Sound::Opus), 40),
        ("pcma", Clip::with_sound("av.flv", Sound::PcmA), 8),
        ("pcmu", Clip::with_sound("av.flv", Sound::PcmU), 8),
        ("hevc", Clip::of("hevc_aac.flv"), 40),
    ]
}

/// A rillcast pulls each clip from another one over RTSP, and players of FLV get what is in it.
#[track_caller]
fn second_rillcast_plays_as_flv(
    lower: Lower,
    within: WithinMs,
    publish: impl Fn(&Relay, &str, &Clip) -> Box<dyn FnOnce()>,
) {
    let (origin, relay) = (Relay::start(2), Relay::start(2));
    let clips = clips();
    let rtp_type = if lower == Lower::Tcp { "0" } else { "1" };
    let more = [("rtp_type", rtp_type), ("async", "1"), ("force", "1")];
    let mut publishers = Vec::new();
    for (name, clip, _) in &clips {
        publishers.push(publish(&origin, name, clip));
        let added = relay.add(name, &origin.rtsp_url(name), &more);
        assert_eq!(added["code"], 0, "{name}: {added}");
    }
    let players = clips.iter().map(|(name, clip, audio)| {
        relay.wait_online(name);
        (flv_players(&relay, name), clip, AtLeast { video: 50, audio: *audio })
    });
    for (players, clip, at_least) in players.collect::<Vec<_>>() {
        compare_flv(players, &clip.units, at_least, within);
    }
    publishers.into_iter().for_each(|stop| stop());
    relay.stop();
    origin.stop();
}

/// Of packets that were published there.
#[test]
fn packets_of_a_second_rillcast_play_as_flv() {
    for lower in LOWERS {
        second_rillcast_plays_as_flv(lower, WithinMs(2.0), |origin, name, clip| {
            let media = Media::of_file(&clip.path(), Plan { turns: 1, ..Plan::default() });
            let url = origin.rtsp_url(name);
            let publisher = RtspPublisher::start(origin.rtsp, &url, Lower::Tcp, &media);
            Box::new(|| publisher.stop())
        });
    }
}

/// Of packets that it makes of tags.
#[test]
fn tags_of_a_second_rillcast_play_as_flv() {
    for lower in LOWERS {
        second_rillcast_plays_as_flv(lower, CLOSE, |origin, name, clip| {
            let url = origin.rtmp_url(name);
            let mut publisher = ffmpeg_publish(Modern::Yes, clip, &url, Lower::Tcp);
            Box::new(move || {
                publisher.terminate(LIVENESS);
            })
        });
    }
}

/// The bridge is there while somebody wants it, and again when somebody wants it again.
#[test]
fn bridge_comes_and_goes_with_its_players() {
    let relay = Relay::start(2);
    let clip = Clip::of("av.flv");
    let mut publisher = ffmpeg_publish(Modern::No, &clip, &relay.rtmp_url("a"), Lower::Tcp);
    relay.wait_online("a");
    let url = relay.rtsp_url("a");
    for _ in 0..3 {
        let player = RtspPlayer::start(relay.rtsp, &url, Lower::Tcp);
        player.wait_units(Kind::Audio, 30);
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        let some = AtLeast { video: 5, audio: 30 };
        assert_same(&what, &clip.units, &recording.units(), some, CLOSE);
    }
    publisher.terminate(LIVENESS);
    relay.stop();
}

/// How much the bridges make of what comes from now on, as a part of that.
#[track_caller]
fn part_made(relay: &Relay) -> f64 {
    let totals = || {
        ["rillcast_media_bytes_in_total", "rillcast_bridge_bytes_copied_total"]
            .map(|name| relay.metric(name))
    };
    let before = totals();
    let mut since = [0; 2];
    wait_until(LIVENESS, "media goes on", || {
        let now = totals();
        since = [now[0] - before[0], now[1] - before[1]];
        since[0] >= 40_000
    });
    since[1] as f64 / since[0] as f64
}

#[track_caller]
fn assert_made_once(relay: &Relay) {
    let made = part_made(relay);
    assert!((0.7..1.5).contains(&made), "{made:.2} times what came");
}

/// Of both forms, for four players on two shards; and for nobody not a byte.
#[test]
fn bridge_makes_each_byte_once_and_while_somebody_wants_it() {
    let relay = Relay::start(2);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    assert_eq!(part_made(&relay), 0.0, "nobody wants it yet");
    let players = four_players(&relay, "a");
    players.iter().for_each(|player| player.wait_units(Kind::Audio, 30));
    assert_made_once(&relay);
    drop(players);
    wait_until(LIVENESS, "no packets are made for nobody", || part_made(&relay) == 0.0);
    publisher.stop();

    let media = Media::of("av.flv", Plan { turns: 10, ..Plan::default() });
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("b"), Lower::Tcp, &media);
    relay.wait_online("b");
    assert_eq!(part_made(&relay), 0.0, "nobody wants it yet");
    let players = [(); 4].map(|()| Player::http_flv(relay.http, "/live/b.live.flv"));
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 30));
    assert_made_once(&relay);
    drop(players);
    wait_until(LIVENESS, "no tags are made for nobody", || part_made(&relay) == 0.0);
    publisher.stop();
    relay.stop();
}

/// Of what a bridge makes, and through a second relay that pulls it.
#[test]
fn players_of_a_bridge_are_told_where_each_track_begins() {
    let (relay, second) = (Relay::start(2), Relay::start(2));
    let clip = Clip::of("av.flv");
    let mut publisher = ffmpeg_publish(Modern::No, &clip, &relay.rtmp_url("a"), Lower::Tcp);
    relay.wait_online("a");
    let added = second.add("a", &relay.rtsp_url("a"), &[]);
    assert_eq!(added["code"], 0, "{added}");
    let first = RtspPlayer::start(second.rtsp, &second.rtsp_url("a"), Lower::Tcp);
    first.wait_in_gop();
    let mut players = four_players(&relay, "a");
    players.extend(four_players(&second, "a"));
    assert_all_told(&players);
    for player in players {
        player.wait_units(Kind::Audio, 40);
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        let some = AtLeast { video: 5, audio: 40 };
        assert_same(&what, &clip.units, &recording.units(), some, CLOSE);
    }
    drop(first);
    publisher.terminate(LIVENESS);
    second.stop();
    relay.stop();
}

/// The stream's codecs are VP9 and FLAC. A wait would end with 404.
#[test]
fn players_over_rtsp_of_codecs_that_are_not_packetized_are_refused_at_once() {
    let relay = Relay::start_with(2, &kit::config::max_stream_wait_ms(120_000));
    let url = relay.rtsp_url("a");
    let described = |address| {
        let url = url.clone();
        std::thread::spawn(move || Client::connect(address).ask("DESCRIBE", &url, &[], ""))
    };
    // On both shards.
    let waiting = [(); 4].map(|()| described(relay.rtsp));
    wait_until(LIVENESS, "four waiters", || relay.ledger()["waiters"] == 4);
    let mut publisher = Publisher::start(Modern::Yes, "vp9_flac.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let late = described(relay.rtsp);
    for player in waiting.into_iter().chain([late]) {
        let answer = player.join().expect("no panic").expect("an answer");
        assert_eq!(answer.status(), Some(415), "{answer:?}");
    }
    assert_eq!(relay.schemas("a"), ["rtmp"]);
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 10);
    drop(player);
    publisher.stop();
    relay.stop();
}
