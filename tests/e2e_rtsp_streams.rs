//! RTSP beyond the common codecs and the quiet case: payloads that nobody here knows, where a picture
//! begins, sources that lose packets, and publishers that come back with other codecs.

mod kit;

use kit::camera::{Camera, Habits};
use kit::compare::AtLeast;
use kit::ffmpeg::{Modern, decode_first_frames};
use kit::flv::Kind;
use kit::http::request;
use kit::rtp_media::{Media, Plan, Sets, assert_same_packets};
use kit::rtsp::Lower;
use kit::rtsp_player::RtspPlayer;
use kit::rtsp_publisher::RtspPublisher;
use kit::units::{self, Unit, WithinMs, assert_same};
use kit::{LIVENESS, Player, Publisher, Relay, wait_until};

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

/// Of a stream that FLV can't carry.
#[track_caller]
fn wait_rtsp_alone(relay: &Relay) {
    wait_until(LIVENESS, "live/a is up as RTSP alone", || relay.schemas("a") == ["rtsp"]);
}

#[track_caller]
fn plays_packets(relay: &Relay, media: &Media) {
    let url = relay.rtsp_url("a");
    let players = [Lower::Tcp, Lower::Udp, Lower::Tcp, Lower::Udp]
        .map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
    for player in players {
        for kind in [Kind::Video, Kind::Audio, Kind::Script] {
            player.wait_units(kind, 60);
        }
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        for (have, sent) in recording.tracks.iter().zip(&media.formats) {
            assert_eq!(
                (&have.format.fmtp, have.format.payload_type),
                (&sent.fmtp, sent.payload_type)
            );
        }
        assert_same_packets(&what, media, &recording, 50);
    }
}

#[test]
fn payloads_of_unknown_codecs_pass_bit_equal() {
    for (name, lower, shards) in
        [("VP8", Lower::Tcp, 1), ("MP4V-ES", Lower::Udp, 2), ("VP8", Lower::Udp, 1)]
    {
        let relay = Relay::start(shards);
        let media = Media::of_unknown([name, "X-NOISE"]);
        let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), lower, &media);
        wait_rtsp_alone(&relay);
        plays_packets(&relay, &media);
        publisher.stop();
        relay.stop();
    }
}

/// Players of FLV are refused a stream whose one track is described so.
#[track_caller]
fn counts_as_rtsp_alone(file: &str, kind: Kind, describe: impl Fn(&str) -> String) {
    let relay = Relay::start(2);
    let mut media = Media::of(file, Plan::default());
    media.formats[0].fmtp = describe(&media.formats[0].fmtp);
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    wait_rtsp_alone(&relay);
    let refused = request(relay.http, "GET /live/a.live.flv", &[], &[]).expect("an answer");
    assert_eq!(refused.status, 406, "{refused:?}");
    let player = RtspPlayer::start(relay.rtsp, &url, Lower::Tcp);
    player.wait_units(kind, 30);
    player.stop();
    publisher.stop();
    relay.stop();
}

/// FLV has the codec, and not without its configuration.
#[test]
fn sound_that_can_not_be_configured_counts_as_rtsp_alone() {
    counts_as_rtsp_alone("audio.flv", Kind::Audio, |fmtp| fmtp.replace("config=", "config=zz"));
}

/// Its units are not in the order in which they are decoded.
#[test]
fn h264_in_interleaved_mode_counts_as_rtsp_alone() {
    let mode = "packetization-mode=";
    let interleaved = |fmtp: &str| fmtp.replace(&format!("{mode}1"), &format!("{mode}2"));
    counts_as_rtsp_alone("video.flv", Kind::Video, interleaved);
}

#[test]
fn payloads_of_unknown_codecs_pass_through_two_rillcasts() {
    for rtp_type in ["0", "1"] {
        let (origin, relay) = (Relay::start(1), Relay::start(2));
        let media = Media::of_unknown(["VP8", "X-NOISE"]);
        let url = origin.rtsp_url("a");
        let publisher = RtspPublisher::start(origin.rtsp, &url, Lower::Tcp, &media);
        wait_rtsp_alone(&origin);
        let added = relay.add("a", &url, &[("rtp_type", rtp_type)]);
        assert_eq!(added["code"], 0, "{added}");
        wait_rtsp_alone(&relay);
        plays_packets(&relay, &media);
        publisher.stop();
        relay.stop();
        origin.stop();
    }
}

