//! What interfaces see: tshark on what is sent, and a way that takes no long datagrams. Each test has
//! networks of its own, which takes root.

mod kit;

use kit::compare::AtLeast;
use kit::ffmpeg::{Modern, Recorder};
use kit::flv::Kind;
use kit::namespace::{Capture, Namespace};
use kit::rtp_media::{Media, Plan};
use kit::rtsp::Lower;
use kit::rtsp_peers::FilePlayer;
use kit::rtsp_player::RtspPlayer;
use kit::rtsp_publisher::RtspPublisher;
use kit::tshark::{assert_gapless, assert_well_formed, rtmp_messages};
use kit::units::{WithinMs, assert_same};
use kit::{LIVENESS, Player, Publisher, Relay, wait_until};

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

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
    let media = Media::of("av.flv", Plan::default());
    let mut capture = Capture::start();
    let url = relay.rtsp_url("a");
    let publisher = RtspPublisher::start(relay.rtsp, &url, lower, &media);
    relay.wait_online("a");
    let own = RtspPlayer::start(relay.rtsp, &url, lower);
    let mut players = vec![FilePlayer::ffmpeg(Modern::Yes, &url, lower)];
    if lower == Lower::Tcp {
        players.push(FilePlayer::gstreamer(&url, lower));
    }
    let player_count = 1 + players.len();
    own.wait_units(Kind::Audio, 100);
    players.iter_mut().for_each(|player| player.wait(40, 40));
    own.stop();
    players.into_iter().for_each(|player| drop(player.stop()));
    publisher.stop();
    let file = capture.stop();
    let what = format!("RTSP over {} on an interface", lower.name());
    let decode = format!("tcp.port=={},rtsp", relay.rtsp.port());
    assert_well_formed(&what, &file, &decode, "rtp", 200);
    assert_well_formed(&what, &file, &decode, "rtcp", 8);
    // To the relay and to each player. Over TCP the tracks go to one port, and have two SSRCs.
    assert_gapless(&what, &file, &decode, 2 * (1 + player_count));
    relay.stop();
}

#[test]
fn tshark_finds_every_message_in_rtmp() {
    Namespace::new().run(|| {
        let relay = Relay::start(2);
        let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
        relay.wait_online("a");
        let mut capture = Capture::start();
        let mut other = Recorder::start(Modern::No, &relay.rtmp_url("a"));
        other.wait_packets(100);
        other.stop();
        let what = "RTMP on an interface";
        let decode = format!("tcp.port=={},rtmpt", relay.rtmp.port());
        assert_well_formed(what, &capture.stop(), &decode, "rtmpt", 50);

        let mut capture = Capture::start();
        let player = Player::rtmp(relay.rtmp, "live", "a");
        player.wait_frames(Kind::Video, 100);
        let tags = player.stop();
        let file = capture.stop();
        assert_well_formed(what, &file, &decode, "rtmpt", 50);
        let kinds = [Kind::Audio, Kind::Video].map(Kind::number);
        let mut found = rtmp_messages(&file, relay.rtmp.port());
        // Answers to the publisher that was there before are not media.
        found.retain(|(kind, _)| kinds.contains(kind));
        let got = tags.iter().map(|tag| (tag.kind.number(), tag.payload.len()));
        let got: Vec<_> = got.filter(|(kind, _)| kinds.contains(kind)).collect();
        // The last of what it saw dumpcap may not have written.
        let both = found.len().min(got.len());
        assert!(both >= 200, "{} messages found, {} came", found.len(), got.len());
        assert_eq!(found[..both], got[..both]);
        publisher.stop();
        relay.stop();
    });
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
