//! Pulls over RTSP from cameras with habits: each one plays, over RTSP and FLV; and a pull that is
//! ended leaves nothing, wherever it had come to.

mod kit;

use std::time::Duration;

use kit::camera::{
    Access, Camera, Connection, Control, Cseq, Habits, KeepAlive, Loss, PlayAnswer, ServerPorts,
    Ssrc, Stage,
};
use kit::compare::{AtLeast, assert_never_steps_back};
use kit::config::RETRY_SOON;
use kit::ffmpeg::{Modern, decode_first_frames};
use kit::flv::Kind;
use kit::relay::{key, label};
use kit::rtp::ReceiverReport;
use kit::rtp_media::{Plan, Reported, Sets};
use kit::rtsp::Lower;
use kit::rtsp_player::RtspPlayer;
use kit::units::{self, WithinMs, assert_part_of, assert_same};
use kit::{LIVENESS, Player, Relay, wait_until};

/// About one second.
const SOME: AtLeast = AtLeast { video: 25, audio: 30 };

/// Times that are told.
const CLOSE: WithinMs = WithinMs(10.0);

/// Times that are guessed by arrival.
const GUESSED: WithinMs = WithinMs(200.0);

const OVER_TCP: (&str, &str) = ("rtp_type", "0");
const OVER_UDP: (&str, &str) = ("rtp_type", "1");

/// A pull under way, to be looked at while it lasts.
struct Pull {
    relay: Relay,
    camera: Camera,
}

impl Pull {
    #[track_caller]
    fn start(camera: Camera, more: &[(&str, &str)]) -> Self {
        let url = camera.url();
        Self::start_at(camera, &url, more)
    }

    #[track_caller]
    fn start_at(camera: Camera, url: &str, more: &[(&str, &str)]) -> Self {
        let relay = Relay::start(2);
        let added = relay.add("a", url, more);
        assert_eq!(added["code"], 0, "{added}");
        assert_eq!(added["data"]["key"], key("a"), "{added}");
        relay.wait_online("a");
        Self { relay, camera }
    }

    /// Players over FLV and RTSP get what the camera sends.
    #[track_caller]
    fn assert_plays(&self, at_least: AtLeast, within: WithinMs) {
        let flv = Player::http_flv(self.relay.http, "/live/a.live.flv");
        let rtsp = RtspPlayer::start(self.relay.rtsp, &self.relay.rtsp_url("a"), Lower::Tcp);
        for (kind, count) in [(Kind::Video, at_least.video), (Kind::Audio, at_least.audio)] {
            if count > 0 {
                flv.wait_frames(kind, count);
                rtsp.wait_units(kind, count);
            }
        }
        let sent = &self.camera.media.units;
        let tags = flv.stop();
        assert_never_steps_back("flv", &tags);
        assert_same("flv", sent, &units::of_tags(&tags), at_least, within);
        let recording = rtsp.stop();
        assert_same("rtsp", sent, &recording.units(), at_least, within);
    }

    /// The pull is deleted: the camera is left in an orderly way.
    #[track_caller]
    fn end(self) {
        assert_eq!(self.relay.delete("a")["data"]["flag"], true);
        self.camera.wait_all_closed();
        let last = self.camera.connections().pop().expect("there was one");
        assert_eq!(last.asked.last().map(String::as_str), Some("TEARDOWN"), "{last:?}");
        self.relay.stop();
    }
}

#[track_caller]
fn plays(habits: Habits, more: &[(&str, &str)]) {
    let pull = Pull::start(Camera::start(habits), more);
    pull.assert_plays(SOME, CLOSE);
    pull.end();
}

#[test]
fn camera_by_the_book_plays_over_tcp() {
    plays(Habits::default(), &[]);
}

#[test]
fn camera_by_the_book_plays_over_udp() {
    plays(Habits::default(), &[OVER_UDP]);
}

#[test]
fn answers_with_another_number_are_taken() {
    plays(Habits { cseq: Cseq::Wrong, ..Habits::default() }, &[]);
}

#[test]
fn answers_without_a_number_are_taken() {
    plays(Habits { cseq: Cseq::Missing, ..Habits::default() }, &[]);
}