#[test]
fn players_begin_where_the_picture_of_a_keyframe_does() {
    for (lower, shards) in [(Lower::Tcp, 1), (Lower::Udp, 2)] {
        let relay = Relay::start(shards);
        let media = Media::of("av.flv", Plan { leads: true, ..Plan::default() });
        let url = relay.rtsp_url("a");
        let publisher = RtspPublisher::start(relay.rtsp, &url, lower, &media);
        relay.wait_online("a");
        // What came of the very first picture before it was known for a keyframe may be gone.
        let first = RtspPlayer::start(relay.rtsp, &url, lower);
        first.wait_units(Kind::Video, 30);
        let players = LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
        for player in players {
            player.wait_units(Kind::Video, 60);
            player.wait_units(Kind::Audio, 60);
            let what = player.what().to_owned();
            let recording = player.stop();
            recording.assert_announced(&what);
            assert_same_packets(&what, &media, &recording, 50);
            let kinds = recording.tracks[0].packets.iter().map(|packet| packet.payload[0] & 0x1f);
            // Delimiter, message, parameter sets, and what the keyframe comes in.
            assert_eq!(kinds.take(5).collect::<Vec<_>>(), [9, 6, 7, 8, 28], "{what}");
        }
        drop(first);
        publisher.stop();
        relay.stop();
    }
}

/// Pictures of the files.
const GOP: usize = 25;

/// Splits off what begins with the second keyframe.
#[track_caller]
fn from_second_keyframe(units: &mut Vec<Unit>) -> Vec<Unit> {
    let is_keyframe = |unit: &Unit| unit.kind == Kind::Video && unit.is_keyframe;
    let mut keyframes = (0..units.len()).filter(|&index| is_keyframe(&units[index]));
    let second = keyframes.nth(1).expect("two GOPs");
    units.split_off(second)
}

/// What was sent without the pictures that follow such a keyframe as the first one and are shown before it:
/// those of HEVC refer to pictures that who begins there does not have.
fn without_early(sent: &[Unit], got: &[Unit]) -> Vec<Unit> {
    let first = got.iter().find(|unit| unit.kind == Kind::Video).expect("pictures");
    let mut start = None;
    let mut is_kept = |unit: &&Unit| {
        if unit.kind == Kind::Video {
            start.take_if(|start| unit.pts_ms > *start);
            if unit.bytes == first.bytes {
                start = Some(unit.pts_ms);
            }
        }
        unit.kind != Kind::Video || start.is_none_or(|start| unit.pts_ms >= start)
    };
    sent.iter().filter(|unit| is_kept(unit)).cloned().collect()
}

/// Who comes later was not there when they came: over RTSP they are in the description, too.
#[test]
fn parameter_sets_that_came_once_reach_who_comes_late() {
    let cases = [
        ("av.flv", Lower::Tcp, "sprop-parameter-sets="),
        ("hevc_aac.flv", Lower::Udp, "sprop-vps="),
    ];
    for (file, lower, told) in cases {
        let relay = Relay::start(2);
        let media = Media::of(file, Plan { sets: Sets::InBandOnce, turns: 4, ..Plan::default() });
        assert!(!media.description().contains(told), "{}", media.description());
        let url = relay.rtsp_url("a");
        let publisher = RtspPublisher::start(relay.rtsp, &url, lower, &media);
        relay.wait_online("a");
        let first = RtspPlayer::start(relay.rtsp, &url, Lower::Tcp);
        // Two GOPs later.
        first.wait_units(Kind::Video, 60);
        let flv = Player::http_flv(relay.http, "/live/a.live.flv");
        let late = LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
        let some = AtLeast { video: 25, audio: 25 };
        flv.wait_frames(Kind::Video, 2 * GOP + some.video);
        flv.wait_frames(Kind::Audio, 2 * GOP + some.audio);
        let mut first_group = units::of_tags(&flv.stop());
        let others = from_second_keyframe(&mut first_group);
        assert_same("flv", &media.units, &others, some, WithinMs(10.0));
        let sent = without_early(&media.units, &first_group);
        let most = AtLeast { video: GOP - 5, audio: GOP };
        assert_same("flv, the first group", &sent, &first_group, most, WithinMs(10.0));
        for player in late {
            player.wait_units(Kind::Video, some.video);
            player.wait_units(Kind::Audio, some.audio);
            let what = player.what().to_owned();
            let recording = player.stop();
            assert!(recording.description.contains(told), "{}", recording.description);
            recording.assert_announced(&what);
            assert_same(&what, &media.units, &recording.units(), some, WithinMs(10.0));
        }
        decode_first_frames(Modern::Yes, &relay.flv_url("a"), 5);
        drop(first);
        publisher.stop();
        relay.stop();
    }
}

