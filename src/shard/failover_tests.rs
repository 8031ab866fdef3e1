//! Several sources of one pull, on a virtual clock.

use std::sync::Arc;
use std::time::Duration;

use super::Stage;
use super::pull_tests::{Scene, TIMEOUT, key};
use crate::bus::event::{Asker, Event, What};
use crate::bus::message::{Answer, Ask, IdleClose, PullOptions};
use crate::journal::Record;
use crate::media::state::{ErrorClass, StreamState};
use crate::media::{MediaPart, SourceUrl, TagKind};
use crate::proto::rtsp::LowerTransport;

const HEDGE: Duration = Duration::from_millis(300);
/// As long as a source must have served for the others to be tried at once.
const SERVED: Duration = Duration::from_secs(2);

fn urls(hosts: &[&str]) -> Vec<Arc<SourceUrl>> {
    let url = |host: &&str| {
        let text = format!("rtmp://{host}/a/b");
        Arc::new(SourceUrl::parse(&text, false).unwrap())
    };
    hosts.iter().map(url).collect()
}

fn added(hosts: &[&str], hedge: Duration, retries_max: Option<u32>) -> Scene {
    let mut scene = Scene::new(1);
    let options = PullOptions {
        retries_max,
        force: true,
        no_wait: false,
        timeout: TIMEOUT,
        media_timeout: TIMEOUT,
        hedge,
        rtp_transport: LowerTransport::Tcp,
        idle_close: IdleClose::default(),
        asked_by: None,
    };
    scene.ask(Ask::AddPull { key: key("a"), urls: urls(hosts), options });
    scene
}

fn update(scene: &mut Scene, hosts: &[&str]) {
    scene.ask(Ask::UpdatePull { key: key("a"), urls: urls(hosts), timeout: TIMEOUT });
}

/// The last answer's kind.
fn answer(scene: &mut Scene) -> &'static str {
    match scene.answers.pop() {
        None => "none",
        Some(Answer::Added { state: StreamState::Registered, .. }) => "up",
        Some(Answer::Added { .. }) => "added",
        Some(Answer::AddFailed(_)) => "failed",
        Some(Answer::AddCancelled) => "cancelled",
        Some(Answer::NoSuchPull) => "no such pull",
        Some(_) => "something else",
    }
}

fn end(mut scene: Scene) {
    scene.delete("a");
    scene.assert_nothing_is_left();
}

#[test]
fn each_source_is_tried_before_the_pull_backs_off() {
    let mut scene = added(&["x", "y", "z"], Duration::ZERO, None);
    for _ in 0..2 {
        scene.fail(ErrorClass::Refused);
        assert_eq!(answer(&mut scene), "none", "there are others");
    }
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.hosts(), ["x", "y", "z"]);
    assert_eq!((scene.state_of("a"), answer(&mut scene)), (StreamState::BackingOff, "added"));
    scene.wait();
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.hosts(), ["x", "y", "z", "x", "y"]);
    scene.media();
    scene.now += SERVED;
    scene.media();
    scene.fail(ErrorClass::Lost);
    assert_eq!(scene.hosts()[5..], ["z"], "the next one at once");
    scene.media();
    scene.now += SERVED;
    scene.media();
    scene.fail(ErrorClass::Lost);
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.hosts()[6..], ["x", "y"]);
    assert_eq!(scene.shard.totals().losses, 2);
    end(scene);
}

#[test]
fn sources_that_come_up_and_go_at_once_are_not_tried_without_end() {
    let mut scene = added(&["x", "y"], Duration::ZERO, None);
    for _ in 0..2 {
        scene.media();
        scene.fail(ErrorClass::Lost);
    }
    assert_eq!(scene.state_of("a"), StreamState::BackingOff);
    assert_eq!(scene.hosts(), ["x", "y"]);
    end(scene);
}

#[test]
fn silence_is_no_service() {
    let mut scene = added(&["x", "y"], Duration::ZERO, None);
    for _ in 0..2 {
        assert_eq!(scene.state_of("a"), StreamState::Resolving);
        scene.media();
        while scene.state_of("a") == StreamState::Registered {
            scene.wait();
        }
    }
    assert_eq!((scene.state_of("a"), scene.hosts()), (StreamState::BackingOff, vec!["x", "y"]));
    end(scene);
}