#[test]
fn answers_with_the_name_of_the_number_in_another_case_are_taken() {
    for name in ["Cseq", "CSEQ", "cseq"] {
        plays(Habits { cseq: Cseq::Named(name), ..Habits::default() }, &[]);
    }
}

#[test]
fn play_answered_without_range_and_rtp_info_plays() {
    plays(Habits { tells_start: false, ..Habits::default() }, &[]);
    plays(Habits { tells_start: false, ..Habits::default() }, &[OVER_UDP]);
}

#[test]
fn stray_packets_and_media_before_the_answer_play() {
    plays(Habits { stray: true, ..Habits::default() }, &[]);
}

#[test]
fn play_answered_after_media_began_plays() {
    let habits = Habits { play_answer: PlayAnswer::Late, ..Habits::default() };
    plays(habits.clone(), &[]);
    plays(habits, &[OVER_UDP]);
}

/// A session of 1 s that is played for 3 s.
#[track_caller]
fn plays_unanswered(more: &[(&str, &str)]) {
    let timeout = Some(Duration::from_secs(1));
    let habits = Habits { play_answer: PlayAnswer::Never, timeout, ..Habits::default() };
    let pull = Pull::start(Camera::start(habits), more);
    pull.assert_plays(AtLeast { video: 80, audio: 100 }, CLOSE);
    let [connection] = &pull.camera.connections()[..] else { panic!("it came back") };
    assert!(!connection.is_timed_out && signs_of_life(connection).len() >= 2, "{connection:?}");
    pull.end();
}

#[test]
fn play_that_is_never_answered_plays_and_is_kept_alive() {
    plays_unanswered(&[]);
    plays_unanswered(&[OVER_UDP]);
}

#[test]
fn back_channel_is_not_set_up() {
    for more in [&[][..], &[OVER_UDP]] {
        let camera = Camera::start(Habits { back_channel: true, ..Habits::default() });
        let pull = Pull::start(camera, more);
        pull.assert_plays(SOME, CLOSE);
        let own = [1, 2].map(|track| format!("{}/track{track}", pull.camera.url()));
        assert_eq!(pull.camera.connections()[0].set_up, own);
        pull.end();
    }
}

#[test]
fn multicast_is_refused_by_its_name() {
    let relay = Relay::start(1);
    let start = relay.holdings();
    let camera = Camera::start(Habits { multicast: true, ..Habits::default() });
    for (more, text) in [
        (OVER_UDP, "server sends to a multicast address, which is not pulled from"),
        (OVER_TCP, "server answers SETUP with a transport that was not asked for"),
    ] {
        let reply = relay.add("a", &camera.url(), &[more]);
        assert_eq!(reply["code"], -1, "{reply}");
        assert!(reply["msg"].as_str().is_some_and(|msg| msg.contains(text)), "{reply}");
        let reply = relay.add("a", &camera.url(), &[more, ("async", "1"), ("force", "1")]);
        assert_eq!(reply["code"], 0, "{reply}");
        let mut proxy = None;
        wait_until(LIVENESS, "the first try fails", || {
            proxy = relay.proxy("a");
            proxy.as_ref().is_some_and(|proxy| proxy["lastError"].is_string())
        });
        let proxy = proxy.expect("it is kept");
        assert_eq!(proxy["errorClass"], "protocol_error", "{proxy}");
        assert!(proxy["lastError"].as_str().is_some_and(|error| error.contains(text)), "{proxy}");
        assert_eq!(relay.delete("a")["data"]["flag"], true);
        camera.wait_all_closed();
    }
    relay.assert_back_to(&start, "refused");
    relay.stop();
}

#[test]
fn transport_with_blanks_plays() {
    plays(Habits { spaced_transport: true, ..Habits::default() }, &[]);
    plays(Habits { spaced_transport: true, ..Habits::default() }, &[OVER_UDP]);
}

#[test]
fn relative_control_without_a_base_plays() {
    plays(Habits { control: Control::RelativeWithoutBase, ..Habits::default() }, &[]);
}

#[test]
fn absolute_control_plays() {
    plays(Habits { control: Control::Absolute, ..Habits::default() }, &[]);
}

