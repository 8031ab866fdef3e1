//! Searches of one shard on a virtual clock: what changes while players wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::demand_tests::{ONE, Scene, key, options, with_origins};
use crate::bus::message::{Ask, PullOptions};
use crate::config::Config;
use crate::limits::TRY_TIME_MIN;
use crate::media::SourceUrl;
use crate::media::state::{EndReason, ErrorClass};

#[test]
fn who_waits_is_searched_for_where_a_reload_says() {
    let nowhere = with_origins(["match = \"other/*\""]);
    for mut scene in [Scene::new("", |_| {}), Scene::new("", nowhere)] {
        scene.play("a", "");
        assert_eq!((scene.dialed.len(), scene.askers()), (0, vec!["players"]));
        scene.reload(ONE, |_| {});
        assert_eq!(scene.hosts(), ["one"]);
        assert_eq!(scene.askers(), ["demand"]);
        scene.fail(ErrorClass::NotFound);
        assert_eq!(scene.refused, [(1, EndReason::NotFound)]);
        scene.assert_nothing_is_left();
    }
}

/// Who asked with what may not be pulled for, or has left.
#[test]
fn a_reload_searches_for_nobody_else() {
    let mut scene = Scene::new("", |_| {});
    scene.play("a", "edge=1");
    let gone = scene.play("b", "");
    scene.leave(gone);
    scene.reload(ONE, |_| {});
    assert_eq!(scene.dialed.len(), 0);
}

#[test]
fn a_search_goes_on_at_the_origins_that_it_began_with() {
    let mut scene = Scene::new("", with_origins(["", ""]));
    scene.play("a", "");
    scene.reload(ONE, |_| {});
    assert_eq!(scene.hung_up.len(), 0);
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.hosts(), ["o0", "o1"]);
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.refused, [(1, EndReason::NotFound)]);
    scene.assert_nothing_is_left();
}

#[test]
fn places_of_a_larger_budget_are_handed_out_at_once() {
    let budget = |count| move |config: &mut Config| config.pull.connects_per_origin_max = count;
    let mut scene = Scene::new(ONE, budget(1));
    for stream in ["a", "b", "c", "d"] {
        scene.play(stream, "");
    }
    assert_eq!(scene.dialed.len(), 1);
    scene.reload(ONE, budget(3));
    assert_eq!(scene.dialed.len(), 3);
    scene.reload(ONE, budget(1));
    scene.fail(ErrorClass::NotFound);
    assert_eq!(
        (scene.dialed.len(), scene.refused.len()),
        (3, 1),
        "fewer hold until enough are free"
    );
    scene.assert_nothing_is_left();
}

#[test]
fn an_add_takes_the_place_of_the_search_for_its_stream() {
    let mut scene = Scene::new(ONE, |config| config.limits.pending_pulls_max = 1);
    scene.play("a", "");
    let urls = vec![Arc::new(SourceUrl::parse("rtmp://added/live/x", false).unwrap())];
    let add = |stream| Ask::AddPull { key: key(stream), urls: urls.clone(), options: options() };
    scene.ask(add("b"));
    assert_eq!((scene.hosts(), scene.hung_up.len()), (vec!["one"], 0), "that is all for others");
    scene.ask(add("a"));
    assert_eq!((scene.hosts(), scene.hung_up.len()), (vec!["one", "added"], 1));
    assert_eq!(scene.shard.pending_pulls.count(), 1);
}

#[test]
fn a_search_whose_place_nobody_may_take_keeps_it() {
    let mut scene = Scene::new(ONE, |config| config.limits.pending_pulls_per_address_max = 1);
    let urls = vec![Arc::new(SourceUrl::parse("rtmp://added/live/x", false).unwrap())];
    let options = PullOptions { asked_by: Some([10, 0, 0, 9].into()), ..options() };
    let add = |stream| Ask::AddPull { key: key(stream), urls: urls.clone(), options };
    scene.play("a", "");
    scene.ask(add("b"));
    scene.ask(add("a"));
    assert_eq!((scene.hosts(), scene.hung_up.len()), (vec!["one", "added"], 0));
    assert_eq!(scene.shard.pending_pulls.count(), 2);
}

