//! The order, slots and waits of what hooks are told, with servers that fail in all ways.

use super::*;
use crate::clock;

/// Calls at once about absent streams.
const ABSENT_MAX: usize = 4;

fn item(stream: &str, number: u64) -> Item {
    let key = StreamKey::in_default_vhost("live", stream).unwrap();
    let mut body = Map::new();
    body.insert("number".to_owned(), number.into());
    let (hook, server) = (Hook::StreamChanged, "h:80".into());
    let (key, generation) = (Some(key), None);
    Item { hook, server, key, generation, body, once: false, refusals: 0, failures: 0 }
}

fn take(queue: &mut Queue, now: Instant) -> Option<(u64, String, u64)> {
    let (id, item) = queue.take(now, ABSENT_MAX)?;
    let stream = item.key.as_ref().unwrap().stream().to_owned();
    Some((id, stream, item.body["number"].as_u64().unwrap()))
}

#[test]
fn a_stream_is_told_one_after_the_other_and_others_beside_it() {
    let (mut queue, now) = (Queue::default(), clock::now());
    for (stream, number) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
        assert_eq!(queue.push(item(stream, number), 10), None);
    }
    let (first, ..) = take(&mut queue, now).unwrap();
    let (other, stream, number) = take(&mut queue, now).unwrap();
    assert_eq!((stream.as_str(), number), ("b", 3));
    assert_eq!(take(&mut queue, now), None);
    assert!(queue.done(now, first, Outcome::Taken).is_some());
    assert_eq!(take(&mut queue, now).unwrap().2, 2);
    assert!(queue.done(now, other, Outcome::Taken).is_some());
    assert_eq!(take(&mut queue, now).unwrap().2, 4);
}

#[test]
fn what_is_not_taken_comes_again_before_what_followed() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    for (stream, number) in [("a", 1), ("a", 2), ("b", 3)] {
        queue.push(item(stream, number), 10);
    }
    let (first, ..) = take(&mut queue, now).unwrap();
    assert!(queue.done(now, first, Outcome::NotNow).is_none());
    // Another stream of the same server is not held up.
    assert_eq!(take(&mut queue, now).unwrap().2, 3);
    assert_eq!(take(&mut queue, now), None);
    now = queue.poll_timeout().unwrap();
    let again = take(&mut queue, now).unwrap();
    assert_eq!((again.0, again.2), (first, 1));
    assert_eq!(take(&mut queue, now), None);
    queue.done(now, first, Outcome::Taken);
    assert_eq!(take(&mut queue, now).unwrap().2, 2);
}

#[test]
fn a_server_that_is_gone_is_tried_with_one_call_and_longer_each_time() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    for number in 0..5 {
        queue.push(item(&format!("s{number}"), number), 10);
    }
    let ids: Vec<u64> = (0..5).map(|_| take(&mut queue, now).unwrap().0).collect();
    for id in ids {
        queue.done(now, id, Outcome::Unreachable);
    }
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(take(&mut queue, now), None);
        let due = queue.poll_timeout().unwrap();
        waits.push((due - now).as_millis());
        now = due;
        let (id, _, number) = take(&mut queue, now).unwrap();
        assert_eq!(number, 0, "the oldest is tried");
        assert_eq!(take(&mut queue, now), None, "and no other beside it");
        queue.done(now, id, Outcome::Unreachable);
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
    now += BACKOFF_MAX;
    let (id, ..) = take(&mut queue, now).unwrap();
    queue.done(now, id, Outcome::Taken);
    assert_eq!((0..4).filter_map(|_| take(&mut queue, now)).count(), 4);
}

