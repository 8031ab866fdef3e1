//! Pulls whose sources bring tags and packets, with players of both, on a virtual clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::pull_tests::{HERE, NOWHERE, Scene, TIMEOUT, key};
use super::{Policy, Stage};
use crate::bus::event::What;
use crate::bus::message::{Answer, Ask, IdleClose, PullOptions};
use crate::bus::view::PublisherView;
use crate::config::Config;
use crate::media::state::{ErrorClass, StreamState};
use crate::media::{AttemptId, ConnectionId, Form, MediaPart, SourceUrl, TagKind};
use crate::proto::rtp::{Gap, RtpHeader, RtpPacket, RtpPart};
use crate::proto::rtsp::{LowerTransport, SessionDescription};
use crate::stream::Packaging;

const HEDGE: Duration = Duration::from_millis(300);
/// As long as a source must have served for the others to be tried at once.
const SERVED: Duration = Duration::from_secs(2);

const AVC: &[u8] =
    b"\x17\0\0\0\0\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\
    \x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";
const KEYFRAME: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65\x88";
const SOUND: &[u8] = &[0x72, 1, 2, 3];

const H264: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA==\r\n";
const OTHER_SETS: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 sprop-parameter-sets=Z2QAHqzZQKAv+XARAAADAAEAAAMAMg8WLZY=,aOvjyyLA\r\n";
const OTHER_CLOCK: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/1000\r\n";

fn urls(texts: &[&str]) -> Vec<Arc<SourceUrl>> {
    texts.iter().map(|text| Arc::new(SourceUrl::parse(text, false).unwrap())).collect()
}

fn options(hedge: Duration) -> PullOptions {
    PullOptions {
        retries_max: None,
        force: true,
        no_wait: false,
        timeout: TIMEOUT,
        media_timeout: TIMEOUT,
        hedge,
        rtp_transport: LowerTransport::Tcp,
        idle_close: IdleClose::default(),
        asked_by: None,
    }
}

fn added(texts: &[&str], hedge: Duration) -> Scene {
    let mut scene = Scene::new(1);
    scene.ask(Ask::AddPull { key: key("a"), urls: urls(texts), options: options(hedge) });
    scene
}

/// The attempt that was dialed as the nth.
fn attempt(scene: &Scene, index: usize) -> AttemptId {
    scene.dialed[index].0
}

/// A keyframe with its configuration, and sound: all tracks of a source of tags.
fn picture(scene: &mut Scene, of: AttemptId) {
    scene.tag_of(of, TagKind::Video, AVC);
    scene.tag_of(of, TagKind::Video, KEYFRAME);
    scene.tag_of(of, TagKind::Audio, SOUND);
    scene.turn();
}

fn begin(scene: &mut Scene, of: AttemptId) {
    begin_as(scene, of, H264);
}

fn begin_as(scene: &mut Scene, of: AttemptId, sdp: &str) {
    let description = SessionDescription::parse(sdp.as_bytes()).unwrap();
    assert!(scene.shard.attempt_rtp(scene.now, of, RtpPart::Begin(description.into())));
    scene.drain();
}

/// A picture of one packet: NAL unit type 5 is one of a keyframe.
fn packet(scene: &mut Scene, of: AttemptId, sequence: u16, unit: u8) {
    packet_of(scene, of, 0, (sequence, unit));
}

fn packet_of(scene: &mut Scene, of: AttemptId, track: usize, (sequence, unit): (u16, u8)) {
    let timestamp = u32::from(sequence) * 3600;
    let payload_type = 96 + track as u8;
    let header = RtpHeader { marker: true, payload_type, sequence, timestamp, ssrc: 5 };
    let bytes = [&header.encode()[..], &[unit, 0x88, 0x84]].concat();
    let packet = RtpPacket::parse(Bytes::from(bytes)).unwrap();
    let part = RtpPart::Packet { track, packet, gap: Gap::None };
    assert!(scene.shard.attempt_rtp(scene.now, of, part));
    scene.turn();
}

/// What was told since the last call, with the forms that it says the stream has now and had not, or had.
fn told(scene: &mut Scene) -> Vec<(&'static str, Vec<Form>)> {
    let forms = |what: &What| match what {
        What::Registered { view: Some(view), before, .. } => {
            let is_new = |form: &Form| view.form(*form).playable && !before.contains(form);
            Form::ALL.into_iter().filter(is_new).collect()
        }
        What::GraceOver { forms }
        | What::FormsChanged { forms, .. }
        | What::Ended { forms, .. } => forms.clone(),
        _ => Vec::new(),
    };
    scene.shard.take_events().iter().map(|of| (of.what.name(), forms(&of.what))).collect()
}