/// A player's pictures of a stream without keyframes are a part of those that were sent, from one on that
/// stood in for a keyframe.
#[track_caller]
fn assert_begins_anywhere(what: &str, media: &Media, mut units: Vec<Unit>) {
    let first = units.iter_mut().find(|unit| unit.kind == Kind::Video).expect("pictures");
    first.is_keyframe = true;
    assert_same(what, &media.units, &units, AtLeast { video: 25, audio: 25 }, WithinMs(10.0));
}

/// Of a stream without keyframes a picture each ten seconds stands in for one: for those who play what came
/// and for those who play what is made of it, together, from the first on or later.
#[test]
fn pictures_that_stand_in_for_keyframes_start_players_of_both_forms() {
    let relay = Relay::start(2);
    let media = Media::of("av.flv", Plan { refreshes: true, turns: 4, ..Plan::default() });
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    relay.wait_online("a");
    let flv = || {
        [Player::http_flv(relay.http, "/live/a.live.flv"), Player::rtmp(relay.rtmp, "live", "a")]
    };
    let rtsp = || LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
    let early = (flv(), rtsp());
    early.1[0].wait_units(Kind::Video, 10);
    let late = (flv(), rtsp());
    for (flv, rtsp) in [early, late] {
        for player in rtsp {
            player.wait_units(Kind::Video, 40);
            player.wait_units(Kind::Audio, 40);
            let what = player.what().to_owned();
            assert_begins_anywhere(&what, &media, player.stop().units());
        }
        for player in flv {
            player.wait_frames(Kind::Video, 40);
            player.wait_frames(Kind::Audio, 40);
            let what = player.what().to_owned();
            assert_begins_anywhere(&what, &media, units::of_tags(&player.stop()));
        }
    }
    publisher.stop();
    relay.stop();
}

#[test]
fn players_begin_at_a_keyframe_of_the_first_of_two_tracks_of_video() {
    let relay = Relay::start(2);
    let media = Media::of("av.flv", Plan::default()).with_second_video();
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    relay.wait_online("a");
    let first = RtspPlayer::start(relay.rtsp, &url, Lower::Tcp);
    // In all parts of a GOP of 25.
    for turn in 0..8 {
        first.wait_units(Kind::Video, 30 + 3 * turn);
        let player = RtspPlayer::start(relay.rtsp, &url, LOWERS[turn % 2]);
        player.wait_units(Kind::Video, 3);
        // Over UDP each track and its reports come to a socket of their own.
        wait_until(LIVENESS, "each track was reported on", || {
            player.look(|seen| {
                let mut tracks = seen.tracks.iter();
                tracks.all(|track| !track.packets.is_empty() && !track.reports.is_empty())
            })
        });
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        let begins = recording.tracks[0].packets[0].payload[0] & 0x1f;
        assert_eq!(begins, 7, "{what}: parameter sets, and their keyframe behind them");
    }
    let list = relay.api("getMediaList", &[("stream", "a"), ("schema", "rtsp")]);
    let tracks = list["data"][0]["tracks"].as_array().unwrap_or_else(|| panic!("{list}"));
    assert_eq!(tracks.len(), 2, "the first one alone is told of: {list}");
    assert_eq!(tracks[0]["gop_size"], 25, "{list}");
    drop(first);
    publisher.stop();
    relay.stop();
}