#[test]
fn relative_control_behind_an_absolute_one_plays() {
    let camera = Camera::start(Habits { control: Control::BehindAbsolute, ..Habits::default() });
    let url = format!("{}?ch=1", camera.url());
    let pull = Pull::start_at(camera, &url, &[]);
    pull.assert_plays(SOME, CLOSE);
    let own = [1, 2].map(|track| format!("{}/track{track}", pull.camera.url()));
    assert_eq!(pull.camera.connections()[0].set_up, own);
    pull.end();
}

#[test]
fn track_without_control_plays() {
    let camera = Camera::start(Habits { control: Control::AggregateOnly, ..Habits::default() });
    let pull = Pull::start(camera, &[]);
    pull.assert_plays(AtLeast { video: 25, audio: 0 }, CLOSE);
    pull.end();
}

#[test]
fn tracks_that_are_played_one_by_one_play() {
    plays(Habits { control: Control::PerTrack, ..Habits::default() }, &[]);
}

/// The user and password of the camera, in a URL.
fn with_user(camera: &Camera, password: &str) -> String {
    camera.url().replace("rtsp://", &format!("rtsp://admin:{password}@"))
}

#[track_caller]
fn plays_with_password(access: Access, checks_options: bool) {
    let habits = Habits { access: Some(access), checks_options, ..Habits::default() };
    let camera = Camera::start(habits);
    let url = with_user(&camera, "p%40ss%3Aword");
    let pull = Pull::start_at(camera, &url, &[]);
    pull.assert_plays(SOME, CLOSE);
    pull.end();
}

#[test]
fn password_is_proven_by_basic() {
    plays_with_password(Access::Basic, false);
}

#[test]
fn password_is_proven_by_digest_md5() {
    plays_with_password(Access::DigestMd5, true);
}

#[test]
fn password_is_proven_by_digest_md5_with_qop() {
    plays_with_password(Access::DigestQop, false);
}

#[test]
fn password_is_proven_by_digest_sha256() {
    plays_with_password(Access::DigestSha256, true);
}

#[test]
fn password_is_proven_by_digest_sha256_with_qop() {
    plays_with_password(Access::DigestSha256Qop, true);
}

#[test]
fn password_is_proven_by_the_strongest_of_several_challenges() {
    plays_with_password(Access::Several, false);
}

/// A session of 2 s with a nonce that is too old after 3 s, played for 7 s: of what keeps it alive one
/// is refused.
#[test]
fn nonce_that_becomes_stale_while_it_plays_is_changed() {
    for (access, cseq, more) in [
        (Access::DigestMd5, Cseq::Echoed, &[][..]),
        (Access::DigestSha256Qop, Cseq::Echoed, &[OVER_UDP]),
        (Access::Several, Cseq::Wrong, &[]),
    ] {
        let habits = Habits {
            access: Some(access),
            checks_options: true,
            stale_after: Some(Duration::from_secs(3)),
            timeout: Some(Duration::from_secs(2)),
            cseq,
            ..Habits::default()
        };
        let camera = Camera::start(habits);
        let url = with_user(&camera, "p%40ss%3Aword");
        let pull = Pull::start_at(camera, &url, more);
        pull.assert_plays(AtLeast { video: 170, audio: 200 }, CLOSE);
        let [connection] = &pull.camera.connections()[..] else { panic!("it came back") };
        assert_eq!(connection.stale, ["OPTIONS"], "{access:?}");
        assert!(!connection.is_timed_out, "{access:?}");
        pull.end();
    }
}

#[test]
fn password_can_be_told_beside_the_url() {
    let camera = Camera::start(Habits { access: Some(Access::DigestMd5), ..Habits::default() });
    let user = [("rtsp_user", "admin"), ("rtsp_pwd", "p@ss:word")];
    let pull = Pull::start(camera, &user);
    pull.assert_plays(SOME, CLOSE);
    pull.end();
}