#[test]
fn what_a_hook_says_of_an_earlier_life_begins_no_search() {
    let mut scene = Scene::new(ONE, with_not_found_hook);
    let gone = scene.play("a", "");
    let of_first = scene.shard.generation_of(&key("a"));
    scene.leave(gone);
    scene.play("a", "");
    let of_second = scene.shard.generation_of(&key("a"));
    assert!(of_first.is_some() && of_second.is_some() && of_first != of_second);
    scene.ask(Ask::Demand { key: key("a"), generation: of_first });
    assert_eq!(scene.dialed.len(), 0);
    scene.ask(Ask::Demand { key: key("a"), generation: of_second });
    assert_eq!(scene.dialed.len(), 1);
}

fn with_not_found_hook(config: &mut Config) {
    config.hook.enable = true;
    config.hook.on_stream_not_found = "http://h/x".to_owned();
}

/// Who waits hears what came of it before their own 15 s are over, not that they have waited too long.
const TOLD_AFTER: Duration = Duration::from_micros(15_000_000 * 15 / 16);

#[test]
fn the_time_of_a_search_counts_from_who_waited_first() {
    let mut scene = Scene::new("", |config| {
        with_origins(["timeout_ms = 60000"])(config);
        with_not_found_hook(config);
    });
    scene.play("a", "");
    scene.pass(Duration::from_secs(5));
    assert_eq!(scene.hosts(), ["o0"], "the hook has had its time");
    scene.pass(TOLD_AFTER - Duration::from_secs(5));
    assert_eq!(scene.refused, [(1, EndReason::OriginFailed)]);
    scene.assert_nothing_is_left();
}

#[test]
fn a_try_that_was_queued_has_what_is_left_of_the_time() {
    let entry = "timeout_ms = 60000\nconnects_max = 1";
    let mut scene = Scene::new("", with_origins([entry]));
    scene.play("a", "");
    scene.play("b", "");
    scene.pass(Duration::from_secs(13));
    assert_eq!(scene.dialed.len(), 1);
    scene.fail(ErrorClass::NotFound);
    assert_eq!((scene.dialed.len(), scene.refused.len()), (2, 1));
    scene.pass(TOLD_AFTER - Duration::from_secs(13));
    assert_eq!(scene.refused[1..], [(2, EndReason::OriginFailed)]);
    scene.assert_nothing_is_left();
}

/// A try that could only fail by its own timeout is none: its origin is not asked, and not blamed.
#[test]
fn a_turn_that_comes_too_late_is_none() {
    let entry = "timeout_ms = 60000\nconnects_max = 1";
    let mut scene = Scene::new("", with_origins([entry]));
    for stream in ["a", "b", "c"] {
        scene.play(stream, "");
    }
    scene.pass(TOLD_AFTER - TRY_TIME_MIN);
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.dialed.len(), 2, "in time");
    scene.pass(Duration::from_millis(1));
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.dialed.len(), 2);
    let reasons = [(1, EndReason::NotFound), (2, EndReason::NotFound), (3, EndReason::Busy)];
    assert_eq!(scene.refused, reasons);
    let origin = &scene.shard.origin_views(scene.now)[0];
    assert_eq!((origin.connects, origin.unanswered, origin.queued), (2, 0, 0));
    assert_eq!(scene.shard.demand_totals().absences, 2, "it may be there");
    scene.play("c", "");
    assert_eq!(scene.dialed.len(), 3, "the place is free");
    scene.fail(ErrorClass::NotFound);
    scene.assert_nothing_is_left();
}

#[test]
fn an_origin_is_not_asked_when_the_one_before_it_took_nearly_all_of_the_time() {
    let mut scene = Scene::new("", with_origins(["timeout_ms = 13100", ""]));
    scene.play("a", "");
    scene.pass(Duration::from_millis(13_100));
    assert_eq!(
        (scene.hosts(), &scene.refused[..]),
        (vec!["o0"], &[(1, EndReason::OriginFailed)][..])
    );
    scene.assert_nothing_is_left();
}

/// Where players may not wait for long, a share of that is enough for a try.
#[test]
fn short_waits_leave_time_for_tries() {
    let mut scene = Scene::new("", |config| {
        with_origins(["connects_max = 1"])(config);
        config.stream.max_stream_wait_ms = 800;
    });
    scene.play("a", "");
    scene.play("b", "");
    scene.pass(Duration::from_millis(500));
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.dialed.len(), 2);
    scene.fail(ErrorClass::NotFound);
    scene.assert_nothing_is_left();
}

