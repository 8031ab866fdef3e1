//! RTSP sources whose clock is set, and that begin anew with another SSRC or sequence while they send:
//! their players go on, times rise, and pictures and sounds are together again after some seconds.

mod kit;

use kit::camera::{Camera, Habits};
use kit::compare::assert_never_steps_back;
use kit::flv::{Kind, Tag};
use kit::rtp::{Packet, ReceiverReport};
use kit::rtp_media::{Change, Media, Plan};
use kit::rtsp::Lower;
use kit::rtsp_player::{Recording, RtspPlayer};
use kit::rtsp_publisher::RtspPublisher;
use kit::units::{self, Unit, places_of};
use kit::{LIVENESS, Player, Relay, holds_within};

/// When the source changes.
const CHANGE_MS: u32 = 3500;

/// From here on pictures and sounds must be together.
const TOGETHER_MS: f64 = 9500.0;

/// Up to here it is played, in pictures of 40 ms.
const PICTURES: usize = 270;

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

const CHANGES: [Change; 5] = [
    Change::Clock(-500),
    Change::Clock(-60_000),
    Change::Clock(60_000),
    Change::Ssrc,
    Change::Sequence,
];

/// Packets of each track that may be lost: a new sequence is believed with its second packet.
fn lost_max(change: Change) -> usize {
    match change {
        Change::Clock(_) => 0,
        Change::Ssrc | Change::Sequence => 1,
    }
}

fn changed(change: Change) -> Media {
    Media::of("av.flv", Plan::default()).changed(CHANGE_MS, change)
}

/// Players of a stream that will change.
struct Crowd {
    what: String,
    change: Change,
    flv: Player,
    rtsp: [RtspPlayer; 2],
}

impl Crowd {
    #[track_caller]
    fn start(relay: &Relay, stream: &str, change: Change) -> Self {
        let url = relay.rtsp_url(stream);
        Self {
            what: format!("{stream}, {change:?}"),
            change,
            flv: Player::http_flv(relay.http, &format!("/live/{stream}.live.flv")),
            rtsp: LOWERS.map(|lower| RtspPlayer::start(relay.rtsp, &url, lower)),
        }
    }

    fn has_all(&self) -> bool {
        self.flv.look(|seen| seen.tags.iter().filter(|tag| is_picture(tag)).count()) >= PICTURES
    }

    #[track_caller]
    fn check(self, sent: &[Unit]) {
        let Self { what, change, flv, rtsp } = self;
        assert_flv(&format!("{what}, flv"), &flv.stop(), sent, change);
        for player in rtsp {
            let what = format!("{what}, {}", player.what());
            assert_rtsp(&what, &player.stop(), sent, change);
        }
    }
}

fn is_picture(tag: &Tag) -> bool {
    tag.is_coded() && tag.kind == Kind::Video
}

#[track_caller]
fn assert_flv(what: &str, tags: &[Tag], sent: &[Unit], change: Change) {
    assert_never_steps_back(what, tags);
    for kind in [Kind::Video, Kind::Audio] {
        let own: Vec<&Tag> = tags.iter().filter(|tag| tag.is_coded() && tag.kind == kind).collect();
        for pair in own.windows(2) {
            let [before, after] = [pair[0].timestamp_ms, pair[1].timestamp_ms];
            assert!(before < after, "{what}: {kind:?} at {before} and then {after} ms");
        }
    }
    assert_together(what, &units::of_tags(tags), sent, change);
}

#[track_caller]
fn assert_rtsp(what: &str, recording: &Recording, sent: &[Unit], change: Change) {
    recording.assert_announced(what);
    assert_together(what, &recording.units(), sent, change);
}