#[test]
fn wrong_password_is_told_and_tried_once() {
    let habits = Habits { access: Some(Access::DigestMd5), ..Habits::default() };
    let camera = Camera::start(habits);
    let relay = Relay::start(2);
    let start = relay.holdings();
    let reply = relay.add("a", &with_user(&camera, "guess"), &[]);
    assert_eq!(reply["code"], -1, "{reply}");
    let message = reply["msg"].as_str().unwrap_or_default();
    assert!(!message.is_empty() && !message.contains("guess"), "{reply}");
    camera.wait_all_closed();
    let asked = camera.connections().pop().expect("there was one").asked;
    let tries = asked.iter().filter(|method| *method == "DESCRIBE").count();
    assert!(tries <= 2, "a camera locks out who guesses: {asked:?}");
    relay.assert_back_to(&start, "refused");
    relay.stop();
}

#[test]
fn redirect_is_followed() {
    for redirect_status in [301, 302] {
        let target = Camera::start(Habits::default());
        let redirect = Some(target.url());
        let first = Camera::start(Habits { redirect, redirect_status, ..Habits::default() });
        let pull = Pull::start_at(target, &first.url(), &[]);
        pull.assert_plays(SOME, CLOSE);
        assert_eq!(first.open_count(), 0, "the first one is left");
        pull.end();
    }
}

/// Its players stay, and the session there is ended.
#[test]
fn redirect_while_it_plays_is_followed() {
    let target = Camera::start(Habits::default());
    let redirect_later = Some((Duration::from_millis(2500), target.url()));
    let first = Camera::start(Habits { redirect_later, ..Habits::default() });
    let pull = Pull::start_at(target, &first.url(), &[]);
    let flv = Player::http_flv(pull.relay.http, "/live/a.live.flv");
    flv.wait_frames(Kind::Video, 40);
    pull.camera.wait_reached(0, Stage::Media);
    first.wait_all_closed();
    assert_eq!(first.connections().len(), 1, "it was not asked again");
    let asked = &first.connections()[0].asked;
    assert_eq!(asked.last().map(String::as_str), Some("TEARDOWN"), "{asked:?}");
    flv.wait_more_frames(Kind::Video, 30);
    flv.assert_open();
    assert_never_steps_back("flv", &flv.stop());
    pull.end();
}

#[test]
fn redirect_without_end_is_given_up() {
    let camera = Camera::start(Habits::default());
    camera.set(Habits { redirect: Some(camera.url()), ..Habits::default() });
    let relay = Relay::start(1);
    let reply = relay.add("a", &camera.url(), &[]);
    assert_eq!(reply["code"], -1, "{reply}");
    camera.wait_all_closed();
    let count = camera.connections().len();
    assert!((2..=12).contains(&count), "{count} connections");
    relay.stop();
}

/// What was asked once it played.
fn signs_of_life(connection: &Connection) -> Vec<&str> {
    let later = connection.asked.iter().skip_while(|method| *method != "PLAY").skip(1);
    later.map(String::as_str).collect()
}

/// A session of 2 s that is played for 7 s.
#[track_caller]
fn stays_alive(keep_alive: KeepAlive, cseq: Cseq, more: &[(&str, &str)]) {
    let timeout = Some(Duration::from_secs(2));
    let habits = Habits { timeout, keep_alive, cseq, ..Habits::default() };
    let pull = Pull::start(Camera::start(habits), more);
    pull.assert_plays(AtLeast { video: 170, audio: 200 }, CLOSE);
    let connections = pull.camera.connections();
    assert_eq!(connections.len(), 1, "{connections:?}");
    assert!(!connections[0].is_timed_out);
    let signs = signs_of_life(&connections[0]);
    let (first, rest) = match keep_alive {
        KeepAlive::Any => ("OPTIONS", "OPTIONS"),
        KeepAlive::GetParameter => ("GET_PARAMETER", "GET_PARAMETER"),
        // What it offers is tried.
        KeepAlive::OptionsOnly => ("GET_PARAMETER", "OPTIONS"),
    };
    assert!(signs.len() >= 5 && signs[0] == first, "{signs:?}");
    assert!(signs[1..].iter().all(|method| *method == rest), "{signs:?}");
    pull.end();
}

#[test]
fn session_is_kept_alive() {
    stays_alive(KeepAlive::Any, Cseq::Echoed, &[]);
}

#[test]
fn session_is_kept_alive_over_udp_by_get_parameter() {
    stays_alive(KeepAlive::GetParameter, Cseq::Echoed, &[OVER_UDP]);
}

