//! What a publisher sends is what every player gets: same frames, same bytes, same timestamps, on
//! one shard and on two, over RTMP, HTTP-FLV and WS-FLV.

mod kit;

use std::time::Duration;

use kit::compare::{AtLeast, assert_never_steps_back, assert_same_media, coded};
use kit::ffmpeg::{
    Modern, Publisher, Recorder, Repeat, assert_same_packets, decode_first_frames, make_heavy_file,
    packets_of,
};
use kit::flv::{self, Kind, Tag};
use kit::player::End;
use kit::{Interleaver, LIVENESS, Player, Relay, TempDir, wait_until};

/// About two seconds of audio and video.
const BOTH: AtLeast = AtLeast { video: 50, audio: 40 };

/// Players on every egress; enough that on two shards both have some (all on one: 1 in 256).
fn players(relay: &Relay, stream: &str) -> Vec<Player> {
    let mut players = Vec::new();
    for suffix in [".live.flv", ".flv", ".live.flv?token=a"] {
        let path = format!("/live/{stream}{suffix}");
        players.push(Player::http_flv(relay.http, &path));
        players.push(Player::ws_flv(relay.http, &path));
        players.push(Player::rtmp(relay.rtmp, "live", stream));
    }
    players
}

fn wait_frames(player: &Player, at_least: AtLeast) {
    for (kind, count) in [(Kind::Video, at_least.video), (Kind::Audio, at_least.audio)] {
        if count > 0 {
            player.wait_frames(kind, count);
        }
    }
}

/// Publishes a file; the kit's players and ffmpeg's get what was sent.
#[track_caller]
fn passes_unchanged(modern: Modern, file: &str, at_least: AtLeast, shards: usize) {
    let relay = Relay::start(shards);
    let mut publisher = Publisher::start(modern, file, &relay.rtmp_url("a"));
    relay.wait_online("a");
    let players = players(&relay, "a");
    let urls = [relay.rtmp_url("a"), relay.flv_url("a")];
    let mut recorders = urls.each_ref().map(|url| Recorder::start(modern, url));
    players.iter().for_each(|player| wait_frames(player, at_least));
    recorders.iter_mut().for_each(|recorder| recorder.wait_packets(50));
    if at_least.video > 0 {
        decode_first_frames(modern, &urls[1], 5);
    }
    let recordings: Vec<(String, Vec<Tag>)> =
        players.into_iter().map(|player| (player.what().to_owned(), player.stop())).collect();
    let packets = recorders.map(Recorder::stop);
    publisher.stop();
    let sent = publisher.sent();
    for (what, tags) in &recordings {
        assert_same_media(&format!("{file} {what}"), &sent, tags, at_least);
        assert_never_steps_back(what, tags);
    }
    let sent_packets = packets_of(modern, &publisher.sent_file());
    for (url, got) in urls.iter().zip(packets) {
        assert_same_packets(&format!("{file} {url}"), &sent_packets, &got, 50);
    }
    relay.stop();
}

#[test]
fn h264_with_b_frames_and_aac_pass_unchanged_on_one_shard() {
    passes_unchanged(Modern::No, "av.flv", BOTH, 1);
}

#[test]
fn h264_with_b_frames_and_aac_pass_unchanged_on_two_shards() {
    passes_unchanged(Modern::No, "av.flv", BOTH, 2);
}

#[test]
fn audio_alone_passes_unchanged() {
    passes_unchanged(Modern::No, "audio.flv", AtLeast { video: 0, audio: 80 }, 1);
    passes_unchanged(Modern::No, "audio.flv", AtLeast { video: 0, audio: 80 }, 2);
}

#[test]
fn video_alone_passes_unchanged() {
    passes_unchanged(Modern::No, "video.flv", AtLeast { video: 50, audio: 0 }, 1);
    passes_unchanged(Modern::No, "video.flv", AtLeast { video: 50, audio: 0 }, 2);
}

#[test]
fn hevc_passes_unchanged() {
    passes_unchanged(Modern::Yes, "hevc_aac.flv", BOTH, 1);
    passes_unchanged(Modern::Yes, "hevc_aac.flv", BOTH, 2);
}

#[test]
fn av1_and_opus_pass_unchanged() {
    passes_unchanged(Modern::Yes, "av1_opus.flv", BOTH, 1);
    passes_unchanged(Modern::Yes, "av1_opus.flv", BOTH, 2);
}

#[test]
fn vp9_and_flac_pass_unchanged() {
    passes_unchanged(Modern::Yes, "vp9_flac.flv", AtLeast { video: 50, audio: 10 }, 2);
}

