//! Who is answered, by whom and when, with servers that are slow, silent and gone.

use super::*;
use crate::bus::event::Peer;
use crate::clock;
use crate::config::Config;
use crate::media::{ConnectionId, StreamKey};

const YES: Said = Said::Yes { close: false };
const TIMEOUT: Duration = Duration::from_millis(1000);

struct Scene {
    verdicts: Verdicts,
    config: HookSection,
    now: Instant,
}

impl Scene {
    fn new(change: impl FnOnce(&mut HookSection)) -> Self {
        let mut config = Config::default().hook;
        (config.timeout_ms, config.retry_delay_ms, config.retry_count) = (1000, 100, 1);
        config.concurrent_max = 4;
        change(&mut config);
        Self { verdicts: Verdicts::default(), config, now: clock::now() }
    }

    fn ask(&mut self, serial: u64, params: &str) -> Asked {
        self.verdicts.ask(self.now, &self.config, asker(serial), question(Hook::Play, params))
    }

    fn take(&mut self) -> Option<u64> {
        self.verdicts.take(self.now, &self.config).map(|(id, ..)| id)
    }

    fn take_all(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.take()).collect()
    }

    fn say(&mut self, id: u64, said: Said) -> Option<Judgment> {
        self.verdicts.said(self.now, &self.config, id, said)
    }

    fn fail(&mut self, id: u64) -> Option<Judgment> {
        self.say(id, Said::Nothing("e".to_owned()))
    }

    /// Goes to the next time that matters.
    fn wait(&mut self) -> Vec<Judgment> {
        self.now = self.verdicts.poll_timeout().expect("something is open");
        self.verdicts.handle_timeout(self.now, &self.config)
    }

    fn is_empty(&self) -> bool {
        let Verdicts { open, by_asker, by_case, slots, due, .. } = &self.verdicts;
        let queued = slots.values().map(|slots| slots.queued.len()).sum::<usize>();
        open.is_empty()
            && by_asker.is_empty()
            && by_case.is_empty()
            && due.is_empty()
            && queued == 0
    }
}

fn asker(serial: u64) -> Asker {
    Asker { shard: ShardId(0), serial }
}

fn question(hook: Hook, params: &str) -> Box<Question> {
    let peer = Peer {
        connection: ConnectionId { serial: 1, shard: ShardId(0) },
        address: "10.0.0.1:5".parse().unwrap(),
        protocol: "http",
        params: params.to_owned(),
        is_player: true,
    };
    let key = StreamKey::in_default_vhost("live", "a").unwrap();
    Box::new(Question { hook, key, peer })
}

fn judged(serials: impl IntoIterator<Item = u64>, verdict: Verdict) -> Option<Judgment> {
    let askers = serials.into_iter().map(asker).collect();
    Some(Judgment { askers, verdict, is_unanswered: false })
}

#[test]
fn a_hook_decides_and_its_word_is_final() {
    let mut scene = Scene::new(|_| {});
    for (serial, said, verdict) in
        [(1, YES, Verdict::Allow), (2, Said::No("x".into()), Verdict::Deny("x".into()))]
    {
        assert_eq!(scene.ask(serial, ""), Asked::Waits);
        let id = scene.take().unwrap();
        assert_eq!(scene.take(), None);
        assert_eq!(scene.say(id, said), judged([serial], verdict));
    }
    assert!(scene.is_empty());
}

#[test]
fn silence_is_asked_again_and_then_the_policy_decides() {
    for fail_open in [false, true] {
        let mut scene = Scene::new(|hook| hook.fail_open = fail_open);
        let start = scene.now;
        scene.ask(1, "");
        let id = scene.take().unwrap();
        assert_eq!(scene.fail(id), None);
        assert!(scene.wait().is_empty());
        assert_eq!((scene.now - start).as_millis(), 100);
        let id = scene.take().unwrap();
        let judgment = scene.fail(id).unwrap();
        assert_eq!(judgment.verdict == Verdict::Allow, fail_open);
        assert!(judgment.is_unanswered && scene.is_empty());
    }
}

#[test]
fn nobody_waits_longer_than_the_timeout_for_a_server_that_is_silent() {
    let mut scene = Scene::new(|_| {});
    let start = scene.now;
    for serial in 1..=10 {
        scene.ask(serial, "");
    }
    let called = scene.take_all();
    assert_eq!(called.len(), 4);
    let over = scene.wait();
    assert_eq!(scene.now - start, TIMEOUT);
    let askers: usize = over.iter().map(|judgment| judgment.askers.len()).sum();
    assert_eq!(askers, 10, "those in the queue do not wait for their turn");
    assert!(over.iter().all(|judgment| judgment.is_unanswered));
    for id in called {
        assert_eq!(scene.say(id, YES), None, "too late");
    }
    // Asked too late for another try.
    scene.ask(11, "");
    let id = scene.take().unwrap();
    scene.now += Duration::from_millis(950);
    assert!(scene.fail(id).is_some());
    assert!(scene.is_empty());
}