#[test]
fn a_search_that_begins_later_counts_from_when_its_players_began_to_wait() {
    const LATE: Duration = Duration::from_secs(10);
    let slow = || with_origins(["timeout_ms = 60000"]);
    let mut reloaded = Scene::new("", |_| {});
    reloaded.play("a", "");
    reloaded.pass(LATE);
    reloaded.reload("", slow());
    let mut left = Scene::new("", slow());
    assert!(left.publish("a"));
    left.play("a", "");
    left.pass(LATE);
    left.unpublish();
    for mut scene in [reloaded, left] {
        assert_eq!(scene.hosts(), ["o0"]);
        scene.pass(TOLD_AFTER - LATE - Duration::from_millis(1));
        assert!(scene.refused.is_empty());
        scene.pass(Duration::from_millis(1));
        assert_eq!(scene.refused, [(1, EndReason::OriginFailed)], "not that they waited too long");
        scene.assert_nothing_is_left();
    }
}

#[test]
fn a_search_that_is_too_late_for_who_waits_begins_for_who_has_come_since() {
    let mut scene = Scene::new("", |_| {});
    scene.play("a", "");
    scene.pass(Duration::from_millis(14_500));
    scene.reload(ONE, |_| {});
    scene.play("a", "");
    assert_eq!(scene.dialed.len(), 0);
    scene.pass(Duration::from_millis(500));
    assert_eq!((&scene.refused[..], scene.dialed.len()), (&[(1, EndReason::WaitOver)][..], 1));
    scene.media();
    assert_eq!(scene.admitted, [2]);
}

#[test]
fn who_waits_is_searched_for_when_a_publisher_leaves_without_media() {
    for is_first in [true, false] {
        let mut scene = Scene::new(ONE, |_| {});
        if is_first {
            assert!(scene.publish("a"));
            scene.play("a", "");
        } else {
            scene.play("a", "");
            assert!(scene.publish("a"));
        }
        let before = scene.dialed.len();
        scene.askers();
        scene.unpublish();
        assert_eq!((scene.dialed.len(), scene.askers()), (before + 1, vec!["players", "demand"]));
        scene.media();
        assert_eq!((scene.admitted.len(), scene.refused.len()), (1, 0));
    }
    let mut scene = Scene::new(ONE, |_| {});
    assert!(scene.publish("a"));
    scene.play("a", "edge=1");
    scene.unpublish();
    assert_eq!(scene.dialed.len(), 0, "not for who may not be pulled for");
}

#[test]
fn the_hook_decides_of_an_idle_pull_on_demand() {
    let with_hook = |config: &mut Config| {
        config.pull.media_timeout_ms = 60_000;
        config.hook.enable = true;
        config.hook.on_stream_none_reader = "http://h/x".to_owned();
    };
    let auto_close = |config: &mut Config| {
        with_hook(config);
        config.stream.auto_close = true;
    };
    let mut scenes = [Scene::new(ONE, with_hook), Scene::new(ONE, auto_close)];
    for scene in &mut scenes {
        let player = scene.play("a", "");
        scene.media();
        scene.leave(player);
        scene.pass(Duration::from_secs(20));
    }
    let [asked, auto] = &mut scenes;
    assert_eq!((asked.hung_up.len(), auto.hung_up.len()), (0, 1));
    asked.ask(Ask::CloseIdle { key: key("a"), generation: None });
    assert_eq!(asked.hung_up.len(), 1, "it says so");
    asked.assert_nothing_is_left();
}

/// Who asks and goes has begun it all the same. What is up is everybody's.
#[test]
fn a_pull_is_charged_to_who_began_it_until_it_is_up() {
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
    let mut scene = Scene::new(ONE, |config| {
        config.limits.pending_pulls_per_address_max = 1;
        config.demand.retry_count = 9;
    });
    let began = scene.play_from(address(1), "a", "");
    scene.play_from(address(2), "a", "");
    scene.leave(began);
    scene.play_from(address(1), "b", "");
    assert_eq!(scene.refused, [(3, EndReason::TooManyPulls)], "it goes on for the other one");
    scene.play_from(address(2), "c", "");
    assert_eq!((scene.dialed.len(), scene.refused.len()), (2, 1), "who has only waited");
    scene.fail(ErrorClass::NotFound);
    scene.play_from(address(2), "d", "");
    assert_eq!(scene.dialed.len(), 3, "it can't be had");
    let attempt = scene.dialed.swap_remove(0);
    scene.dialed.push(attempt);
    scene.media();
    scene.play_from(address(1), "b", "");
    assert_eq!(scene.dialed.len(), 4, "what is up is none");
    assert_eq!(scene.shard.pending_pulls.count(), 2);
    let attempt = scene.dialed.remove(2);
    scene.dialed.push(attempt);
    scene.fail(ErrorClass::Lost);
    assert_eq!(scene.shard.pending_pulls.count(), 3, "it is pending again");
    let refused = scene.refused.len();
    scene.play_from(address(3), "e", "");
    assert_eq!(scene.refused.len(), refused);
}