#[test]
fn session_is_kept_alive_by_options_where_get_parameter_is_refused() {
    stays_alive(KeepAlive::OptionsOnly, Cseq::Echoed, &[]);
}

#[test]
fn session_is_kept_alive_by_options_where_the_refusal_has_another_number() {
    stays_alive(KeepAlive::OptionsOnly, Cseq::Wrong, &[]);
}

/// Its ports are learned of what comes from them, RTCP's of that of RTP where none comes.
#[test]
fn ports_that_are_not_told_are_reported_to() {
    let reported = Plan::default();
    let silent = Plan { report_after_ms: 60_000, ..reported };
    for (server_ports, plan) in [
        (ServerPorts::Untold, reported),
        (ServerPorts::Untold, silent),
        (ServerPorts::UntoldApart, reported),
    ] {
        let habits = Habits { server_ports, ..Habits::default() };
        let pull = Pull::start(Camera::start_with(habits, "av.flv", plan), &[OVER_UDP]);
        pull.assert_plays(SOME, CLOSE);
        let what = format!("{server_ports:?}, reports after {} ms", plan.report_after_ms);
        let is_reported_to = |connection: &Connection, of: usize| {
            let reports = connection.rtcp.iter().filter(|(track, _)| *track == of);
            let reports = reports.map(|(_, bytes)| ReceiverReport::parse(bytes));
            let mut reports = reports.map(|report| report.expect("a report"));
            reports.any(|report| !report.blocks.is_empty())
        };
        wait_until(LIVENESS, &format!("{what}: reports on both tracks"), || {
            let connection = &pull.camera.connections()[0];
            [0, 1].into_iter().all(|track| is_reported_to(connection, track))
        });
        let connection = &pull.camera.connections()[0];
        let is_opened = |of| connection.rtp.iter().any(|(track, _)| *track == of);
        assert!([0, 1].into_iter().all(is_opened), "{what}: {:?}", connection.rtp);
        pull.end();
    }
}

#[test]
fn udp_that_is_refused_gives_way_to_tcp() {
    plays(Habits { udp_refused: true, ..Habits::default() }, &[OVER_UDP]);
}

#[test]
fn announced_ssrc_plays() {
    plays(Habits { ssrc: Ssrc::True, ..Habits::default() }, &[OVER_UDP]);
}

#[test]
fn announced_ssrc_that_is_not_so_plays() {
    plays(Habits { ssrc: Ssrc::False, ..Habits::default() }, &[]);
    plays(Habits { ssrc: Ssrc::False, ..Habits::default() }, &[OVER_UDP]);
}

#[test]
fn packets_of_type_50_are_skipped() {
    plays(Habits { payload_type_50: true, ..Habits::default() }, &[]);
}

#[track_caller]
fn plays_plan(file: &str, plan: Plan, tells_start: bool, within: WithinMs) {
    let habits = Habits { tells_start, ..Habits::default() };
    let pull = Pull::start(Camera::start_with(habits, file, plan), &[]);
    pull.assert_plays(SOME, within);
    pull.end();
}

#[test]
fn sender_reports_that_never_come_play() {
    let plan = Plan { report_after_ms: 60_000, audio_late_ms: 150, ..Plan::default() };
    plays_plan("av.flv", plan, true, CLOSE);
    plays_plan("av.flv", Plan { audio_late_ms: 0, ..plan }, false, GUESSED);
}

/// By `RTP-Info`, where both tracks begin together whatever arrives late; without it by arrival.
#[test]
fn sender_reports_of_one_track_alone_play() {
    for kind in [Kind::Video, Kind::Audio] {
        let plan = Plan { reported: Reported::Only(kind), ..Plan::default() };
        plays_plan("av.flv", Plan { audio_late_ms: 150, ..plan }, true, CLOSE);
        plays_plan("av.flv", plan, false, GUESSED);
    }
}

#[test]
fn parameter_sets_in_the_description_alone_play() {
    let plan = Plan { sets: Sets::DescriptionOnly, ..Plan::default() };
    plays_plan("av.flv", plan, true, CLOSE);
    plays_plan("hevc_aac.flv", plan, true, CLOSE);
}

#[test]
fn parameter_sets_in_band_alone_play() {
    let plan = Plan { sets: Sets::InBandOnly, ..Plan::default() };
    plays_plan("av.flv", plan, true, CLOSE);
    plays_plan("hevc_aac.flv", plan, true, CLOSE);
}

