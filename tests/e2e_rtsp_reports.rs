//! RTCP of pulls, both ways: what a camera is told of the packets that came, and what its sender reports
//! tell of its clocks where they come late.

mod kit;

use std::collections::BTreeSet;

use kit::camera::{Camera, Connection, Habits, Loss};
use kit::compare::{AtLeast, assert_never_steps_back};
use kit::flv::Kind;
use kit::gst_server::GstServer;
use kit::rtp::{ReceiverReport, sender_reports};
use kit::rtp_media::{Media, Plan};
use kit::rtsp::Lower;
use kit::rtsp_peers::Clip;
use kit::rtsp_player::RtspPlayer;
use kit::rtsp_publisher::RtspPublisher;
use kit::units::{self, WithinMs, assert_same, settled};
use kit::{LIVENESS, Player, Relay, wait_until};

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

fn rtp_type(lower: Lower) -> (&'static str, &'static str) {
    ("rtp_type", if lower == Lower::Tcp { "0" } else { "1" })
}

/// What a source was told, each report with its track.
#[track_caller]
fn reports(rtcp: &[(usize, Vec<u8>)]) -> Vec<(usize, ReceiverReport)> {
    let read = |(track, bytes): &(usize, Vec<u8>)| {
        (*track, ReceiverReport::parse(bytes).unwrap_or_else(|fault| panic!("{fault}")))
    };
    rtcp.iter().map(read).collect()
}

/// Both tracks have been told of.
fn tells_all(rtcp: &[(usize, Vec<u8>)]) -> bool {
    let reports = reports(rtcp);
    let is_of = |track| reports.iter().any(|(of, told)| *of == track && !told.blocks.is_empty());
    is_of(0) && is_of(1)
}

#[track_caller]
fn only_connection(camera: &Camera) -> Connection {
    let mut connections = camera.connections();
    assert_eq!(connections.len(), 1, "{connections:?}");
    connections.remove(0)
}

/// The first report of each track, which is about all that came until then, tells exactly what is
/// missing.
#[track_caller]
fn assert_reported(what: &str, connection: &Connection, media: &Media) {
    let reports = reports(&connection.rtcp);
    let own: BTreeSet<u32> = reports.iter().map(|(_, report)| report.ssrc).collect();
    assert_eq!(own.len(), 1, "{what}: one receiver, {reports:08x?}");
    let mut lost_in_all = 0;
    for track in 0..media.formats.len() {
        let sent = media.rtp(track);
        let first = &sent[0];
        assert!(!own.contains(&first.ssrc), "{what}: its own SSRC comes back");
        let mut of_track = reports.iter().filter(|(of, _)| *of == track);
        let block = of_track.find_map(|(_, report)| report.blocks.first());
        let block = block.unwrap_or_else(|| panic!("{what}: {reports:08x?}"));
        assert_eq!(block.ssrc, first.ssrc, "{what}: {block:08x?}");
        let count = block.highest_sequence - u32::from(first.sequence) + 1;
        assert!(count >= 50, "{what}: of {count} packets");
        let is_told = |(of, sequence): &&(usize, u16)| {
            *of == track && u32::from(sequence.wrapping_sub(first.sequence)) < count
        };
        let lost = connection.lost.iter().filter(is_told).count() as u32;
        assert_eq!(block.cumulative_lost, lost, "{what}: {block:?}");
        assert_eq!(u32::from(block.fraction_lost), lost * 256 / count, "{what}: {block:?}");
        lost_in_all += lost;
        let told = media.packets.iter().filter(|timed| timed.is_rtcp && timed.track == track);
        let told = told.flat_map(|timed| sender_reports(&timed.bytes).expect("made here"));
        let mut middles = told.map(|report| (report.ntp >> 16) as u32);
        assert!(middles.any(|middle| middle == block.last_report), "{what}: {block:08x?}");
    }
    assert!(lost_in_all >= 3, "{what}: {lost_in_all} packets were lost");
}

#[test]
fn camera_is_told_of_its_loss_under_our_own_ssrc() {
    let relay = Relay::start(2);
    let cameras = LOWERS.map(|lower| {
        let camera = Camera::start(Habits { loss: Loss::Lost, ..Habits::default() });
        let added = relay.add(lower.name(), &camera.url(), &[rtp_type(lower)]);
        assert_eq!(added["code"], 0, "{added}");
        camera
    });
    for (camera, lower) in cameras.iter().zip(LOWERS) {
        let what = lower.name();
        wait_until(LIVENESS, &format!("{what}: a report about each track"), || {
            tells_all(&only_connection(camera).rtcp)
        });
        assert_reported(what, &only_connection(camera), &camera.media);
    }
    relay.stop();
}

#[test]
fn publisher_is_told_of_its_tracks_under_our_own_ssrc() {
    let relay = Relay::start(2);
    let media = Media::of("av.flv", Plan::default());
    let publishers = LOWERS.map(|lower| {
        RtspPublisher::start(relay.rtsp, &relay.rtsp_url(lower.name()), lower, &media)
    });
    for (publisher, lower) in publishers.into_iter().zip(LOWERS) {
        let what = lower.name();
        wait_until(LIVENESS, &format!("{what}: a report about each track"), || {
            tells_all(&publisher.rtcp())
        });
        let reports = reports(&publisher.rtcp());
        let own: BTreeSet<u32> = reports.iter().map(|(_, report)| report.ssrc).collect();
        assert_eq!(own.len(), 1, "{what}: one receiver, {reports:08x?}");
        for (track, report) in &reports {
            let sent = media.rtp(*track)[0].ssrc;
            assert!(!own.contains(&sent), "{what}: its own SSRC comes back");
            for block in &report.blocks {
                let told = (block.ssrc, block.fraction_lost, block.cumulative_lost);
                assert_eq!(told, (sent, 0, 0), "{what}: {block:08x?}");
            }
        }
        publisher.stop();
    }
    relay.stop();
}