fn update(scene: &mut Scene, texts: &[&str]) -> AttemptId {
    scene.ask(Ask::UpdatePull { key: key("a"), urls: urls(texts), timeout: TIMEOUT });
    scene.dialed.last().expect("it is dialed").0
}

/// The source that is up has served well and is lost.
fn lose(scene: &mut Scene, of: AttemptId) {
    scene.now += SERVED;
    if scene.shard.brings_media(of) {
        scene.tag_of(of, TagKind::Video, KEYFRAME);
    }
    scene.fail_attempt(of, ErrorClass::Lost);
}

fn end(mut scene: Scene) {
    scene.delete("a");
    scene.turn();
    scene.assert_nothing_is_left();
}

const MIXED: [&str; 3] = ["rtmp://x/a/b", "rtsp://y/a", "rtmp://z/a/b"];

#[test]
fn sources_of_the_form_that_players_have_go_first() {
    for packaging in [Packaging::Flv, Packaging::Rtsp] {
        let mut scene = added(&MIXED, Duration::ZERO);
        let x = attempt(&scene, 0);
        picture(&mut scene, x);
        scene.play("a", 1, packaging);
        (0..3).for_each(|_| scene.turn());
        assert_eq!(scene.admitted.len(), 1);
        lose(&mut scene, x);
        assert_eq!(scene.hosts(), ["x", "z"]);
        scene.fail(ErrorClass::Refused);
        assert_eq!(scene.hosts(), ["x", "z", "y"], "the others have their turn after them");
        assert!(scene.ended.is_empty(), "it has brought nothing yet");
        end(scene);
    }
    // Where nobody has the stream they are tried as they were given.
    let mut scene = added(&MIXED, Duration::ZERO);
    let x = attempt(&scene, 0);
    picture(&mut scene, x);
    lose(&mut scene, x);
    assert_eq!(scene.hosts(), ["x", "y"]);
    end(scene);
}

#[test]
fn hedge_of_another_form_has_its_turn_behind_those_of_the_same() {
    for packaging in [Packaging::Flv, Packaging::Rtsp] {
        let mut scene = added(&MIXED, HEDGE);
        let x = attempt(&scene, 0);
        picture(&mut scene, x);
        scene.play("a", 1, packaging);
        (0..3).for_each(|_| scene.turn());
        lose(&mut scene, x);
        assert_eq!(scene.hosts(), ["x", "z"]);
        scene.stage(Stage::Handshaking);
        scene.now += 2 * HEDGE;
        scene.shard.handle_timeout(scene.now);
        scene.turn();
        assert_eq!(scene.hosts(), ["x", "z", "y"], "{packaging:?}");
        assert!(scene.ended.is_empty());
        end(scene);
    }
}

/// Sound as [`picture`] brings it.
const PCMA: &str = "m=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n";

#[test]
fn source_of_packets_takes_over_with_its_keyframe_and_players_go_on() {
    for (sound, may_go_on) in [(PCMA, true), ("", false)] {
        let mut scene = added(&MIXED[..2], Duration::ZERO);
        let x = attempt(&scene, 0);
        picture(&mut scene, x);
        scene.play("a", 1, Packaging::Flv);
        scene.play("a", 2, Packaging::Rtsp);
        (0..3).for_each(|_| scene.turn());
        assert_eq!(scene.admitted.len(), 2);
        lose(&mut scene, x);
        let y = attempt(&scene, 1);
        begin_as(&mut scene, y, &[H264, sound].concat());
        packet(&mut scene, y, 1, 0x41);
        assert!(!scene.shard.brings_media(y) && scene.ended.is_empty(), "no keyframe yet");
        packet(&mut scene, y, 2, 0x65);
        assert!(scene.shard.brings_media(y));
        assert_eq!(scene.state_of("a"), StreamState::Registered);
        // Where it has other tracks, their description is void.
        assert_eq!(scene.ended, if may_go_on { &[][..] } else { &scene.admitted[1..] });
        end(scene);
    }
}