/// Pictures of tens of kilobytes in chunks of 128 bytes, audio between them.
#[test]
fn interleaved_chunks_pass_unchanged_and_are_copied_once() {
    for shards in [1, 2] {
        let dir = TempDir::new("heavy");
        let file = dir.file("heavy.flv");
        make_heavy_file(&file, 5);
        let tags = flv::read(&file).into_iter().filter(|tag| tag.kind != Kind::Script);
        let tags: Vec<Tag> = tags.collect();
        let largest = coded(&tags, Kind::Video).iter().map(|tag| tag.payload.len()).max();
        assert!(largest > Some(40_000), "{largest:?}");
        let relay = Relay::start(shards);
        let players = players(&relay, "a");
        let mut publisher = Interleaver::start(relay.rtmp, "a", tags.clone());
        relay.wait_online("a");
        let mut recorder = Recorder::start(Modern::No, &relay.flv_url("a"));
        // ffmpeg heeds its end only while something comes.
        recorder.wait_packets(150);
        let packets = recorder.stop();
        // Players start with the first picture.
        let first = tags.iter().position(Tag::is_video_keyframe).expect("a picture");
        let [video, audio] =
            [Kind::Video, Kind::Audio].map(|kind| coded(&tags[first..], kind).len());
        let at_least = AtLeast { video, audio };
        players.iter().for_each(|player| wait_frames(player, at_least));
        publisher.wait_sent();
        for player in players {
            let what = player.what().to_owned();
            let got = player.stop();
            assert_same_media(&what, &tags, &got, at_least);
            assert_never_steps_back(&what, &got);
        }
        assert_same_packets("ffmpeg", &packets_of(Modern::No, &file), &packets, 150);
        let sent: usize = tags.iter().map(|tag| tag.payload.len()).sum();
        for name in ["in", "copied"] {
            let bytes = relay.metric(&format!("rillcast_media_bytes_{name}_total"));
            assert_eq!(bytes, sent as u64, "{name}");
        }
        drop(publisher);
        relay.stop();
    }
}

/// Pictures of one size, then a few bytes and silence: the relay waits for whole pictures, but not
/// for ever.
#[test]
fn short_pictures_behind_long_ones_are_not_kept_waiting() {
    let picture = |at: u32, len: usize| {
        let key = if at == 0 { 0x17 } else { 0x27 };
        let payload = [&[key, 1, 0, 0, 0][..], &vec![at as u8; len]].concat();
        Tag { kind: Kind::Video, timestamp_ms: at * 10, payload }
    };
    let audio = |at: u32| {
        let payload = [&[0xaf, 1][..], &[at as u8; 100]].concat();
        Tag { kind: Kind::Audio, timestamp_ms: at * 10, payload }
    };
    const AVC: [u8; 24] =
        *b"\x17\0\0\0\0\x01\x42\0\x1e\xff\xe1\0\x04\x67\x42\0\x1e\x01\0\x04\x68\xce\x3c\x80";
    let config = |kind, payload: &[u8]| Tag { kind, timestamp_ms: 0, payload: payload.to_vec() };
    let mut tags = vec![config(Kind::Video, &AVC), config(Kind::Audio, &[0xaf, 0, 0x12, 0x10])];
    for at in 0..200 {
        tags.extend([picture(at, 3000), audio(at)]);
    }
    tags.push(picture(200, 9));
    for shards in [1, 2] {
        let relay = Relay::start(shards);
        let mut publisher = Interleaver::start(relay.rtmp, "a", tags.clone());
        relay.wait_online("a");
        let player = Player::http_flv(relay.http, "/live/a.live.flv");
        publisher.wait_sent();
        let last = |player: &Player| player.tags().last().cloned() == tags.last().cloned();
        wait_until(LIVENESS, "the last picture", || last(&player));
        assert_same_media("short ones", &tags, &player.stop(), AtLeast { video: 201, audio: 200 });
        assert!(relay.metric("rillcast_receive_marks_lifted_total") > 0);
        drop(publisher);
        relay.stop();
    }
}

#[test]
fn second_publisher_of_a_name_is_refused_and_the_first_goes_on() {
    let relay = Relay::start(2);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 10);
    // Several, so that both shards get one.
    for _ in 0..6 {
        let second = Player::rtmp_publish(relay.rtmp, "live", "a");
        second.wait_end(LIVENESS);
        let codes = second.look(|seen| seen.codes.clone());
        assert_eq!(codes, ["NetStream.Publish.BadName"]);
    }
    let mut second =
        Publisher::start_with(Modern::No, "demo.flv", &relay.rtmp_url("a"), Repeat::Forever);
    assert!(second.wait_end(), "ffmpeg gives up");
    player.wait_more_frames(Kind::Video, 30);
    let tags = player.stop();
    publisher.stop();
    assert_same_media("the first", &publisher.sent(), &tags, BOTH);
    relay.stop();
}

