//! Sources that are joined in the middle of a GOP, and players who are kept for their keyframes, on a
//! virtual clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pull_tests::{Scene, TIMEOUT, key};
use super::{Policy, Stage};
use crate::bus::event::{Switch, What};
use crate::bus::message::{Ask, IdleClose, PullOptions};
use crate::config::Config;
use crate::limits::KEYFRAME_PATIENCE;
use crate::media::state::{ErrorClass, Fault, StreamState};
use crate::media::{AttemptId, SourceUrl, TagKind};
use crate::proto::rtsp::LowerTransport;
use crate::stream::Packaging;

/// As long as a source must have served for the others to be tried at once.
const SERVED: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

const AVC: &[u8] =
    b"\x17\0\0\0\0\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\
    \x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";
const KEYFRAME: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65\x88";
const SOUND: &[u8] = &[0x72, 1, 2, 3];
const PICTURE: &[u8] = b"\x27\x01\0\0\0\0\0\0\x02\x41\x88";

fn urls(hosts: &[&str]) -> Vec<Arc<SourceUrl>> {
    let url =
        |host: &&str| Arc::new(SourceUrl::parse(&format!("http://{host}/a/b.flv"), false).unwrap());
    hosts.iter().map(url).collect()
}

/// A pull of x, whose turn it was, with somebody who plays it. Tells events.
fn played(hosts: &[&str], packaging: Packaging) -> Scene {
    let mut scene = Scene::new(1);
    let options = PullOptions {
        retries_max: None,
        force: true,
        no_wait: false,
        timeout: TIMEOUT,
        media_timeout: TIMEOUT,
        hedge: Duration::ZERO,
        rtp_transport: LowerTransport::Tcp,
        idle_close: IdleClose::default(),
        asked_by: None,
    };
    scene.shard.keep_events();
    scene.ask(Ask::AddPull { key: key("a"), urls: urls(hosts), options });
    let x = newest(&scene);
    scene.tag_of(x, TagKind::Video, AVC);
    scene.tag_of(x, TagKind::Video, KEYFRAME);
    scene.tag_of(x, TagKind::Audio, SOUND);
    scene.turn();
    scene.play("a", 1, packaging);
    (0..3).for_each(|_| scene.turn());
    assert_eq!(scene.admitted.len(), 1);
    scene.now += SERVED;
    scene.tag_of(x, TagKind::Video, PICTURE);
    scene.turn();
    scene.shard.take_events();
    scene
}

fn newest(scene: &Scene) -> AttemptId {
    scene.dialed.last().expect("it is dialed").0
}

/// Time passes, and the attempt brings pictures, or has been hung up on.
fn send_until(scene: &mut Scene, of: AttemptId, until: Instant) {
    while scene.now < until {
        pass_until(scene, (scene.now + SECOND).min(until));
        if scene.hung_up.contains(&of) {
            return;
        }
        // Each piece over HTTP is told as a stage.
        scene.shard.attempt_stage(scene.now, of, Stage::AwaitingMedia, "media");
        scene.tag_of(of, TagKind::Video, PICTURE);
        scene.turn();
    }
}

fn pass_until(scene: &mut Scene, until: Instant) {
    scene.now = until;
    scene.shard.handle_timeout(until);
    scene.turn();
}

fn faults(scene: &mut Scene) -> Vec<Fault> {
    let fault = |what: &What| match what {
        What::AttemptFailed { fault, .. } | What::SourceFailed { fault, .. } => Some(fault.clone()),
        _ => None,
    };
    scene.shard.take_events().iter().filter_map(|of| fault(&of.what)).collect()
}

fn end(mut scene: Scene) {
    scene.delete("a");
    scene.turn();
    scene.assert_nothing_is_left();
}

/// It is not held back for players of tags, and is for those of packets.
#[test]
fn source_that_goes_on_has_time_for_its_keyframe_from_its_first_media_on() {
    for packaging in [Packaging::Flv, Packaging::Rtsp] {
        for brings_keyframe in [true, false] {
            let mut scene = played(&["x", "y", "z"], packaging);
            scene.fail_attempt(newest(&scene), ErrorClass::Lost);
            faults(&mut scene);
            let y = newest(&scene);
            scene.stage(Stage::AwaitingMedia);
            let first = scene.now + SECOND;
            send_until(&mut scene, y, first + KEYFRAME_PATIENCE - Duration::from_millis(1));
            assert_eq!((scene.hosts(), scene.hung_up.len()), (vec!["x", "y"], 0));
            assert_eq!(scene.state_of("a"), StreamState::AwaitingMedia);
            assert!(!scene.shard.brings_media(y) && scene.ended.is_empty());
            if brings_keyframe {
                scene.tag_of(y, TagKind::Video, KEYFRAME);
                scene.turn();
                assert_eq!(scene.state_of("a"), StreamState::Registered);
                assert!(scene.shard.brings_media(y) && faults(&mut scene).is_empty());
            } else {
                pass_until(&mut scene, first + KEYFRAME_PATIENCE);
                assert_eq!((scene.hosts(), &scene.hung_up[..]), (vec!["x", "y", "z"], &[y][..]));
                let [fault] = &faults(&mut scene)[..] else { panic!("one has failed") };
                assert_eq!(fault.class, ErrorClass::TimedOut);
                assert!(fault.text.starts_with("no keyframe within 12 s"), "{}", fault.text);
                assert!(scene.ended.is_empty());
            }
            end(scene);
        }
    }
}