#[test]
fn source_of_tags_takes_over_and_players_of_packets_go_on() {
    // FLV can't carry sound of another rate, so it can't go on either.
    let fast = PCMA.replace("8000", "16000");
    let cases = [("", true, false), (PCMA, true, true), (PCMA, false, true), (&*fast, true, false)];
    for (sound, has_sound, may_go_on) in cases {
        let mut scene = added(&["rtsp://x/a", "rtmp://y/a/b"], Duration::ZERO);
        let x = attempt(&scene, 0);
        begin_as(&mut scene, x, &[H264, sound].concat());
        packet(&mut scene, x, 1, 0x65);
        scene.play("a", 1, Packaging::Flv);
        scene.play("a", 2, Packaging::Rtsp);
        packet(&mut scene, x, 2, 0x41);
        (0..3).for_each(|_| scene.turn());
        assert_eq!(scene.admitted.len(), 2);
        scene.now += SERVED;
        packet(&mut scene, x, 3, 0x41);
        scene.fail_attempt(x, ErrorClass::Lost);
        let y = attempt(&scene, 1);
        scene.tag_of(y, TagKind::Video, AVC);
        scene.turn();
        assert!(scene.ended.is_empty(), "it has brought no keyframe");
        scene.tag_of(y, TagKind::Video, KEYFRAME);
        scene.turn();
        assert!(scene.shard.brings_media(y));
        if has_sound {
            scene.tag_of(y, TagKind::Audio, SOUND);
        }
        scene.tag_of(y, TagKind::Video, KEYFRAME);
        (0..3).for_each(|_| scene.turn());
        assert_eq!(scene.state_of("a"), StreamState::Registered);
        let ended: Vec<_> = scene.ended.iter().map(|of| of.serial).collect();
        assert_eq!(ended, if may_go_on { vec![] } else { vec![2] }, "{sound}");
        end(scene);
    }
}

#[test]
fn source_of_other_packets_ends_nobody_before_its_keyframe() {
    for (sdp, is_ended) in [(H264, false), (OTHER_SETS, false), (OTHER_CLOCK, true)] {
        let mut scene = added(&["rtsp://x/a", "rtsp://y/a", "rtsp://z/a"], Duration::ZERO);
        let x = attempt(&scene, 0);
        begin(&mut scene, x);
        packet(&mut scene, x, 1, 0x65);
        scene.play("a", 1, Packaging::Rtsp);
        (0..3).for_each(|_| scene.turn());
        assert_eq!(scene.admitted.len(), 1);
        scene.now += SERVED;
        packet(&mut scene, x, 2, 0x41);
        scene.fail_attempt(x, ErrorClass::Lost);
        let y = attempt(&scene, 1);
        begin_as(&mut scene, y, sdp);
        packet(&mut scene, y, 1, 0x41);
        scene.fail_attempt(y, ErrorClass::Silent);
        assert!(scene.ended.is_empty(), "{sdp}: it has brought no keyframe");
        let z = attempt(&scene, 2);
        begin_as(&mut scene, z, sdp);
        assert!(scene.ended.is_empty() && !scene.shard.brings_media(z));
        packet(&mut scene, z, 1, 0x65);
        assert!(scene.shard.brings_media(z));
        assert_eq!(!scene.ended.is_empty(), is_ended, "{sdp}");
        assert_eq!(scene.state_of("a"), StreamState::Registered);
        end(scene);
    }
}

#[test]
fn source_of_other_tags_ends_no_player_of_packets_before_its_keyframe() {
    let mut scene = added(&["rtmp://x/a/b", "rtmp://y/a/b", "rtmp://z/a/b"], Duration::ZERO);
    let x = attempt(&scene, 0);
    picture(&mut scene, x);
    scene.play("a", 1, Packaging::Rtsp);
    (0..3).for_each(|_| scene.turn());
    assert_eq!(scene.admitted.len(), 1);
    lose(&mut scene, x);
    let y = attempt(&scene, 1);
    // The configuration of VP9, of which no packets are made.
    scene.tag_of(y, TagKind::Video, b"\x90vp09\x01\0\0\0");
    scene.turn();
    scene.fail_attempt(y, ErrorClass::Silent);
    let z = attempt(&scene, 2);
    picture(&mut scene, z);
    assert!(scene.shard.brings_media(z) && scene.ended.is_empty());
    end(scene);
}

