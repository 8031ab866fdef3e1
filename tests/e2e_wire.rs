//! What goes over the wire: tshark on what is sent, with all its dissectors, and a way that takes no long
//! datagrams. What interfaces see is looked at in networks of a test's own, which takes root.

mod kit;

use kit::compare::AtLeast;
use kit::ffmpeg::{Modern, Recorder};
use kit::flv::Kind;
use kit::namespace::{Capture, Namespace};
use kit::rtp::Format;
use kit::rtp_media::{Media, Plan};
use kit::rtsp::Lower;
use kit::rtsp_peers::{Clip, FilePlayer, Sound, ffmpeg_publish};
use kit::rtsp_player::RtspPlayer;
use kit::rtsp_publisher::RtspPublisher;
use kit::tape::Tap;
use kit::tshark::{
    as_rtsp, assert_gapless, assert_plays_soundly, assert_well_formed, rtmp_messages,
};
use kit::units::{WithinMs, assert_same};
use kit::{LIVENESS, Player, Publisher, Relay, TempDir, wait_until};

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

/// A clip as RTP.
fn packets_of(clip: &Clip) -> Media {
    Media::of_file(&clip.path(), Plan { turns: 1, ..Plan::default() })
}

/// Streams of each codec, and their names: H.264 has B-frames.
fn clips() -> Vec<(&'static str, Clip)> {
    let sounds =
        [("aac", Sound::Same), ("opus", Sound::Opus), ("pcma", Sound::PcmA), ("pcmu", Sound::PcmU)];
    let with_sound = |(name, sound)| (name, Clip::with_sound("av.flv", sound).without_escapes());
    let hevc = ("hevc", Clip::of("hevc_aac.flv").without_messages());
    sounds.into_iter().map(with_sound).chain([hevc]).collect()
}

/// Plays each stream over TCP and UDP, and has tshark judge two seconds of it.
#[track_caller]
fn all_play_soundly<'a>(relay: &Relay, streams: impl Iterator<Item = &'a str>) {
    let players: Vec<RtspPlayer> = streams
        .flat_map(|stream| {
            let url = relay.rtsp_url(stream);
            LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower))
        })
        .collect();
    let dir = TempDir::new("tape");
    let tape = dir.file("tape.pcap");
    for player in players {
        player.wait_units(Kind::Video, 50);
        player.wait_units(Kind::Audio, 12);
        player.write_tape(&tape);
        let formats: Vec<Format> =
            player.look(|seen| seen.tracks.iter().map(|track| track.format.clone()).collect());
        assert_plays_soundly(player.what(), &tape, relay.rtsp.port(), &formats);
    }
}

#[test]
fn tshark_finds_no_fault_in_what_is_played() {
    let relay = Relay::start(2);
    let clips = clips();
    let publish = |(name, clip): &(&str, Clip)| {
        let media = packets_of(clip);
        RtspPublisher::start(relay.rtsp, &relay.rtsp_url(name), Lower::Tcp, &media)
    };
    let publishers: Vec<RtspPublisher> = clips.iter().map(publish).collect();
    clips.iter().for_each(|(name, _)| relay.wait_online(name));
    all_play_soundly(&relay, clips.iter().map(|(name, _)| *name));
    publishers.into_iter().for_each(RtspPublisher::stop);
    relay.stop();
}

#[test]
fn tshark_finds_no_fault_in_packets_of_tags() {
    let relay = Relay::start(2);
    let clips = clips();
    let publish = |(name, clip): &(&str, Clip)| {
        ffmpeg_publish(Modern::Yes, clip, &relay.rtmp_url(name), Lower::Tcp)
    };
    let mut publishers: Vec<_> = clips.iter().map(publish).collect();
    clips.iter().for_each(|(name, _)| relay.wait_online(name));
    all_play_soundly(&relay, clips.iter().map(|(name, _)| *name));
    for publisher in &mut publishers {
        publisher.terminate(LIVENESS);
    }
    relay.stop();
}