#[test]
fn streams_whose_calls_fail_leave_slots_to_the_others() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    let take_all = |queue: &mut Queue, now| -> Vec<(u64, u64)> {
        let taken = std::iter::from_fn(|| take(queue, now));
        taken.map(|(id, _, number)| (id, number)).collect()
    };
    for number in 0..20 {
        queue.push(item(&format!("s{number}"), number), 100);
    }
    for _ in 0..20 {
        let (id, ..) = take(&mut queue, now).unwrap();
        assert!(queue.done(now, id, Outcome::NotNow).is_none());
    }
    now = queue.poll_timeout().unwrap();
    let failing = take_all(&mut queue, now);
    assert_eq!(failing.len(), HOOK_POSTS_AGAIN_MAX);
    for number in 20..40 {
        queue.push(item(&format!("s{number}"), number), 100);
    }
    let others = take_all(&mut queue, now);
    let beside = (HOOK_POSTS_MAX - HOOK_POSTS_AGAIN_MAX) as u64;
    let numbers: Vec<u64> = others.iter().map(|&(_, number)| number).collect();
    assert_eq!(numbers, (20..20 + beside).collect::<Vec<_>>());
    for (id, _) in failing {
        queue.done(now, id, Outcome::NotNow);
    }
    let next: Vec<u64> = take_all(&mut queue, now).iter().map(|&(_, number)| number).collect();
    assert_eq!(next, (4..4 + HOOK_POSTS_AGAIN_MAX as u64).collect::<Vec<_>>(), "the oldest");
}

/// A call that is never answered is tried for ever, and only what follows it of its stream waits.
#[test]
fn a_call_that_is_never_answered_holds_up_its_own_stream_alone() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    queue.push(item("stalled", 0), 100);
    for number in 1..=50 {
        let (id, ..) = take(&mut queue, now).unwrap();
        queue.push(item("stalled", number), 100);
        let other = format!("s{number}");
        queue.push(item(&other, number), 100);
        let (of_other, stream, _) = take(&mut queue, now).unwrap();
        assert_eq!(stream, other, "although the first one is under way");
        queue.done(now, id, Outcome::NotNow);
        assert!(queue.done(now, of_other, Outcome::Taken).is_some());
        now = queue.poll_timeout().unwrap();
    }
    assert_eq!(take(&mut queue, now).unwrap().2, 0, "the first is tried still");
}

#[test]
fn what_is_refused_comes_again_and_not_for_ever() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    queue.push(item("a", 1), 10);
    queue.push(item("a", 2), 10);
    let start = now;
    for refusals in 1..=HOOK_REFUSALS_MAX {
        let (id, _, number) = take(&mut queue, now).unwrap();
        assert_eq!((number, take(&mut queue, now)), (1, None));
        let done = queue.done(now, id, Outcome::Refused);
        assert_eq!(done.is_some(), refusals == HOOK_REFUSALS_MAX);
        now = queue.poll_timeout().unwrap_or(now);
    }
    assert!(now - start > Duration::from_secs(30), "a server may start again meanwhile");
    assert_eq!(take(&mut queue, now).unwrap().2, 2, "what follows is not held up for ever");
}

#[test]
fn what_a_server_fails_at_for_long_goes() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    queue.push(item("a", 1), 10);
    queue.push(item("a", 2), 10);
    let start = now;
    for failures in 1..=HOOK_FAILURES_MAX {
        let (id, _, number) = take(&mut queue, now).unwrap();
        assert_eq!(number, 1);
        let done = queue.done(now, id, Outcome::Failed);
        assert_eq!(done.is_some(), failures == HOOK_FAILURES_MAX);
        now = queue.poll_timeout().unwrap_or(now);
    }
    assert!(now - start > Duration::from_secs(500), "a server may be mended meanwhile");
    assert_eq!(take(&mut queue, now).unwrap().2, 2);
}

#[test]
fn what_a_server_can_not_take_now_waits_however_long_that_lasts() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    queue.push(item("a", 1), 10);
    for outcome in [Outcome::NotNow, Outcome::Unreachable].into_iter().cycle().take(2000) {
        let (id, _, number) = take(&mut queue, now).unwrap();
        assert_eq!((number, queue.done(now, id, outcome)), (1, None));
        now = queue.poll_timeout().unwrap();
    }
}