/// Nothing but they tell what the pictures are like: whoever comes later gets those of the GOP first.
#[test]
fn parameter_sets_under_their_own_timestamp_play() {
    let plan = Plan { sets: Sets::InBandOnly, sets_apart: true, ..Plan::default() };
    for (file, sets) in [("av.flv", &[7, 8][..]), ("hevc_aac.flv", &[32, 33, 34])] {
        let pull = Pull::start(Camera::start_with(Habits::default(), file, plan), &[]);
        pull.assert_plays(AtLeast { video: 60, audio: 60 }, CLOSE);
        let player = RtspPlayer::start(pull.relay.rtsp, &pull.relay.rtsp_url("a"), Lower::Udp);
        player.wait_units(Kind::Video, 5);
        let recording = player.stop();
        let packets = &recording.tracks[0].packets;
        let is_h264 = file == "av.flv";
        let kind = |first: u8| if is_h264 { first & 0x1f } else { first >> 1 & 0x3f };
        let kinds: Vec<u8> = packets.iter().map(|packet| kind(packet.payload[0])).collect();
        assert_eq!(&kinds[..sets.len()], sets, "{file}");
        assert_ne!(packets[0].timestamp, packets[sets.len()].timestamp, "{file}");
        decode_first_frames(Modern::Yes, &pull.relay.flv_url("a"), 5);
        let list = pull.relay.api("getMediaList", &[("stream", "a"), ("schema", "rtsp")]);
        let video = &list["data"][0]["tracks"][0];
        assert_eq!((&video["ready"], &video["width"]), (&true.into(), &640.into()), "{list}");
        // The last B-frames of a GOP of this H.265 are sent behind the next keyframe.
        let gop_sizes = if is_h264 { 25..=25 } else { 24..=26 };
        let gop_size = video["gop_size"].as_u64();
        assert!(gop_size.is_some_and(|size| gop_sizes.contains(&size)), "{list}");
        pull.end();
    }
}

#[test]
fn packets_out_of_order_are_put_in_order() {
    plays(Habits { loss: Loss::Reordered, ..Habits::default() }, &[OVER_UDP]);
}

/// The parameter sets of the first keyframe are in packets of their own.
#[test]
fn first_packets_out_of_order_are_put_in_order() {
    for tells_start in [true, false] {
        let habits = Habits { loss: Loss::FirstReordered, tells_start, ..Habits::default() };
        let (relay, camera) = (Relay::start(2), Camera::start(habits));
        let added = relay.add("a", &camera.url(), &[OVER_UDP, ("async", "1"), ("force", "1")]);
        assert_eq!(added["code"], 0, "{added}");
        // It waits for the camera, or is in its first GOP.
        let player = RtspPlayer::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp);
        player.wait_units(Kind::Video, 10);
        let first = player.stop().tracks.swap_remove(0).packets.swap_remove(0);
        let sent = &camera.media.rtp(0)[0];
        assert_eq!((first.sequence, &first.payload), (sent.sequence, &sent.payload));
        relay.stop();
    }
}

/// It comes back with the same description, and its pictures do not come: sound goes on, for players who were
/// kept and for new ones.
#[test]
fn camera_that_returns_with_sound_alone_plays() {
    let config = "[pull]\nretry_base_ms = 200\nretry_step_ms = 200\n\
        [stream]\nreconnect_grace_ms = 30000\n";
    let relay = Relay::start_with(2, config);
    let camera = Camera::start(Habits { drop: Some(Stage::Media), ..Habits::default() });
    assert_eq!(relay.add("a", &camera.url(), &[("force", "1")])["code"], 0);
    let kept = (
        Player::http_flv(relay.http, "/live/a.live.flv"),
        RtspPlayer::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp),
    );
    camera.set(Habits { silent_track: Some(0), ..Habits::default() });
    kept.0.wait_frames(Kind::Audio, 120);
    kept.1.wait_units(Kind::Audio, 120);
    let new = (
        Player::http_flv(relay.http, "/live/a.live.flv"),
        RtspPlayer::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp),
    );
    new.0.wait_frames(Kind::Audio, 20);
    new.1.wait_units(Kind::Audio, 20);
    for (flv, rtsp) in [kept, new] {
        assert_never_steps_back("flv", &flv.stop());
        rtsp.stop();
    }
    relay.stop();
}