#[test]
fn retries_are_counted_by_rounds() {
    let mut scene = added(&["x", "y"], Duration::ZERO, Some(1));
    for _ in 0..2 {
        scene.fail(ErrorClass::Refused);
        scene.fail(ErrorClass::Refused);
        if scene.hosts().len() == 2 {
            scene.wait();
        }
    }
    assert_eq!(scene.hosts(), ["x", "y", "x", "y"]);
    scene.assert_nothing_is_left();
}

#[test]
fn slow_source_is_hedged_and_the_first_keyframe_wins() {
    let mut scene = added(&["x", "y", "z"], HEDGE, None);
    scene.stage(Stage::Handshaking);
    scene.wait();
    assert_eq!(scene.hosts(), ["x", "y"]);
    let [x, y] = [0, 1].map(|index| scene.dialed[index].0);
    scene.tag_of(y, TagKind::Video, &[0x17, 0, 0, 0, 0, 1]);
    scene.tag_of(y, TagKind::Video, &[0x27, 1, 0, 0, 0, 1]);
    assert_eq!((scene.hung_up.len(), scene.state_of("a")), (0, StreamState::Handshaking));
    scene.tag_of(y, TagKind::Video, &[0x17, 1, 0, 0, 0, 1]);
    assert_eq!((&scene.hung_up[..], scene.state_of("a")), (&[x][..], StreamState::Registered));
    assert_eq!(answer(&mut scene), "up");
    end(scene);
}

#[test]
fn lead_that_comes_up_ends_its_hedge() {
    let mut scene = added(&["x", "y"], HEDGE, None);
    scene.wait();
    let [x, y] = [0, 1].map(|index| scene.dialed[index].0);
    scene.tag_of(x, TagKind::Audio, &[0xaf, 1, 2]);
    assert_eq!((&scene.hung_up[..], scene.state_of("a")), (&[y][..], StreamState::Registered));
    end(scene);
}

#[test]
fn hedge_whose_turn_comes_too_late_fails_as_the_lead_that_it_has_become() {
    let mut scene = added(&["edge", "center"], HEDGE, None);
    scene.wait();
    scene.stage(Stage::Handshaking);
    scene.redirect("rtmp://edge/a/b");
    // The lead's time is over a moment before its own.
    while scene.hung_up.is_empty() {
        scene.wait();
    }
    assert_eq!((scene.hosts(), scene.hung_up.len()), (vec!["edge", "center"], 1));
    assert_eq!((scene.state_of("a"), answer(&mut scene)), (StreamState::BackingOff, "added"));
    end(scene);
}

#[test]
fn hedge_goes_on_when_the_lead_fails_and_is_replaced_when_it_fails_itself() {
    let mut scene = added(&["x", "y", "z"], HEDGE, None);
    scene.wait();
    scene.fail_attempt(scene.dialed[0].0, ErrorClass::Refused);
    assert_eq!(scene.hosts(), ["x", "y"], "the hedge leads");
    scene.wait();
    assert_eq!(scene.hosts(), ["x", "y", "z"], "and is hedged in turn");
    scene.fail_attempt(scene.dialed[2].0, ErrorClass::Refused);
    scene.fail_attempt(scene.dialed[1].0, ErrorClass::Refused);
    assert_eq!((scene.state_of("a"), answer(&mut scene)), (StreamState::BackingOff, "added"));
    end(scene);
}

#[test]
fn hedge_that_is_queued_leads_when_the_lead_fails() {
    let mut scene = added(&["x/one/", "x/two/"], HEDGE, None);
    scene.wait();
    assert_eq!(scene.hosts(), ["x"], "one connect to an origin at a time");
    scene.fail(ErrorClass::Refused);
    assert_eq!((scene.hosts(), scene.state_of("a")), (vec!["x", "x"], StreamState::Resolving));
    end(scene);
    let mut scene = added(&["x/one/", "x/two/"], HEDGE, None);
    scene.wait();
    scene.delete("a");
    scene.assert_nothing_is_left();
}