#[test]
fn tshark_finds_no_fault_in_a_dialog_with_ffmpeg() {
    let relay = Relay::start(2);
    let clip = Clip::of("av.flv").without_escapes();
    let media = packets_of(&clip);
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    relay.wait_online("a");
    let tap = Tap::start(relay.rtsp);
    let tapped = url.replace(&relay.rtsp.to_string(), &tap.address.to_string());
    let mut player = FilePlayer::ffmpeg(Modern::Yes, &tapped, Lower::Tcp);
    player.wait(50, 50);
    player.stop();
    let dir = TempDir::new("tape");
    let tape = dir.file("ffmpeg.pcap");
    tap.tape.write(&tape);
    assert_plays_soundly("ffmpeg", &tape, tap.address.port(), &media.formats);
    publisher.stop();
    relay.stop();
}

#[test]
fn tshark_finds_no_fault_in_http_of_packets() {
    let relay = Relay::start(2);
    let media = packets_of(&Clip::of("av.flv"));
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp, &media);
    relay.wait_online("a");
    let tap = Tap::start(relay.http);
    let player = Player::http_flv(tap.address, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 50);
    let dir = TempDir::new("tape");
    let tape = dir.file("http.pcap");
    tap.tape.write(&tape);
    let decode = [format!("tcp.port=={},http", tap.address.port())];
    assert_well_formed(player.what(), &tape, &decode, &[("http", 1)]);
    publisher.stop();
    relay.stop();
}

/// Of tags and of packets.
#[test]
fn tshark_finds_no_fault_in_websocket_flv() {
    let relay = Relay::start(2);
    let clip = Clip::of("av.flv");
    let mut tags = ffmpeg_publish(Modern::No, &clip, &relay.rtmp_url("tags"), Lower::Tcp);
    let media = packets_of(&clip);
    let url = relay.rtsp_url("packets");
    let packets = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
    for stream in ["tags", "packets"] {
        relay.wait_online(stream);
        let tap = Tap::start(relay.http);
        let player = Player::ws_flv(tap.address, &format!("/live/{stream}.live.flv"));
        player.wait_frames(Kind::Video, 50);
        player.wait_frames(Kind::Audio, 50);
        let dir = TempDir::new("tape");
        let tape = dir.file("ws.pcap");
        tap.tape.write(&tape);
        let decode = [format!("tcp.port=={},http", tap.address.port())];
        assert_well_formed(player.what(), &tape, &decode, &[("http", 2), ("websocket", 20)]);
    }
    packets.stop();
    tags.terminate(LIVENESS);
    relay.stop();
}

#[test]
fn tshark_finds_no_fault_on_an_interface_in_rtsp() {
    for lower in LOWERS {
        Namespace::new().run(|| rtsp_on_an_interface(lower));
    }
}

/// The kit's player, ffmpeg and GStreamer, each with a publisher's two tracks. Over UDP without the
/// last: what it opens the way through a NAT with is no RTP.
fn rtsp_on_an_interface(lower: Lower) {
    let relay = Relay::start(2);
    let clip = Clip::of("av.flv").without_escapes();
    let media = packets_of(&clip);
    let mut capture = Capture::start();
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, lower, &media);
    relay.wait_online("a");
    let own = RtspPlayer::start(relay.rtsp, &url, lower);
    let mut players = vec![FilePlayer::ffmpeg(Modern::Yes, &url, lower)];
    if lower == Lower::Tcp {
        players.push(FilePlayer::gstreamer(&url, lower));
    }
    own.wait_units(Kind::Audio, 100);
    players.iter_mut().for_each(|player| player.wait(40, 40));
    let player_count = 1 + players.iter().map(FilePlayer::starts).sum::<usize>();
    own.stop();
    players.into_iter().for_each(|player| drop(player.stop()));
    publisher.stop();
    let file = capture.stop();
    let what = format!("RTSP over {} on an interface", lower.name());
    let decode = as_rtsp(relay.rtsp.port(), &media.formats);
    assert_well_formed(&what, &file, &decode, &[("rtp", 200), ("rtcp", 8), ("h264", 100)]);
    // To the relay and to each player. Over TCP the tracks go to one port, and have two SSRCs.
    assert_gapless(&what, &file, &decode, 2 * (1 + player_count));
    relay.stop();
}