#[test]
fn what_a_stream_can_be_played_in_is_told_when_its_codecs_are_others() {
    let both = || Form::ALL.to_vec();
    let mut scene = added(&["rtmp://x/a/b"], Duration::ZERO);
    scene.shard.keep_events();
    let x = attempt(&scene, 0);
    scene.tag_of(x, TagKind::Video, AVC);
    scene.tag_of(x, TagKind::Video, KEYFRAME);
    assert_eq!(told(&mut scene), [("registered", both())]);
    // No packets are made of VP9.
    let y = update(&mut scene, &["rtmp://y/a/b"]);
    scene.tag_of(y, TagKind::Video, b"\x91vp09\0\0");
    let changed = |forms| ("schemas_changed", forms);
    let switched = || ("source_switched", vec![]);
    assert_eq!(told(&mut scene), [switched(), changed(vec![Form::Flv])]);
    let z = update(&mut scene, &["rtmp://z/a/b"]);
    scene.tag_of(z, TagKind::Video, AVC);
    scene.tag_of(z, TagKind::Video, KEYFRAME);
    assert_eq!(told(&mut scene), [switched(), changed(both())]);
    // It may change its codec itself, too.
    scene.tag_of(z, TagKind::Video, b"\x90vp09\x01\0\0\0");
    assert_eq!(told(&mut scene), [changed(vec![Form::Flv])]);
    scene.fail_attempt(z, ErrorClass::Lost);
    assert_eq!(told(&mut scene), [("lost", vec![])]);
    scene.delete("a");
    assert_eq!(told(&mut scene), [("deleted", vec![Form::Flv])]);
    scene.turn();
    scene.assert_nothing_is_left();
}

/// A hook that hears of it takes a stream that is not there for gone.
#[test]
fn a_loss_is_told_as_the_end_of_a_stream_when_its_players_are_not_kept_any_more() {
    let both = || Form::ALL.to_vec();
    let mut scene = added(&["rtmp://x/a/b"], Duration::ZERO);
    scene.shard.keep_events();
    let x = attempt(&scene, 0);
    picture(&mut scene, x);
    assert_eq!(told(&mut scene), [("registered", both())]);
    scene.fail_attempt(x, ErrorClass::Lost);
    while scene.dialed.len() < 2 {
        scene.wait();
    }
    let y = attempt(&scene, 1);
    picture(&mut scene, y);
    assert_eq!(told(&mut scene), [("lost", vec![]), ("back", vec![])]);
    scene.fail_attempt(y, ErrorClass::Lost);
    let lost_at = scene.now;
    assert_eq!(told(&mut scene), [("lost", vec![])]);
    while !told(&mut scene).contains(&("grace_over", both())) {
        scene.wait();
    }
    assert_eq!(scene.now - lost_at, Policy::of(&Config::default(), 1).reconnect_grace);
    while scene.state_of("a") != StreamState::Resolving {
        scene.wait();
    }
    told(&mut scene);
    let last = attempt(&scene, scene.dialed.len() - 1);
    picture(&mut scene, last);
    assert_eq!(told(&mut scene), [("back", both())]);
    end(scene);
}

#[test]
fn a_publisher_that_comes_back_in_time_was_never_gone() {
    let both = || Form::ALL.to_vec();
    let connection = |serial| ConnectionId { serial, shard: HERE };
    let mut scene = Scene::new(1);
    scene.shard.keep_events();
    let publish = |scene: &mut Scene, serial| {
        let (form, ends, params) = (Form::Flv, NOWHERE, String::new());
        let connection = connection(serial);
        let view = PublisherView { connection, form, local: ends, peer: ends, params };
        scene.shard.publish(scene.now, &key("a"), view).expect("it is free")
    };
    let picture = |scene: &mut Scene, handle| {
        for (kind, payload) in [(TagKind::Video, AVC), (TagKind::Video, KEYFRAME)] {
            let begin =
                MediaPart::Begin { lane: 0, kind, timestamp_ms: 0, len: payload.len() as u32 };
            let data = MediaPart::Data { lane: 0, bytes: payload.into() };
            assert!(
                [begin, data].into_iter().all(|part| scene.shard.media(scene.now, handle, part))
            );
        }
        scene.turn();
    };
    let leave = |scene: &mut Scene, serial| {
        scene.shard.unpublish(scene.now, connection(serial), false);
        scene.shard.released(connection(serial));
        scene.turn();
    };
    let stream = publish(&mut scene, 1);
    picture(&mut scene, stream);
    assert_eq!(told(&mut scene), [("pending", vec![]), ("registered", both())]);
    leave(&mut scene, 1);
    let stream = publish(&mut scene, 2);
    picture(&mut scene, stream);
    assert_eq!(told(&mut scene), [("lost", vec![]), ("source_switched", vec![]), ("back", vec![])]);
    // One that comes and brings nothing, while somebody waits.
    leave(&mut scene, 2);
    scene.play("a", 9, Packaging::Flv);
    scene.turn();
    publish(&mut scene, 3);
    told(&mut scene);
    leave(&mut scene, 3);
    assert_eq!(told(&mut scene), [("grace_over", both()), ("pending", vec![])]);
    let stream = publish(&mut scene, 4);
    picture(&mut scene, stream);
    assert_eq!(told(&mut scene), [("pending", vec![]), ("back", both())]);
    leave(&mut scene, 4);
    assert_eq!(told(&mut scene), [("lost", vec![])]);
    while scene.shard.tables.find(&key("a")).is_some() {
        scene.wait();
    }
    assert_eq!(told(&mut scene), [("closed", both())]);
    scene.turn();
    scene.assert_nothing_is_left();
}

