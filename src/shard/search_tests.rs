//! Searches of one shard on a virtual clock: what changes while players wait.

use super::demand_tests::{ONE, Scene, with_origins};
use crate::config::Config;
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