#[test]
fn tshark_finds_every_message_in_rtmp() {
    for (file, modern) in [("av.flv", Modern::No), ("hevc_aac.flv", Modern::Yes)] {
        Namespace::new().run(|| {
            let relay = Relay::start(2);
            let mut publisher = Publisher::start(modern, file, &relay.rtmp_url("a"));
            rtmp_on_an_interface(&relay, modern, file);
            publisher.stop();
            relay.stop();
        });
    }
}

#[test]
fn tshark_finds_every_message_in_rtmp_that_is_made_of_packets() {
    Namespace::new().run(|| {
        let relay = Relay::start(2);
        let media = packets_of(&Clip::of("av.flv").without_escapes());
        let url = relay.rtsp_url("a");
        let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
        rtmp_on_an_interface(&relay, Modern::No, "packets");
        publisher.stop();
        relay.stop();
    });
}

/// ffmpeg, and the kit's player, of what is published.
#[track_caller]
fn rtmp_on_an_interface(relay: &Relay, modern: Modern, published: &str) {
    let what = format!("RTMP on an interface, of {published}");
    relay.wait_online("a");
    let mut capture = Capture::start();
    let mut other = Recorder::start(modern, &relay.rtmp_url("a"));
    other.wait_packets(100);
    other.stop();
    let decode = [format!("tcp.port=={},rtmpt", relay.rtmp.port())];
    assert_well_formed(&what, &capture.stop(), &decode, &[("rtmpt", 20)]);

    let mut capture = Capture::start();
    let player = Player::rtmp(relay.rtmp, "live", "a");
    player.wait_frames(Kind::Video, 100);
    let tags = player.stop();
    let file = capture.stop();
    assert_well_formed(&what, &file, &decode, &[("rtmpt", 20)]);
    let kinds = [Kind::Audio, Kind::Video].map(Kind::number);
    let mut found = rtmp_messages(&file, relay.rtmp.port());
    // Answers to the publisher that was there before are not media.
    found.retain(|(kind, _)| kinds.contains(kind));
    let got = tags.iter().map(|tag| (tag.kind.number(), tag.payload.len()));
    let got: Vec<_> = got.filter(|(kind, _)| kinds.contains(kind)).collect();
    // The last of what it saw dumpcap may not have written.
    let both = found.len().min(got.len());
    assert!(both >= 200, "{what}: {} messages found, {} came", found.len(), got.len());
    assert_eq!(found[..both], got[..both], "{what}");
}

/// Packets of 1200 bytes, and a way that takes 1000: the kernel refuses to cut what can't pass.
#[test]
fn player_behind_a_narrow_way_gets_every_packet() {
    let (near, far) = (Namespace::new(), Namespace::new());
    near.tie(&far, 1000);
    near.run(|| {
        let relay = Relay::start_at("10.0.0.1", 1, "");
        let media = Media::of("av.flv", Plan::default());
        let url = relay.rtsp_url("a");
        let publisher = RtspPublisher::start(relay.rtsp, &url, Lower::Tcp, &media);
        relay.wait_online("a");
        let players = far.run(|| [(); 2].map(|()| RtspPlayer::start(relay.rtsp, &url, Lower::Udp)));
        for player in players {
            let what = player.what().to_owned();
            wait_until(LIVENESS, "both tracks", || {
                player.look(|seen| seen.tracks.iter().all(|track| track.unit_count() >= 60))
            });
            let mut recording = player.stop();
            for track in &mut recording.tracks {
                // What was refused together comes behind what was not.
                let first = track.start.map_or(track.packets[0].sequence, |(first, _)| first);
                track.packets.sort_by_key(|packet| packet.sequence.wrapping_sub(first));
                assert!(track.packets.iter().all(|packet| packet.payload.len() <= 1200));
            }
            let longest = recording.tracks.iter().flat_map(|track| &track.packets);
            let longest = longest.map(|packet| packet.payload.len()).max();
            assert_eq!(longest, Some(1200), "a packet that is longer than the way takes");
            recording.assert_announced(&what);
            let some = AtLeast { video: 50, audio: 50 };
            assert_same(&what, &media.units, &recording.units(), some, WithinMs(1.0));
        }
        assert_eq!(relay.metric("rillcast_udp_sends_lost_total"), 0);
        publisher.stop();
        relay.stop();
    });
}