/// Each address that waits is asked for, in whatever form.
#[test]
fn who_has_left_or_has_too_many_is_not_charged_where_another_one_waits() {
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
    let limits = |config: &mut Config| {
        with_not_found_hook(config);
        config.limits.pending_pulls_per_address_max = 1;
    };
    let answer = |scene: &mut Scene, stream| {
        scene.ask(Ask::Demand { key: key(stream), generation: None });
    };
    let mut scene = Scene::new(ONE, limits);
    let gone = scene.play_from(address(1), "a", "");
    scene.play_from(address(2), "a", "");
    scene.leave(gone);
    answer(&mut scene, "a");
    scene.play_from(address(1), "b", "");
    answer(&mut scene, "b");
    assert_eq!((scene.dialed.len(), scene.refused.len()), (2, 0), "the first has none but this");
    // Over RTSP it is another presence.
    scene.play_from(address(1), "c", "");
    scene.play_rtsp_from(address(3), "c");
    answer(&mut scene, "c");
    assert_eq!((scene.dialed.len(), scene.refused.len()), (3, 0));
    scene.play_from(address(3), "d", "");
    answer(&mut scene, "d");
    assert_eq!(scene.refused, [(6, EndReason::TooManyPulls)]);
    // In the same presence.
    for last in [1, 2, 3, 4, 4] {
        scene.play_from(address(last), "e", "");
    }
    answer(&mut scene, "e");
    assert_eq!((scene.dialed.len(), scene.refused.len()), (4, 1), "the fourth has none");
    scene.play_from(address(4), "f", "");
    answer(&mut scene, "f");
    assert_eq!(scene.refused[1..], [(12, EndReason::TooManyPulls)], "it has that one");
}

/// One that asks for many names takes no more than its share, and what is up takes none.
#[test]
fn pending_pulls_are_limited_for_each_address_and_for_all() {
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
    let pending = |scene: &Scene| scene.shard.pending_pulls.count();
    let mut scene = Scene::new(ONE, |config| {
        config.pull.connects_per_origin_max = 9;
        config.limits.pending_pulls_max = 3;
        config.limits.pending_pulls_per_address_max = 2;
    });
    for stream in ["a", "b", "c"] {
        scene.play_from(address(1), stream, "");
    }
    assert_eq!((scene.dialed.len(), pending(&scene)), (2, 2));
    assert_eq!(scene.refused, [(3, EndReason::TooManyPulls)]);
    scene.play_from(address(1), "a", "");
    assert_eq!(scene.refused.len(), 1, "who waits with others takes nothing");
    // It is not remembered, and another one may have it.
    scene.play_from(address(2), "c", "");
    assert_eq!((scene.dialed.len(), pending(&scene)), (3, 3));
    scene.play_from(address(3), "d", "");
    let urls = vec![Arc::new(SourceUrl::parse("rtmp://added/live/e", false).unwrap())];
    scene.ask(Ask::AddPull { key: key("e"), urls: urls.clone(), options: options() });
    assert_eq!((scene.dialed.len(), scene.refused.len()), (3, 2), "that is all for everybody");
    // What has come up or can't be had leaves its place to others.
    scene.media();
    scene.play_from(address(3), "d", "");
    assert_eq!((scene.dialed.len(), pending(&scene)), (4, 3));
    scene.fail(ErrorClass::NotFound);
    scene.ask(Ask::AddPull { key: key("e"), urls, options: options() });
    assert_eq!((scene.dialed.len(), pending(&scene)), (5, 3));
    // A publisher takes the name, and the pull is none any more.
    assert!(scene.publish("a"));
    assert_eq!(pending(&scene), 2);
}