#[test]
fn players_are_not_kept_for_ever_for_a_publisher_that_brings_no_picture() {
    let mut scene = Scene::new(1);
    let connection = |serial| ConnectionId { serial, shard: HERE };
    let publish = |scene: &mut Scene, serial| {
        let (form, ends, params) = (Form::Rtp, NOWHERE, String::new());
        let view =
            PublisherView { connection: connection(serial), form, local: ends, peer: ends, params };
        let handle = scene.shard.publish(scene.now, &key("a"), view).expect("it is free");
        let description = SessionDescription::parse(H264.as_bytes()).expect("it is sound");
        assert!(scene.shard.rtp(scene.now, handle, RtpPart::Begin(description.into())));
        handle
    };
    let packet = |scene: &mut Scene, handle, track, sequence| {
        let (payload_type, timestamp, ssrc) = (96, 3600 * u32::from(sequence), 7);
        let header = RtpHeader { marker: true, payload_type, sequence, timestamp, ssrc };
        let packet = RtpPacket::parse([&header.encode()[..], &[0x65; 20]].concat().into()).unwrap();
        let part = RtpPart::Packet { track, packet, gap: Gap::None };
        scene.shard.rtp(scene.now, handle, part)
    };
    let first = publish(&mut scene, 1);
    assert!(packet(&mut scene, first, 0, 1) && packet(&mut scene, first, 0, 2));
    scene.play("a", 9, Packaging::Rtsp);
    (0..3).for_each(|_| scene.turn());
    assert_eq!(scene.admitted.len(), 1);
    scene.shard.unpublish(scene.now, connection(1), false);
    scene.shard.released(connection(1));
    let again = publish(&mut scene, 2);
    let begun = scene.now;
    // Something always comes.
    for sequence in 3.. {
        scene.now += Duration::from_secs(1);
        assert!(scene.now - begun < Duration::from_secs(120), "they are kept still");
        packet(&mut scene, again, 5, sequence);
        scene.shard.handle_timeout(scene.now);
        scene.turn();
        if !scene.ended.is_empty() {
            break;
        }
    }
    assert_eq!(scene.ended, [connection(2), scene.admitted[0]]);
    scene.shard.released(connection(2));
    (0..3).for_each(|_| scene.turn());
    scene.assert_nothing_is_left();
}

#[test]
fn source_of_another_form_is_told_as_a_loss_and_a_return() {
    let mut scene = added(&["rtmp://x/a/b"], Duration::ZERO);
    scene.shard.keep_events();
    let x = attempt(&scene, 0);
    picture(&mut scene, x);
    scene.play("a", 1, Packaging::Rtsp);
    (0..3).for_each(|_| scene.turn());
    told(&mut scene);
    let y = update(&mut scene, &["rtsp://y/a"]);
    begin(&mut scene, y);
    packet(&mut scene, y, 1, 0x41);
    assert!(told(&mut scene).is_empty() && scene.hung_up.is_empty());
    packet(&mut scene, y, 2, 0x65);
    assert_eq!(scene.hung_up, [x]);
    let names = ["lost", "source_switched", "back"];
    assert_eq!(told(&mut scene), names.map(|name| (name, vec![])), "in the same forms");
    assert_eq!((&scene.ended, scene.state_of("a")), (&scene.admitted, StreamState::Registered));
    end(scene);
}

