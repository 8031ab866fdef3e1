//! RTSP players over TCP and UDP of one stream, compared with what was sent.

use super::Relay;
use super::compare::AtLeast;
use super::flv::Kind;
use super::rtp_media::{Media, assert_same_packets};
use super::rtsp::Lower;
use super::rtsp_player::RtspPlayer;
use super::units::{WithinMs, assert_same};

/// About two seconds.
pub const BOTH: AtLeast = AtLeast { video: 50, audio: 60 };

/// Two over TCP and two over UDP.
#[track_caller]
pub fn four_players(relay: &Relay, stream: &str) -> Vec<RtspPlayer> {
    let lowers = [Lower::Tcp, Lower::Udp, Lower::Tcp, Lower::Udp];
    lowers.map(|lower| RtspPlayer::start(relay.rtsp, &relay.rtsp_url(stream), lower)).into()
}

/// Each was told where each track begins: of players that were started in a GOP.
#[track_caller]
pub fn assert_all_told(players: &[RtspPlayer]) {
    players.iter().for_each(|player| player.look(|seen| seen.assert_all_told(player.what())));
}

/// Waits until each has some two seconds, which are those that were sent.
#[track_caller]
pub fn stop_and_compare(players: Vec<RtspPlayer>, media: &Media) {
    for player in &players {
        player.wait_units(Kind::Video, 60);
        player.wait_units(Kind::Audio, 60);
    }
    for player in players {
        let what = player.what().to_owned();
        let recording = player.stop();
        recording.assert_announced(&what);
        assert_same_packets(&what, media, &recording, 50);
        assert_same(&what, &media.units, &recording.units(), BOTH, WithinMs(1.0));
    }
}