/// Four at a time that take 0.9 s each: the last of a hundred has its turn after 22 timeouts.
#[test]
fn a_queue_costs_nobody_a_verdict_while_the_server_answers() {
    let mut scene = Scene::new(|_| {});
    let start = scene.now;
    for serial in 0..100 {
        scene.ask(serial, "");
    }
    let mut answered = 0;
    loop {
        let called = scene.take_all();
        if called.is_empty() {
            break;
        }
        scene.now += TIMEOUT * 9 / 10;
        let over = scene.verdicts.handle_timeout(scene.now, &scene.config);
        assert_eq!(over, [], "after {answered}");
        for id in called {
            assert_eq!(scene.say(id, YES).unwrap().verdict, Verdict::Allow);
            answered += 1;
        }
    }
    assert_eq!(answered, 100);
    assert!(scene.now - start > TIMEOUT * 20 && scene.is_empty());
}

#[test]
fn a_server_that_falls_silent_costs_who_queues_one_timeout_from_then() {
    let mut scene = Scene::new(|_| {});
    for serial in 0..10 {
        scene.ask(serial, "");
    }
    let called = scene.take_all();
    scene.now += TIMEOUT / 2;
    scene.say(called[0], YES);
    scene.take_all();
    let last_word = scene.now;
    assert_eq!(scene.wait().len(), 3, "those that were called have had their time");
    assert_eq!(scene.now - last_word, TIMEOUT / 2);
    let over = scene.wait();
    assert_eq!((over.len(), scene.now - last_word), (6, TIMEOUT));
    assert!(scene.is_empty());
}

#[test]
fn what_waits_for_another_try_takes_its_turn_before_who_came_later_and_pays_for_no_queue() {
    let mut scene = Scene::new(|hook| hook.concurrent_max = 1);
    for serial in 1..=3 {
        scene.ask(serial, "");
    }
    let first = scene.take().unwrap();
    scene.now += TIMEOUT / 4;
    assert_eq!(scene.fail(first), None);
    let second = scene.take().unwrap();
    scene.now += TIMEOUT / 2;
    assert_eq!(scene.verdicts.handle_timeout(scene.now, &scene.config), []);
    assert_eq!(scene.say(second, YES), judged([2], Verdict::Allow));
    let (id, _, until) = scene.verdicts.take(scene.now, &scene.config).unwrap();
    assert_eq!((id, until - scene.now), (first, TIMEOUT * 3 / 4 - Duration::from_millis(100)));
}

#[test]
fn an_answer_is_remembered_for_the_same_case_as_long_as_the_operator_says() {
    let mut scene = Scene::new(|hook| hook.verdict_cache_ms = 500);
    scene.ask(1, "t=1");
    let id = scene.take().unwrap();
    scene.say(id, YES);
    assert_eq!(scene.ask(2, "t=1"), Asked::Known(Verdict::Allow));
    assert_eq!(scene.ask(3, "t=2"), Asked::Waits);
    scene.now += Duration::from_millis(500);
    assert_eq!(scene.ask(4, "t=1"), Asked::Waits);
}

#[test]
fn equal_questions_are_one_where_answers_are_remembered() {
    for cache_ms in [0, 500] {
        let mut scene = Scene::new(|hook| {
            (hook.verdict_cache_ms, hook.concurrent_max) = (cache_ms, 1000);
        });
        for serial in 0..100 {
            assert_eq!(scene.ask(serial, "t=1"), Asked::Waits);
        }
        scene.ask(100, "t=2");
        let called = scene.take_all();
        if cache_ms == 0 {
            assert_eq!(called.len(), 101);
            continue;
        }
        assert_eq!(called.len(), 2);
        scene.verdicts.withdraw(asker(7));
        let others = (0..100).filter(|&serial| serial != 7);
        assert_eq!(scene.say(called[0], YES), judged(others, Verdict::Allow));
        assert_eq!(scene.say(called[1], YES), judged([100], Verdict::Allow));
        assert!(scene.is_empty());
    }
}