/// One frame gives no source more time than it needs to send the next.
#[test]
fn source_that_falls_silent_before_its_keyframe_gives_way_to_the_next() {
    for packaging in [Packaging::Flv, Packaging::Rtsp] {
        let mut scene = played(&["x", "y", "z"], packaging);
        scene.fail_attempt(newest(&scene), ErrorClass::Lost);
        faults(&mut scene);
        let y = newest(&scene);
        scene.stage(Stage::AwaitingMedia);
        let last = scene.now + SECOND;
        send_until(&mut scene, y, last);
        pass_until(&mut scene, last + TIMEOUT - Duration::from_millis(1));
        assert!(scene.hung_up.is_empty());
        pass_until(&mut scene, last + TIMEOUT);
        assert_eq!((scene.hosts(), &scene.hung_up[..]), (vec!["x", "y", "z"], &[y][..]));
        let [fault] = &faults(&mut scene)[..] else { panic!("one has failed") };
        assert_eq!(fault.class, ErrorClass::Silent);
        end(scene);
    }
}

#[test]
fn source_that_brings_a_configuration_alone_is_silent() {
    let mut scene = played(&["x", "y"], Packaging::Flv);
    scene.fail_attempt(newest(&scene), ErrorClass::Lost);
    faults(&mut scene);
    let y = newest(&scene);
    scene.stage(Stage::AwaitingMedia);
    scene.tag_of(y, TagKind::Video, AVC);
    while scene.hung_up.is_empty() {
        scene.wait();
    }
    let [fault] = &faults(&mut scene)[..] else { panic!("one has failed") };
    assert_eq!(fault.class, ErrorClass::Silent);
    end(scene);
}

/// The player is kept for y, which brings media in time, but not for z after it.
#[test]
fn players_are_kept_for_a_keyframe_that_is_awaited_when_their_time_ends() {
    let grace = Policy::of(&Config::default(), 1).reconnect_grace;
    for packaging in [Packaging::Flv, Packaging::Rtsp] {
        for brings_keyframe in [true, false] {
            let mut scene = played(&["x", "y", "z"], packaging);
            let kept_until = scene.now + grace;
            scene.fail_attempt(newest(&scene), ErrorClass::Lost);
            let y = newest(&scene);
            scene.stage(Stage::AwaitingMedia);
            pass_until(&mut scene, kept_until - grace + TIMEOUT - 2 * SECOND);
            let first = scene.now + SECOND;
            send_until(&mut scene, y, first + KEYFRAME_PATIENCE - SECOND);
            assert!(scene.now > kept_until && scene.ended.is_empty());
            if brings_keyframe {
                scene.tag_of(y, TagKind::Video, KEYFRAME);
                scene.turn();
                assert_eq!(scene.state_of("a"), StreamState::Registered);
                pass_until(&mut scene, first + KEYFRAME_PATIENCE + SECOND);
                assert!(scene.ended.is_empty() && scene.shard.brings_media(y));
            } else {
                pass_until(&mut scene, first + KEYFRAME_PATIENCE);
                (0..3).for_each(|_| scene.turn());
                assert_eq!((scene.hosts(), scene.ended.len()), (vec!["x", "y", "z"], 1));
            }
            end(scene);
        }
    }
}

/// Each of them brings media and none a keyframe: the time of the one under way at the end is the last.
#[test]
fn players_are_not_kept_for_ever_by_sources_that_take_turns() {
    let mut scene = played(&["x", "y", "z"], Packaging::Flv);
    let lost = scene.now;
    scene.fail_attempt(newest(&scene), ErrorClass::Lost);
    while scene.ended.is_empty() {
        let (of, until) = (newest(&scene), scene.now + SECOND);
        match scene.hung_up.contains(&of) {
            true => pass_until(&mut scene, until),
            false => send_until(&mut scene, of, until),
        }
        assert!(scene.now - lost < Duration::from_secs(60), "they are kept still");
    }
    let grace = Policy::of(&Config::default(), 1).reconnect_grace;
    assert!((grace..=grace + KEYFRAME_PATIENCE).contains(&(scene.now - lost)));
    end(scene);
}

#[test]
fn a_source_that_an_update_brings_is_no_loss_though_the_one_before_was_lost() {
    for fails in [false, true] {
        let mut scene = played(&["x"], Packaging::Flv);
        scene.fail_attempt(newest(&scene), ErrorClass::Lost);
        scene.ask(Ask::UpdatePull { key: key("a"), urls: urls(&["y", "z"]), timeout: TIMEOUT });
        if fails {
            scene.fail(ErrorClass::Refused);
        }
        let of = newest(&scene);
        scene.tag_of(of, TagKind::Video, KEYFRAME);
        scene.turn();
        let told = scene.shard.take_events();
        let why = told.iter().find_map(|of| match &of.what {
            What::SourceReplaced { from, url, why } => Some((&*from.host, &*url.host, *why)),
            _ => None,
        });
        assert_eq!(why, Some(("x", if fails { "z" } else { "y" }, Switch::Updated)));
        // And that is told once.
        scene.now += SERVED;
        scene.tag_of(of, TagKind::Video, PICTURE);
        scene.fail_attempt(of, ErrorClass::Lost);
        let next = newest(&scene);
        scene.tag_of(next, TagKind::Video, KEYFRAME);
        scene.turn();
        let told = scene.shard.take_events();
        let is_lost = |what: &What| matches!(what, What::SourceReplaced { why: Switch::Lost, .. });
        assert!(told.iter().any(|of| is_lost(&of.what)), "{told:?}");
        end(scene);
    }
}