#[test]
fn the_oldest_goes_when_it_is_full() {
    let (mut queue, now) = (Queue::default(), clock::now());
    assert_eq!((queue.push(item("a", 1), 2), queue.push(item("a", 2), 2)), (None, None));
    assert_eq!(queue.push(item("a", 3), 2), Some(item("a", 1)));
    assert_eq!(take(&mut queue, now).unwrap().2, 2);
}

#[test]
fn what_is_urgent_overtakes_and_is_told_once() {
    let (mut queue, now) = (Queue::default(), clock::now());
    queue.push(item("a", 1), 10);
    let (id, ..) = take(&mut queue, now).unwrap();
    queue.done(now, id, Outcome::Unreachable);
    for number in [7, 8] {
        let hook = Hook::ServerKeepalive;
        queue.push(Item { hook, once: true, ..item("x", number) }, 10);
    }
    let (id, _, number) = take(&mut queue, now).unwrap();
    assert_eq!(number, 8, "only the newest, and although the server is in trouble");
    assert!(queue.done(now, id, Outcome::Unreachable).is_some());
    assert_eq!(queue.waiting_count(), 1);
}

#[test]
fn what_is_not_wanted_any_more_goes_and_the_rest_finds_its_new_server() {
    let (mut queue, now) = (Queue::default(), clock::now());
    queue.push(item("a", 1), 10);
    queue.push(Item { hook: Hook::ProxyState, ..item("a", 2) }, 10);
    let (id, ..) = take(&mut queue, now).unwrap();
    queue.done(now, id, Outcome::Unreachable);
    let gone = queue.retarget(|hook| (hook == Hook::ProxyState).then(|| "other:80".into()));
    assert_eq!(gone.len(), 1);
    let (_, item) = queue.take(now, ABSENT_MAX).unwrap();
    assert_eq!((item.hook, &*item.server), (Hook::ProxyState, "other:80"));
    assert_eq!(queue.waiting_count(), 1);
}

fn of(server: &str, stream: &str, number: u64) -> Item {
    Item { server: server.into(), ..item(stream, number) }
}

#[test]
fn a_server_that_stalls_has_its_own_slots_and_no_other_ones() {
    let (mut queue, now) = (Queue::default(), clock::now());
    for number in 0..20 {
        queue.push(of("stalled:80", &format!("s{number}"), number), 100);
    }
    let taken = std::iter::from_fn(|| take(&mut queue, now)).count();
    assert_eq!(taken, HOOK_POSTS_MAX);
    for number in 20..40 {
        queue.push(of("other:80", &format!("s{number}"), number), 100);
    }
    let other: Vec<u64> =
        std::iter::from_fn(|| take(&mut queue, now)).map(|(_, _, number)| number).collect();
    assert_eq!(other, (20..20 + HOOK_POSTS_MAX as u64).collect::<Vec<_>>());
}

#[test]
fn one_sign_of_life_is_under_way_and_takes_no_slot() {
    let (mut queue, now) = (Queue::default(), clock::now());
    let alive = |number| {
        let hook = Hook::ServerKeepalive;
        Item { hook, once: true, ..of("stalled:80", "x", number) }
    };
    for number in 0..20 {
        queue.push(of("stalled:80", &format!("s{number}"), number), 100);
    }
    assert_eq!(std::iter::from_fn(|| take(&mut queue, now)).count(), HOOK_POSTS_MAX);
    queue.push(alive(50), 100);
    let (first, _, number) = take(&mut queue, now).unwrap();
    assert_eq!(number, 50, "although its server has all its slots taken");
    queue.push(alive(51), 100);
    queue.push(alive(52), 100);
    assert_eq!(take(&mut queue, now), None, "not a second one beside it");
    queue.push(Item { hook: Hook::ServerExited, once: true, ..item("x", 60) }, 100);
    assert_eq!(take(&mut queue, now).unwrap().2, 60, "another hook does not wait for it");
    queue.done(now, first, Outcome::Unreachable);
    assert_eq!(take(&mut queue, now).unwrap().2, 52, "the newest follows");
}