#[test]
fn lost_packets_leave_whole_pictures() {
    let habits = Habits { loss: Loss::Lost, ..Habits::default() };
    let pull = Pull::start(Camera::start(habits), &[OVER_UDP]);
    let flv = Player::http_flv(pull.relay.http, "/live/a.live.flv");
    flv.wait_frames(Kind::Video, 60);
    flv.wait_frames(Kind::Audio, 60);
    let tags = flv.stop();
    assert_never_steps_back("flv", &tags);
    let got = units::of_tags(&tags);
    let sent = &pull.camera.media.units;
    let lost = [Kind::Video, Kind::Audio].map(|kind| assert_part_of("flv", sent, &got, kind));
    assert!(lost[0] + lost[1] > 0, "nothing was lost");
    pull.end();
}

#[test]
fn absurd_descriptions_end_their_own_attempt_alone() {
    let relay = Relay::start(2);
    let start = relay.holdings();
    let good = Camera::start(Habits::default());
    assert_eq!(relay.add("b", &good.url(), &[])["code"], 0);
    relay.wait_online("b");
    let player = RtspPlayer::start(relay.rtsp, &relay.rtsp_url("b"), Lower::Tcp);
    let sections = "m=audio 0 RTP/AVP 0\r\n".repeat(2000);
    let table =
        ["v=0\r\n", "\u{0}\u{1}=\u{2}", &sections, &"a=x\r\n".repeat(9000), &"x".repeat(200_000)];
    let mut count = 0;
    for text in table {
        let absurd = Some(text.to_owned());
        let camera = Camera::start(Habits { absurd, ..Habits::default() });
        let head = text.get(..20).unwrap_or(text);
        let reply = relay.add("a", &camera.url(), &[]);
        assert_eq!(reply["code"], -1, "{head}: {reply}");
        camera.wait_all_closed();
        count += 1;
        let failed = relay.samples("rillcast_attempts_failed_total");
        let of_class = failed.into_iter().find(|(of, _)| label(of, "class") == "protocol_error");
        assert_eq!(of_class.expect("its class").1, count, "{head}");
    }
    player.wait_units(Kind::Video, 30);
    drop(player);
    assert_eq!(relay.delete("b")["data"]["flag"], true);
    good.wait_all_closed();
    relay.assert_back_to(&start, "nothing is left of them");
    relay.stop();
}

#[test]
fn silent_camera_is_told() {
    let camera = Camera::start(Habits { is_silent: true, ..Habits::default() });
    let relay = Relay::start(1);
    let start = relay.holdings();
    for more in [&[("media_timeout_ms", "500")][..], &[("media_timeout_ms", "500"), OVER_UDP]] {
        let reply = relay.add("a", &camera.url(), more);
        assert_eq!(reply["code"], -1, "{reply}");
        assert!(reply["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{reply}");
        camera.wait_all_closed();
    }
    relay.assert_back_to(&start, "the silent ones are given up");
    relay.stop();
}

#[test]
fn camera_that_closes_anywhere_is_tried_again() {
    let relay = Relay::start_with(2, RETRY_SOON);
    for more in [&[("async", "1"), ("force", "1")][..], &[("async", "1"), ("force", "1"), OVER_UDP]]
    {
        for stage in Stage::ALL {
            let camera = Camera::start(Habits { drop: Some(stage), ..Habits::default() });
            let reply = relay.add("a", &camera.url(), more);
            assert_eq!(reply["code"], 0, "{stage:?}: {reply}");
            wait_until(LIVENESS, &format!("{stage:?}: a second attempt"), || {
                camera.connections().len() >= 2
            });
            camera.set(Habits::default());
            relay.wait_online("a");
            let player = Player::http_flv(relay.http, "/live/a.live.flv");
            player.wait_frames(Kind::Video, 5);
            drop(player);
            assert_eq!(relay.delete("a")["data"]["flag"], true, "{stage:?}");
            camera.wait_all_closed();
        }
    }
    relay.stop();
}