#[test]
fn publisher_that_ends_closes_its_players() {
    let relay = Relay::start(2);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let players = players(&relay, "a");
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    publisher.stop();
    for player in &players {
        let end = player.wait_end(LIVENESS);
        assert_ne!(end, End::Reset, "{}: a goodbye, not a reset", player.what());
        assert_same_media(
            player.what(),
            &publisher.sent(),
            &player.tags(),
            AtLeast { video: 10, audio: 0 },
        );
    }
    assert!(!relay.is_online("a"));
    drop(players);
    relay.stop();
}

/// A publisher crashes and another one takes its place: the same connections go on.
#[track_caller]
fn players_survive_a_crash(first: &str, second: &str, shards: usize) {
    let relay = Relay::start(shards);
    let mut publisher = Publisher::start(Modern::No, first, &relay.rtmp_url("a"));
    relay.wait_online("a");
    let players = players(&relay, "a");
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 60));
    publisher.crash();
    wait_until(LIVENESS, "the relay notices", || !relay.is_online("a"));
    kit::pause(Duration::from_secs(1));
    let before: Vec<usize> = players.iter().map(|player| player.tags().len()).collect();
    players.iter().for_each(Player::assert_open);
    let sent_first = publisher.sent();
    let mut publisher = Publisher::start(Modern::No, second, &relay.rtmp_url("a"));
    relay.wait_online("a");
    players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 60));
    let recordings: Vec<(String, Vec<Tag>)> =
        players.into_iter().map(|player| (player.what().to_owned(), player.stop())).collect();
    publisher.stop();
    let sent_second = publisher.sent();
    for ((what, tags), before) in recordings.iter().zip(before) {
        let (old, new) = tags.split_at(before);
        assert_same_media(&format!("{what} before"), &sent_first, old, BOTH);
        assert_same_media(&format!("{what} after"), &sent_second, new, BOTH);
        assert_never_steps_back(what, tags);
        let last_ms = coded(old, Kind::Video).last().map_or(0, |tag| tag.timestamp_ms);
        let first_ms = coded(new, Kind::Video).first().map_or(0, |tag| tag.timestamp_ms);
        assert!(first_ms - last_ms < 60_000, "{what}: jumps from {last_ms} to {first_ms} ms");
    }
    relay.stop();
}

#[test]
fn publisher_that_crashes_may_come_back_to_its_players() {
    players_survive_a_crash("av.flv", "av.flv", 2);
}

#[test]
fn publisher_that_comes_back_with_another_codec_configuration_sends_it_to_its_players() {
    players_survive_a_crash("av.flv", "demo.flv", 1);
}

#[test]
fn players_of_a_publisher_that_never_comes_back_are_closed() {
    let relay = Relay::start_with(2, &kit::config::grace_ms(1500));
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let players = players(&relay, "a");
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    publisher.crash();
    for player in &players {
        assert_ne!(player.wait_end(LIVENESS), End::Reset, "{}", player.what());
    }
    drop(players);
    relay.stop();
}

/// Also where its connection has moved to another shard, that of the key which it published.
#[test]
fn who_has_published_can_play_over_the_same_connection() {
    for shards in [1, 2] {
        let relay = Relay::start(shards);
        let _publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("b"));
        relay.wait_online("b");
        let held = |kind: &str| relay.ledger()[kind];
        let tags = flv::read(&kit::media("av.flv")).into_iter();
        let tags = tags.filter(|tag| tag.kind != Kind::Script && tag.timestamp_ms < 1000);
        let tags: Vec<Tag> = tags.collect();
        for number in 0..4 {
            let stream = format!("a{number}");
            let mut peer = Interleaver::start(relay.rtmp, &stream, tags.clone());
            peer.wait_sent();
            wait_until(LIVENESS, "its stream", || relay.is_online(&stream));
            peer.play_instead("b", 30);
            assert!(!relay.is_online(&stream), "it has ended its stream");
            assert_eq!((held("players"), held("publishers")), (1, 1));
            drop(peer);
            wait_until(LIVENESS, "it is gone", || held("players") == 0);
        }
        relay.stop();
    }
}