#[test]
fn who_hangs_up_is_asked_about_no_more() {
    let mut scene = Scene::new(|hook| hook.verdict_cache_ms = 500);
    for serial in 0..7 {
        scene.ask(serial, &format!("t={serial}"));
    }
    scene.ask(100, "t=6");
    let called = scene.take_all();
    assert_eq!(called.len(), 4);
    for serial in [0, 1, 4, 5, 6] {
        assert!(scene.verdicts.withdraw(asker(serial)));
        assert!(!scene.verdicts.withdraw(asker(serial)), "once");
    }
    assert_eq!(scene.verdicts.waiting_count(), 3);
    assert_eq!(scene.say(called[0], YES), judged([], Verdict::Allow));
    assert_eq!(scene.ask(0, "t=0"), Asked::Known(Verdict::Allow), "an answer is an answer");
    assert_eq!(scene.fail(called[1]).unwrap().askers.len(), 0, "nobody waits for another try");
    let last = scene.take_all();
    assert_eq!(last.len(), 1, "those in the queue have gone");
    assert_eq!(scene.say(last[0], YES), judged([100], Verdict::Allow));
    for id in [called[2], called[3]] {
        scene.say(id, YES);
    }
    assert!(scene.is_empty());
}

#[test]
fn a_bounded_number_is_asked_at_once_and_the_bound_changes_at_once() {
    let mut scene = Scene::new(|_| {});
    for serial in 0..20 {
        scene.ask(serial, "");
    }
    let called = scene.take_all();
    assert_eq!(called.len(), 4);
    scene.say(called[0], YES);
    assert_eq!(scene.take_all().len(), 1);
    scene.config.concurrent_max = 10;
    assert_eq!(scene.take_all().len(), 6);
    scene.config.concurrent_max = 2;
    scene.say(called[1], YES);
    assert_eq!(scene.take(), None);
}

#[test]
fn so_many_wait_and_the_policy_answers_those_beyond() {
    let mut scene = Scene::new(|_| {});
    for serial in 0..HOOK_WAITERS_MAX as u64 {
        assert_eq!(scene.ask(serial, ""), Asked::Waits);
    }
    let beyond = u64::MAX;
    assert!(matches!(scene.ask(beyond, ""), Asked::Overflow(Verdict::Deny(_))));
    scene.config.fail_open = true;
    assert_eq!(scene.ask(beyond, ""), Asked::Overflow(Verdict::Allow));
    scene.verdicts.withdraw(asker(7));
    assert_eq!(scene.ask(beyond, ""), Asked::Waits);
}

#[test]
fn a_hook_that_stalls_holds_no_slot_of_another_or_of_its_next_server() {
    let mut scene = Scene::new(|_| {});
    for serial in 0..100 {
        scene.ask(serial, "");
    }
    let called = scene.take_all();
    assert_eq!(called.len(), 4);
    let (now, publish) = (scene.now, question(Hook::Publish, ""));
    scene.verdicts.ask(now, &scene.config, asker(100), publish);
    let (_, question, _) = scene.verdicts.take(now, &scene.config).unwrap();
    assert_eq!(question.hook, Hook::Publish);
    scene.now += TIMEOUT / 2;
    scene.verdicts.forget_servers(scene.now);
    assert_eq!(scene.take_all().len(), 4);
    for &id in &called {
        scene.say(id, YES);
    }
    assert_eq!(scene.take(), None, "those of the old server make no room at the new one");
    scene.now += TIMEOUT / 2;
    let over = scene.verdicts.handle_timeout(scene.now, &scene.config);
    assert_eq!(over.len(), 1, "the new server has its time for who queues");
}

#[test]
fn what_the_server_before_said_is_not_remembered() {
    let mut scene = Scene::new(|hook| hook.verdict_cache_ms = 60_000);
    scene.ask(1, "");
    let id = scene.take().unwrap();
    scene.verdicts.forget_servers(scene.now);
    assert_eq!(scene.ask(2, ""), Asked::Waits);
    assert_eq!(scene.say(id, YES), judged([1], Verdict::Allow), "it was asked, and counts");
    assert_eq!(scene.ask(3, ""), Asked::Waits);
    let id = scene.take().unwrap();
    assert_eq!(scene.say(id, YES), judged([2, 3], Verdict::Allow));
}

#[test]
fn a_short_timeout_has_room_for_all_tries() {
    let mut scene = Scene::new(|hook| (hook.retry_delay_ms, hook.retry_count) = (3000, 3));
    let start = scene.now;
    scene.ask(1, "");
    for _ in 0..3 {
        let id = scene.take().unwrap();
        assert_eq!(scene.fail(id), None);
        assert!(scene.wait().is_empty());
    }
    assert_eq!((scene.now - start).as_millis(), 750);
    let id = scene.take().unwrap();
    assert!(scene.fail(id).is_some());
}