#[test]
fn update_is_made_before_the_old_source_is_broken() {
    let mut scene = added(&["x"], Duration::ZERO, None);
    scene.shard.keep_events();
    scene.media();
    assert_eq!(answer(&mut scene), "up");
    update(&mut scene, &["bad", "y"]);
    assert_eq!(scene.hosts(), ["x", "bad"]);
    scene.fail(ErrorClass::Refused);
    let [x, y] = [0, 2].map(|index| scene.dialed[index].0);
    assert_eq!((scene.hosts()[2], scene.state_of("a")), ("y", StreamState::Registered));
    scene.tag_of(y, TagKind::Video, &[0x17, 0, 0, 0, 0, 1]);
    scene.tag_of(x, TagKind::Audio, &[0xaf, 1, 2]);
    assert_eq!((answer(&mut scene), scene.hung_up.len()), ("none", 0));
    scene.shard.take_events();
    scene.tag_of(y, TagKind::Video, &[0x17, 1, 0, 0, 0, 1]);
    assert_eq!((answer(&mut scene), &scene.hung_up[..]), ("up", &[x][..]));
    assert_eq!(scene.state_of("a"), StreamState::Registered);
    let told: Vec<_> = scene.shard.take_events().iter().map(|of| of.what.name()).collect();
    assert_eq!(told, ["source_switched"]);
    let Some(Record::AddPull(record)) = scene.kept.last() else { panic!("{:?}", scene.kept) };
    assert_eq!(
        (&*record.url, &record.other_urls[..]),
        ("rtmp://bad/a/b", &["rtmp://y/a/b".to_owned()][..])
    );
    scene.now += SERVED;
    scene.tag_of(y, TagKind::Audio, &[0xaf, 1, 2]);
    scene.fail_attempt(y, ErrorClass::Lost);
    assert_eq!(scene.hosts()[3..], ["bad"], "the new sources are tried now");
    end(scene);
}

#[test]
fn update_of_a_pull_that_is_not_up_is_told() {
    let mut scene = added(&["x"], Duration::ZERO, None);
    scene.shard.keep_events();
    update(&mut scene, &["y", "z"]);
    let told = scene.shard.take_events();
    let [Event { what: What::Pending { by: Asker::Pull, url: Some(url) }, .. }] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(url.host, "y");
    end(scene);
}

#[test]
fn hedge_has_its_turn_after_an_update_that_fails() {
    let mut scene = added(&["w", "x", "z"], HEDGE, None);
    scene.media();
    update(&mut scene, &["y"]);
    let w = scene.dialed[0].0;
    scene.now += SERVED;
    scene.tag_of(w, TagKind::Audio, &[0xaf, 1, 2]);
    scene.fail_attempt(w, ErrorClass::Lost);
    scene.stage(Stage::Handshaking);
    for _ in 0..3 {
        scene.wait();
    }
    assert_eq!(scene.hosts(), ["w", "y", "x"], "there is a rival");
    scene.fail_attempt(scene.dialed[1].0, ErrorClass::Refused);
    scene.wait();
    assert_eq!(scene.hosts(), ["w", "y", "x", "z"]);
    end(scene);
}

#[test]
fn update_that_fails_leaves_what_was_there() {
    let mut scene = added(&["x"], Duration::ZERO, None);
    scene.media();
    let kept = scene.kept.len();
    update(&mut scene, &["y"]);
    scene.fail(ErrorClass::NotFound);
    assert_eq!((answer(&mut scene), scene.kept.len()), ("failed", kept));
    scene.fail_attempt(scene.dialed[0].0, ErrorClass::Lost);
    scene.wait();
    assert_eq!(scene.hosts(), ["x", "y", "x"]);
    end(scene);
}