/// Loss in percent of video and audio.
#[track_caller]
fn losses(relay: &Relay, schema: &str) -> [f64; 2] {
    let params =
        [("schema", schema), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "a")];
    let told = relay.api("getMediaInfo", &params);
    [0, 1].map(|track| told["tracks"][track]["loss"].as_f64().unwrap_or_else(|| panic!("{told}")))
}

#[test]
fn loss_of_a_source_is_told_for_each_track() {
    let relay = Relay::start(1);
    let mut media = Media::of("av.flv", Plan::default());
    // Every tenth packet of video.
    let mut number = 0;
    media.packets.retain(|packet| {
        number += u32::from(packet.track == 0 && !packet.is_rtcp);
        packet.track != 0 || packet.is_rtcp || number % 10 != 5
    });
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Udp, &media);
    relay.wait_online("a");
    for schema in ["rtsp", "rtmp"] {
        wait_until(LIVENESS, "a loss of some 10 % of video", || {
            let [video, audio] = losses(&relay, schema);
            (5.0..15.0).contains(&video) && audio == 0.0
        });
    }
    publisher.stop();
    relay.stop();
    let relay = Relay::start(1);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    assert_eq!(losses(&relay, "rtmp"), [-1.0; 2]);
    publisher.stop();
    relay.stop();
}

#[test]
fn players_of_rtsp_end_when_the_publisher_comes_back_with_other_codecs() {
    let relay = Relay::start_with(2, &kit::config::grace_ms(20_000));
    let url = relay.rtsp_url("a");
    let mut publisher = Publisher::start(Modern::Yes, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let flv = Player::http_flv(relay.http, "/live/a.live.flv");
    let rtsp = LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
    for player in &rtsp {
        player.wait_units(Kind::Audio, 30);
        assert!(player.look(|seen| seen.description.contains(" H264/90000")));
    }
    flv.wait_frames(Kind::Video, 20);
    publisher.crash();
    let mut publisher = Publisher::start(Modern::Yes, "hevc_aac.flv", &relay.rtmp_url("a"));
    for player in &rtsp {
        player.wait_end(LIVENESS);
    }
    let late = LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower));
    for player in &late {
        player.wait_units(Kind::Audio, 30);
        assert!(player.look(|seen| seen.description.contains(" H265/90000")));
    }
    flv.wait_more_frames(Kind::Video, 30);
    flv.assert_open();
    let tags = flv.stop();
    assert!(tags.iter().any(|tag| tag.is_coded() && tag.payload[0] & 0x80 != 0), "no HEVC");
    drop((rtsp, late));
    publisher.stop();
    relay.stop();
}

const SOON_LOST: &str = "[rtmp]\nkeep_alive_ms = 1000\n[stream]\ncontinue_push_ms = 500\n";

/// Sources whose media ends while their connection stays.
#[test]
fn sources_that_fall_silent_are_lost() {
    let relay = Relay::start_with(1, SOON_LOST);
    let start = relay.holdings();
    let media = Media::of("av.flv", Plan { turns: 1, ..Plan::default() });
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp, &media);
    relay.wait_online("a");
    relay.assert_back_to(&start, "a silent publisher is given up");
    drop(publisher);
    let camera = Camera::start_of(Habits::default(), media);
    let more = [("rtp_type", "1"), ("media_timeout_ms", "1000")];
    assert_eq!(relay.add("a", &camera.url(), &more)["code"], 0);
    relay.wait_online("a");
    wait_until(LIVENESS, "the silent camera is lost", || {
        relay.proxy("a").is_some_and(|proxy| proxy["errorClass"] == "silent")
    });
    // It sends again to those who ask again.
    wait_until(LIVENESS, "it is asked again", || camera.connections().len() >= 2);
    relay.wait_online("a");
    assert_eq!(relay.delete("a")["data"]["flag"], true);
    camera.wait_all_closed();
    relay.assert_back_to(&start, "nothing is left of a silent camera");
    relay.stop();
}