#[test]
fn a_lane_goes_with_the_last_of_it() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    for number in 0..3 {
        queue.push(item(&format!("s{number}"), number), 3);
    }
    for _ in 0..3 {
        let (id, ..) = take(&mut queue, now).unwrap();
        queue.done(now, id, Outcome::NotNow);
    }
    queue.push(item("x", 3), 3);
    assert_eq!(queue.lanes.len(), 3, "that of the one that was pushed out is gone");
    now = queue.poll_timeout().unwrap();
    while let Some((id, ..)) = take(&mut queue, now) {
        queue.done(now, id, Outcome::Taken);
    }
    assert!(queue.lanes.is_empty() && queue.poll_timeout().is_none());
}

#[test]
fn order_is_kept_when_the_url_changes_while_a_call_is_under_way() {
    let (mut queue, now) = (Queue::default(), clock::now());
    queue.push(of("old:80", "a", 1), 10);
    queue.push(Item { hook: Hook::ProxyState, ..of("older:80", "a", 2) }, 10);
    let (first, ..) = take(&mut queue, now).unwrap();
    let (second, ..) = take(&mut queue, now).unwrap();
    assert_eq!(queue.retarget(|_| Some("new:80".into())), []);
    queue.push(of("new:80", "a", 3), 10);
    assert_eq!(take(&mut queue, now), None, "nothing overtakes what is under way");
    assert!(queue.done(now, second, Outcome::Unreachable).is_none());
    assert_eq!(take(&mut queue, now), None);
    assert!(queue.done(now, first, Outcome::Unreachable).is_none());
    for expected in 1..=3 {
        let (id, item) = queue.take(now, ABSENT_MAX).expect("the new server has not failed");
        assert_eq!((&*item.server, &item.body["number"]), ("new:80", &expected.into()));
        assert!(queue.take(now, ABSENT_MAX).is_none());
        queue.done(now, id, Outcome::Taken);
    }
    assert!(queue.lanes.is_empty());
}

#[test]
fn what_is_under_way_and_not_wanted_any_more_is_not_told_again() {
    let (mut queue, now) = (Queue::default(), clock::now());
    queue.push(item("a", 1), 10);
    queue.push(item("b", 2), 10);
    let [first, second] = [0; 2].map(|_| take(&mut queue, now).unwrap().0);
    queue.push(item("a", 3), 10);
    assert_eq!(queue.retarget(|_| None), [item("a", 3)], "what was not under way");
    assert_eq!(queue.done(now, first, Outcome::NotNow), Some(item("a", 1)), "it is over");
    assert!(queue.done(now, second, Outcome::Taken).is_some(), "its answer counts");
    assert_eq!((queue.waiting_count(), queue.lanes.len()), (0, 0));
}

/// Servers that fail at random and URLs that change: all is told, each stream in its order.
#[test]
fn nothing_is_lost_or_overtaken_whatever_servers_do() {
    let (mut queue, mut now, mut state) = (Queue::default(), clock::now(), 7_u64);
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let (mut next, mut server, mut calls) = (0, 0, Vec::new());
    let mut told: HashMap<String, Vec<u64>> = HashMap::new();
    for turn in 0..20_000 {
        let is_over = turn >= 10_000;
        match random(10) {
            0 if !is_over && random(20) == 0 => {
                server = random(3);
                assert_eq!(queue.retarget(|_| Some(format!("h{server}:80").into())), []);
            }
            0..2 if !is_over => {
                let (server, stream) = (format!("h{server}:80"), random(5));
                queue.push(of(&server, &format!("s{stream}"), next), usize::MAX);
                next += 1;
            }
            2..6 => calls.extend(take(&mut queue, now)),
            6 => now = queue.poll_timeout().map_or(now, |due| due.max(now)),
            _ if !calls.is_empty() => {
                let at = random(calls.len() as u64) as usize;
                let (id, stream, number) = calls.swap_remove(at);
                assert!(calls.iter().all(|call| call.1 != stream), "one call at a time");
                let outcome = match random(4) {
                    0 if !is_over => Outcome::NotNow,
                    1 if !is_over => Outcome::Unreachable,
                    _ => Outcome::Taken,
                };
                assert_eq!(queue.done(now, id, outcome).is_some(), outcome == Outcome::Taken);
                if outcome == Outcome::Taken {
                    told.entry(stream).or_default().push(number);
                }
            }
            _ => {}
        }
    }
    assert_eq!((queue.waiting_count(), queue.lanes.len()), (0, 0));
    assert_eq!(told.values().map(Vec::len).sum::<usize>() as u64, next);
    assert!(told.values().all(|numbers| numbers.is_sorted()), "{told:?}");
}