const SOUND_TOO: &str = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 PCMA/8000\r\n";

/// Sound alone of a source that tells of video, until it brings the stream; of how many ms.
fn sound_alone(scene: &mut Scene, of: AttemptId) -> u32 {
    for at in 0..300_u32 {
        let (payload_type, sequence) = (97, at as u16);
        let (marker, timestamp, ssrc) = (true, 160 * at, 8);
        let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
        let packet = RtpPacket::parse([&header.encode()[..], &[1; 160]].concat().into()).unwrap();
        let part = RtpPart::Packet { track: 1, packet, gap: Gap::None };
        assert!(scene.shard.attempt_rtp(scene.now, of, part));
        scene.now += Duration::from_millis(20);
        scene.turn();
        if scene.state_of("a") == StreamState::Registered && scene.shard.brings_media(of) {
            return 20 * at;
        }
    }
    panic!("it is never up");
}

#[test]
fn source_that_returns_with_sound_alone_is_up_after_a_while() {
    let both = [H264, SOUND_TOO].concat();
    for packaging in [Packaging::Rtsp, Packaging::Flv] {
        let mut scene = added(&["rtsp://x/a"], Duration::ZERO);
        let x = attempt(&scene, 0);
        begin_as(&mut scene, x, &both);
        packet(&mut scene, x, 1, 0x65);
        packet(&mut scene, x, 2, 0x41);
        scene.play("a", 1, packaging);
        (0..3).for_each(|_| scene.turn());
        assert_eq!(scene.admitted.len(), 1);
        scene.now += SERVED;
        packet(&mut scene, x, 3, 0x41);
        scene.fail_attempt(x, ErrorClass::Lost);
        scene.now += TIMEOUT;
        scene.shard.handle_timeout(scene.now);
        scene.turn();
        let again = scene.dialed.last().expect("it is dialed again").0;
        assert_ne!(again, x);
        begin_as(&mut scene, again, &both);
        assert_eq!(sound_alone(&mut scene, again), 3020);
        assert!(scene.ended.is_empty(), "its players are kept");
        end(scene);
    }
}

/// An add that waits for the sources that a pull has is not answered for those of an update.
#[test]
fn update_that_takes_over_from_a_lost_source_answers_no_add() {
    let two = ["rtmp://x/a/b", "rtmp://z/a/b"];
    let mut scene = added(&two, Duration::ZERO);
    let x = attempt(&scene, 0);
    picture(&mut scene, x);
    let y = update(&mut scene, &["rtmp://y/a/b"]);
    lose(&mut scene, x);
    assert_eq!(scene.hosts(), ["x", "y", "z"]);
    scene.answers.clear();
    let (urls, options) = (urls(&two), options(Duration::ZERO));
    scene.ask(Ask::AddPull { key: key("a"), urls, options });
    assert!(scene.answers.is_empty(), "it waits");
    picture(&mut scene, y);
    assert!(matches!(scene.answers[..], [Answer::AddCancelled, Answer::Added { .. }]));
    end(scene);
}

const METADATA: &str = "m=application 0 RTP/AVP 97\r\na=rtpmap:97 vnd.onvif.metadata/90000\r\n";

/// A camera may send on what it makes of pictures where it has none.
#[test]
fn metadata_is_no_sign_of_life() {
    let mut scene = added(&["rtsp://x/a"], Duration::ZERO);
    let x = attempt(&scene, 0);
    begin_as(&mut scene, x, &[H264, METADATA].concat());
    packet_of(&mut scene, x, 1, (1, 1));
    assert_ne!(scene.state_of("a"), StreamState::Registered);
    packet(&mut scene, x, 1, 0x65);
    for second in 0..TIMEOUT.as_secs() {
        assert_eq!(scene.state_of("a"), StreamState::Registered, "after {second} s");
        packet_of(&mut scene, x, 1, (2 + second as u16, 1));
        scene.now += Duration::from_secs(1);
        scene.shard.handle_timeout(scene.now);
        scene.turn();
    }
    assert_eq!((scene.state_of("a"), &scene.hung_up), (StreamState::BackingOff, &vec![x]));
    end(scene);
}