/// It would take its own SSRC in our reports for a collision, change it, and end the streams.
#[test]
fn server_of_gstreamer_is_content_with_our_reports() {
    let clip = Clip::of("av.flv").into_matroska();
    let server = GstServer::start(&clip);
    let relay = Relay::start(2);
    let players = LOWERS.map(|lower| {
        let added = relay.add(lower.name(), &server.url, &[rtp_type(lower)]);
        assert_eq!(added["code"], 0, "{added}");
        Player::http_flv(relay.http, &format!("/live/{}.live.flv", lower.name()))
    });
    let of_log = |text: &str| -> Vec<String> {
        let log = server.log();
        let found = log.lines().filter_map(|line| Some(line.split_once(text)?.1.to_owned()));
        found.collect()
    };
    wait_until(LIVENESS, "a report about each track of both", || {
        of_log("rtp_source_process_rb: got RB packet: ").len() >= 4
    });
    for block in of_log("rtp_source_process_rb: got RB packet: ") {
        assert!(block.contains(" FL  0, PL 0,"), "{block}");
    }
    for fault in ["Collision for SSRC", "looped back"] {
        assert_eq!(of_log(fault), Vec::<String>::new(), "{fault}");
    }
    for player in players {
        player.wait_frames(Kind::Video, 90);
        let what = player.what().to_owned();
        let tags = player.stop();
        assert_never_steps_back(&what, &tags);
        // Its first two pictures are a sound of AAC early, by their timestamps already.
        let units = settled(&units::of_tags(&tags), 900.0);
        assert_same(&what, &clip.units, &units, SOME, CLOSE);
    }
    relay.stop();
}

/// A camera without `RTP-Info`, whose tracks lie where they arrive until their reports come.
struct Late {
    camera: Camera,
    /// From so long after its first picture on it must be right.
    settled_ms: f64,
    players: [Player; 2],
    rtsp: RtspPlayer,
}

impl Late {
    #[track_caller]
    fn start(relay: &Relay, plan: Plan, settled_ms: f64) -> Self {
        let Plan { audio_late_ms, video_from_ms, report_after_ms, .. } = plan;
        let stream = format!("sound{audio_late_ms}-from{video_from_ms}-report{report_after_ms}");
        Self::start_of(relay, &stream, Media::of("av.flv", plan), settled_ms)
    }

    #[track_caller]
    fn start_of(relay: &Relay, stream: &str, media: Media, settled_ms: f64) -> Self {
        let habits = Habits { tells_start: false, ..Habits::default() };
        let camera = Camera::start_of(habits, media);
        let added = relay.add(stream, &camera.url(), &[]);
        assert_eq!(added["code"], 0, "{added}");
        let players = [
            Player::http_flv(relay.http, &format!("/live/{stream}.live.flv")),
            Player::rtmp(relay.rtmp, "live", stream),
        ];
        let rtsp = RtspPlayer::start(relay.rtsp, &relay.rtsp_url(stream), Lower::Tcp);
        Self { camera, settled_ms, players, rtsp }
    }

    #[track_caller]
    fn check(self) {
        let Self { camera, settled_ms, players, rtsp } = self;
        let sent = &camera.media.units;
        for player in players {
            player.wait_frames(Kind::Video, PICTURES);
            let what = player.what().to_owned();
            let tags = player.stop();
            assert_never_steps_back(&what, &tags);
            let units = settled(&units::of_tags(&tags), settled_ms);
            assert_same(&what, sent, &units, SOME, CLOSE);
        }
        rtsp.wait_units(Kind::Video, PICTURES);
        let what = rtsp.what().to_owned();
        let mut recording = rtsp.stop();
        // What goes beside carries no units.
        recording.tracks.truncate(2);
        let units = settled(&recording.units(), settled_ms);
        assert_same(&what, sent, &units, SOME, CLOSE);
    }
}

/// Reports that come within half a second have each unit from the end of the first second on where it
/// belongs, whatever was late: sound is moved back and ahead, and so are pictures with B-frames where
/// sound comes first.
#[test]
fn sender_reports_that_come_late_put_tracks_together() {
    let relay = Relay::start(2);
    let cases = [
        (15, 0, 500, 900.0),
        (150, 0, 500, 900.0),
        (-150, 0, 500, 900.0),
        (150, 1000, 1500, 900.0),
        (-150, 1000, 1500, 900.0),
        (150, 0, 1500, 1900.0),
    ];
    let late = cases.map(|(audio_late_ms, video_from_ms, report_after_ms, settled_ms)| {
        let plan = Plan { audio_late_ms, video_from_ms, report_after_ms, ..Plan::default() };
        Late::start(&relay, plan, settled_ms)
    });
    late.into_iter().for_each(Late::check);
    relay.stop();
}

/// It tells nothing of their clocks.
#[test]
fn metadata_that_comes_first_keeps_sound_and_pictures_not_apart() {
    let relay = Relay::start(2);
    let plan = Plan { audio_late_ms: 150, report_after_ms: 500, ..Plan::default() };
    let media = Media::of("av.flv", plan).with_metadata();
    assert_eq!(media.packets[0].track, 2);
    Late::start_of(&relay, "metadata", media, 900.0).check();
    relay.stop();
}

/// 4.4 s
const PICTURES: usize = 110;

const SOME: AtLeast = AtLeast { video: 25, audio: 30 };

const CLOSE: WithinMs = WithinMs(10.0);