#[test]
fn what_anybody_can_cause_pushes_nothing_else_out() {
    let (mut queue, now) = (Queue::default(), clock::now());
    assert_eq!(queue.push(absent(1), 2), None);
    assert_eq!(queue.push(item("a", 2), 2), None);
    assert_eq!(queue.push(absent(3), 2), None);
    assert_eq!(queue.push(item("a", 4), 2), None);
    assert_eq!(queue.push(absent(5), 2), Some(absent(1)));
    assert_eq!(queue.push(item("b", 6), 2), Some(item("a", 2)), "nor it by others");
    let mut left = Vec::new();
    while let Some((id, _, number)) = take(&mut queue, now) {
        left.push(number);
        queue.done(now, id, Outcome::Taken);
    }
    assert_eq!(left, [3, 4, 5, 6]);
    for number in 0..2 * HOOK_ABSENT_WAITING_MAX as u64 {
        queue.push(absent(number), usize::MAX);
    }
    assert_eq!(queue.waiting_count(), HOOK_ABSENT_WAITING_MAX, "others wait for no more");
    assert_eq!(queue.lanes.len(), HOOK_ABSENT_WAITING_MAX);
}

#[test]
fn calls_that_players_wait_for_have_slots_of_their_own() {
    let (mut queue, mut now) = (Queue::default(), clock::now());
    for number in 0..20 {
        queue.push(absent(number), 100);
    }
    let take_all = |queue: &mut Queue, now, max| -> Vec<(u64, u64)> {
        let mut take = || {
            let (id, item) = queue.take(now, max)?;
            Some((id, item.body["number"].as_u64().unwrap()))
        };
        std::iter::from_fn(&mut take).collect()
    };
    let first = take_all(&mut queue, now, 12);
    assert_eq!(first.len(), 12, "the operator's number");
    for number in 20..40 {
        queue.push(item(&format!("s{number}"), number), 100);
    }
    let told = take_all(&mut queue, now, 12);
    let numbers: Vec<u64> = told.iter().map(|&(_, number)| number).collect();
    assert_eq!(numbers, (20..20 + HOOK_POSTS_MAX as u64).collect::<Vec<_>>(), "nothing held up");
    assert_eq!(take_all(&mut queue, now, 14).len(), 2, "a higher number acts at once");
    for (id, _) in first {
        queue.done(now, id, Outcome::NotNow);
    }
    now = queue.poll_timeout().unwrap();
    let again = take_all(&mut queue, now, 12);
    let numbers: Vec<u64> = again.iter().map(|&(_, number)| number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 14, 15, 16, 17], "those that failed take half");
    for (id, _) in again {
        queue.done(now, id, Outcome::Taken);
    }
    // One of its stream is told after what came before it.
    queue.push(Item { hook: Hook::StreamNotFound, ..item("s39", 40) }, 100);
    assert!(take_all(&mut queue, now, 12).iter().all(|&(_, number)| number != 40));
}

/// Players wait for what nobody brings.
fn absent(number: u64) -> Item {
    Item { hook: Hook::StreamNotFound, ..item(&format!("random{number}"), number) }
}