/// Nothing is missing but what may be, and in the end both tracks are as far from the times at which they
/// were sent.
#[track_caller]
fn assert_together(what: &str, got: &[Unit], sent: &[Unit], change: Change) {
    let offsets = [Kind::Video, Kind::Audio].map(|kind| {
        let places = places_of(what, sent, got, kind);
        let lost: usize = places.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
        assert!(lost <= lost_max(change), "{what}: {lost} of {kind:?} are lost");
        let sent: Vec<f64> =
            sent.iter().filter(|unit| unit.kind == kind).map(|unit| unit.pts_ms).collect();
        let got = got.iter().filter(|unit| unit.kind == kind);
        let late = places.iter().zip(got).filter(|(place, _)| sent[**place] >= TOGETHER_MS);
        let offsets: Vec<f64> = late.map(|(place, unit)| unit.pts_ms - sent[*place]).collect();
        assert!(offsets.len() >= 20, "{what}: {} of {kind:?} in the end", offsets.len());
        offsets
    });
    let all = || offsets.iter().flatten().copied();
    let [least, most] = [all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max)];
    let spans = offsets.each_ref().map(|own| {
        [own.iter().copied().fold(f64::MAX, f64::min), own.iter().copied().fold(f64::MIN, f64::max)]
    });
    assert!(most - least <= 10.0, "{what}: video and audio are off by {spans:.1?} ms");
}

/// All at once, since each takes its time.
#[track_caller]
fn check_all(crowds: Vec<Crowd>) {
    let sent = Media::of("av.flv", Plan::default()).units;
    let have_all = holds_within(LIVENESS, || crowds.iter().all(Crowd::has_all));
    let missing = crowds.iter().filter(|crowd| !crowd.has_all()).map(|crowd| &crowd.what);
    assert!(have_all, "these did not go on: {:?}", missing.collect::<Vec<_>>());
    crowds.into_iter().for_each(|crowd| crowd.check(&sent));
}

#[test]
fn publishers_that_change_play_on() {
    let relay = Relay::start(2);
    let (mut publishers, mut crowds) = (Vec::new(), Vec::new());
    for (index, change) in CHANGES.into_iter().enumerate() {
        for lower in LOWERS {
            let stream = format!("{}-{index}", lower.name());
            let url = relay.rtsp_url(&stream);
            publishers.push(RtspPublisher::start(relay.rtsp, &url, lower, &changed(change)));
            relay.wait_online(&stream);
            crowds.push(Crowd::start(&relay, &stream, change));
        }
    }
    check_all(crowds);
    publishers.into_iter().for_each(RtspPublisher::stop);
    relay.stop();
}

#[test]
fn cameras_that_change_play_on() {
    let relay = Relay::start(2);
    let (mut cameras, mut crowds) = (Vec::new(), Vec::new());
    for (index, change) in CHANGES.into_iter().enumerate() {
        for (lower, rtp_type) in LOWERS.into_iter().zip(["0", "1"]) {
            let stream = format!("{}-{index}", lower.name());
            let camera = Camera::start_of(Habits::default(), changed(change));
            let added = relay.add(&stream, &camera.url(), &[("rtp_type", rtp_type)]);
            assert_eq!(added["code"], 0, "{added}");
            crowds.push(Crowd::start(&relay, &stream, change));
            cameras.push((format!("{stream}, {change:?}"), camera));
        }
    }
    check_all(crowds);
    for (what, camera) in &cameras {
        assert_told_of_no_loss(what, camera);
    }
    relay.stop();
}

/// Reports are of the sequence that is, in which nothing is missing: the first comes before the change,
/// the next one after it.
#[track_caller]
fn assert_told_of_no_loss(what: &str, camera: &Camera) {
    let connections = camera.connections();
    for track in 0..camera.media.formats.len() {
        let own = connections.iter().flat_map(|connection| &connection.rtcp);
        let own = own.filter(|(of, _)| *of == track).map(|(_, bytes)| {
            ReceiverReport::parse(bytes).unwrap_or_else(|fault| panic!("{what}: {fault}"))
        });
        let blocks: Vec<_> = own.flat_map(|report| report.blocks).collect();
        let [_, after @ ..] = &blocks[..] else { panic!("{what}: no report") };
        assert!(!after.is_empty(), "{what}: no report after the change");
        let sent = camera
            .media
            .packets
            .iter()
            .filter(|timed| timed.track == track && !timed.is_rtcp && timed.at_ms >= CHANGE_MS);
        let sent: Vec<Packet> =
            sent.map(|timed| Packet::parse(&timed.bytes).expect("made here")).collect();
        for block in after {
            let is_sent = sent.iter().any(|packet| {
                (packet.ssrc, packet.sequence) == (block.ssrc, block.highest_sequence as u16)
            });
            assert!(is_sent, "{what}: {block:08x?}");
            assert_eq!((block.cumulative_lost, block.fraction_lost), (0, 0), "{what}: {block:?}");
        }
    }
}