#[test]
fn old_source_that_is_lost_meanwhile_is_tried_on_until_the_new_one_is_there() {
    let mut scene = added(&["x"], Duration::ZERO, Some(0));
    scene.media();
    update(&mut scene, &["y"]);
    scene.fail_attempt(scene.dialed[0].0, ErrorClass::Lost);
    assert_eq!(scene.state_of("a"), StreamState::BackingOff);
    let y = scene.dialed[1].0;
    scene.tag_of(y, TagKind::Audio, &[0xaf, 1, 2]);
    assert_eq!((scene.state_of("a"), answer(&mut scene)), (StreamState::Registered, "up"));
    end(scene);
}

#[test]
fn updates_and_deletes_cut_each_other_off() {
    let mut scene = added(&["x"], Duration::ZERO, None);
    update(&mut scene, &["y"]);
    assert_eq!((answer(&mut scene), scene.hosts()), ("cancelled", vec!["x", "y"]));
    scene.media();
    assert_eq!(answer(&mut scene), "up");
    update(&mut scene, &["z"]);
    update(&mut scene, &["w"]);
    assert_eq!((answer(&mut scene), scene.hosts()), ("cancelled", vec!["x", "y", "z", "w"]));
    scene.answers.clear();
    scene.delete("a");
    assert!(matches!(scene.answers.first(), Some(Answer::AddCancelled)));
    scene.assert_nothing_is_left();
    update(&mut scene, &["x"]);
    assert_eq!(answer(&mut scene), "no such pull");
}

#[test]
fn sources_are_shown_with_their_health() {
    let mut scene = added(&["x", "y"], Duration::ZERO, None);
    scene.fail(ErrorClass::Refused);
    scene.media();
    scene.now += SERVED;
    let handle = scene.shard.tables.find(&key("a")).unwrap();
    let view = scene.shard.view(scene.now, handle).unwrap();
    let crate::bus::view::SourceView::Pull(pull) = view.source else { panic!("it is pulled") };
    assert_eq!(pull.url.host, "y");
    let shown = pull.sources.iter().map(|of| {
        (of.in_use, of.failures, of.last_fault.as_ref().map(|fault| fault.class), of.up_ago_ms)
    });
    let wanted = [(false, 1, Some(ErrorClass::Refused), None), (true, 0, None, Some(2000))];
    assert_eq!(shown.collect::<Vec<_>>(), wanted);
    end(scene);
}

/// The class of what a try failed with whose origin sent this much and no more.
fn class_after(mut scene: Scene, part: Option<(TagKind, u32, &'static [u8])>) -> ErrorClass {
    scene.stage(Stage::AwaitingMedia);
    let of = scene.dialed.last().expect("it is dialed").0;
    if let Some((kind, len, bytes)) = part {
        let begin = MediaPart::Begin { lane: 0, kind, timestamp_ms: 0, len };
        let data = MediaPart::Data { lane: 0, bytes: bytes.into() };
        for part in [begin, data] {
            assert!(scene.shard.attempt_media(scene.now, of, part));
        }
    }
    while !scene.hung_up.contains(&of) {
        // The one that is up goes on meanwhile.
        let up = scene.dialed.iter().map(|(up, _)| *up).find(|up| *up != of);
        if let Some(up) = up {
            scene.now += TIMEOUT / 2;
            scene.tag_of(up, TagKind::Audio, &[0xaf, 1, 2]);
        }
        scene.wait();
    }
    let Some(Answer::AddFailed(fault)) = scene.answers.pop() else {
        panic!("it has failed, and was the only one");
    };
    fault.class
}

#[test]
fn half_a_frame_is_no_silence() {
    let half: Option<(TagKind, u32, &[u8])> =
        Some((TagKind::Video, 99, b"\x17\x01\0\0\0\0\0\0\x50\x65\x88 and half of the picture"));
    let config: Option<(TagKind, u32, &[u8])> = Some((TagKind::Audio, 4, b"\xaf\0\x12\x10"));
    for (part, expected) in
        [(None, ErrorClass::Silent), (config, ErrorClass::Silent), (half, ErrorClass::TimedOut)]
    {
        let lead = added(&["x"], Duration::ZERO, Some(0));
        let mut rival = added(&["x"], Duration::ZERO, None);
        rival.media();
        update(&mut rival, &["y"]);
        for scene in [lead, rival] {
            assert_eq!(class_after(scene, part), expected, "{part:?}");
        }
    }
}
