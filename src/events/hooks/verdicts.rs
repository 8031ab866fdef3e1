//! Players and publishers that a hook is asked about before they may go on. Pure.
//!
//! Each is answered once: by the hook, or by the operator's policy when its time is over. Each hook
//! has its own slots, at each server anew, so that none waits for another.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::reply::Said;
use crate::bus::keeper::{Question, Verdict};
use crate::config::{Hook, HookSection};
use crate::limits::{
    HOOK_QUESTIONS_ALL_MAX, HOOK_QUESTIONS_MAX, HOOK_VERDICTS_KEPT_MAX, HOOK_WAITERS_MAX,
};
use crate::media::{ShardId, StreamKey};

/// Who waits for a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) shard: ShardId,
    pub(super) serial: u64,
}

#[derive(Default)]
pub(super) struct Verdicts {
    open: HashMap<u64, Open>,
    slots: HashMap<Hook, Slots>,
    /// Ends of waits, and begins of further tries.
    due: BTreeSet<(Instant, u64, Due)>,
    kept: HashMap<Case, (Instant, Verdict)>,
    /// The hook, and the URLs that were when it was asked.
    under_way: HashMap<u64, (Hook, u64)>,
    /// Goes up with each change of the URLs.
    urls: u64,
    newest: u64,
}

/// Those that ask one hook.
#[derive(Default)]
struct Slots {
    ready: VecDeque<u64>,
    /// At the server that the hook has now.
    under_way: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Retry,
    End,
}

struct Open {
    asker: Asker,
    question: Box<Question>,
    deadline: Instant,
    retries_left: u64,
}

/// What one answer counts for.
#[derive(PartialEq, Eq, Hash)]
struct Case {
    hook: Hook,
    key: StreamKey,
    params: String,
    address: IpAddr,
}

impl Verdicts {
    /// Enters a question, or answers it at once: from memory, or because too many wait.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        config: &HookSection,
        asker: Asker,
        question: Box<Question>,
    ) -> Option<Verdict> {
        if let Some((until, verdict)) = self.kept.get(&Case::of(&question))
            && now < *until
        {
            return Some(verdict.clone());
        }
        if self.open.len() >= HOOK_WAITERS_MAX {
            return Some(by_policy(config, "too many wait for it"));
        }
        self.newest += 1;
        let deadline = now + Duration::from_millis(config.timeout_ms);
        let retries_left = config.retry_count;
        self.open.insert(self.newest, Open { asker, question, deadline, retries_left });
        self.due.insert((deadline, self.newest, Due::End));
        let hook = self.open[&self.newest].question.hook;
        self.slots.entry(hook).or_default().ready.push_back(self.newest);
        None
    }

    /// The next that the hook is to be asked, its number and until when.
    pub(super) fn take(&mut self) -> Option<(u64, &Question, Instant)> {
        if self.under_way.len() >= HOOK_QUESTIONS_ALL_MAX {
            return None;
        }
        for (&hook, slots) in &mut self.slots {
            while slots.under_way < HOOK_QUESTIONS_MAX
                && let Some(id) = slots.ready.pop_front()
            {
                if let Some(open) = self.open.get(&id) {
                    slots.under_way += 1;
                    self.under_way.insert(id, (hook, self.urls));
                    return Some((id, &open.question, open.deadline));
                }
            }
        }
        None
    }

    /// What the hook said to one that was taken out.
    pub(super) fn said(
        &mut self,
        now: Instant,
        config: &HookSection,
        id: u64,
        said: Said,
    ) -> Option<(Asker, Verdict)> {
        let (hook, urls) = self.under_way.remove(&id)?;
        let is_of_these_urls = urls == self.urls;
        if is_of_these_urls && let Some(slots) = self.slots.get_mut(&hook) {
            slots.under_way -= 1;
        }
        let open = self.open.get_mut(&id)?;
        let verdict = match said {
            Said::Yes { .. } => Verdict::Allow,
            Said::No(text) => Verdict::Deny(text),
            Said::Nothing(text) => {
                let again = now + retry_delay(config);
                if open.retries_left > 0 && again < open.deadline {
                    open.retries_left -= 1;
                    self.due.insert((again, id, Due::Retry));
                    return None;
                }
                return Some(self.close(id, by_policy(config, &text)));
            }
        };
        if is_of_these_urls {
            self.keep(now, config, id, &verdict);
        }
        Some(self.close(id, verdict))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|&(at, ..)| at)
    }

    /// Those whose time is over.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        config: &HookSection,
    ) -> Vec<(Asker, Verdict)> {
        let mut over = Vec::new();
        while let Some(&(at, id, due)) = self.due.first()
            && at <= now
        {
            self.due.pop_first();
            match due {
                Due::Retry => {
                    if let Some(open) = self.open.get(&id) {
                        let slots = self.slots.entry(open.question.hook).or_default();
                        slots.ready.push_back(id);
                    }
                }
                Due::End if self.open.contains_key(&id) => {
                    over.push(self.close(id, by_policy(config, "no answer in time")));
                }
                Due::End => {}
            }
        }
        over
    }

    /// Hooks have other URLs: what was answered before counts for nobody who comes now, and what is
    /// under way takes no slot of the new server.
    pub(super) fn forget_servers(&mut self) {
        self.kept.clear();
        self.urls += 1;
        self.slots.values_mut().for_each(|slots| slots.under_way = 0);
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.open.len()
    }

    fn close(&mut self, id: u64, verdict: Verdict) -> (Asker, Verdict) {
        let open = self.open.remove(&id).expect("callers look");
        self.due.remove(&(open.deadline, id, Due::End));
        (open.asker, verdict)
    }

    fn keep(&mut self, now: Instant, config: &HookSection, id: u64, verdict: &Verdict) {
        if config.verdict_cache_ms == 0 {
            return;
        }
        if self.kept.len() >= HOOK_VERDICTS_KEPT_MAX {
            self.kept.retain(|_, (until, _)| now < *until);
        }
        if self.kept.len() < HOOK_VERDICTS_KEPT_MAX {
            let until = now + Duration::from_millis(config.verdict_cache_ms);
            let case = Case::of(&self.open[&id].question);
            self.kept.insert(case, (until, verdict.clone()));
        }
    }
}

impl Case {
    fn of(question: &Question) -> Self {
        Self {
            hook: question.hook,
            key: question.key.clone(),
            params: question.peer.params.clone(),
            address: question.peer.address.ip(),
        }
    }
}

/// Shorter than the operator says where the timeout has no room for all tries.
fn retry_delay(config: &HookSection) -> Duration {
    let room_ms = config.timeout_ms / (config.retry_count + 1);
    Duration::from_millis(config.retry_delay_ms.min(room_ms))
}

fn by_policy(config: &HookSection, text: &str) -> Verdict {
    match config.fail_open {
        true => Verdict::Allow,
        false => Verdict::Deny(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::event::Peer;
    use crate::clock;
    use crate::config::Config;
    use crate::media::ConnectionId;

    const YES: Said = Said::Yes { close: false };

    fn config(change: impl FnOnce(&mut HookSection)) -> HookSection {
        let mut hook = Config::default().hook;
        (hook.timeout_ms, hook.retry_delay_ms, hook.retry_count) = (1000, 100, 1);
        change(&mut hook);
        hook
    }

    fn asker(serial: u64) -> Asker {
        Asker { shard: ShardId(0), serial }
    }

    fn question(params: &str) -> Box<Question> {
        let peer = Peer {
            connection: ConnectionId { serial: 1, shard: ShardId(0) },
            address: "10.0.0.1:5".parse().unwrap(),
            protocol: "http",
            params: params.to_owned(),
            is_player: true,
        };
        let key = StreamKey::in_default_vhost("live", "a").unwrap();
        Box::new(Question { hook: Hook::Play, key, peer })
    }

    #[test]
    fn a_hook_decides_and_its_word_is_final() {
        let (mut verdicts, now, config) = (Verdicts::default(), clock::now(), config(|_| {}));
        for (serial, said, verdict) in
            [(1, YES, Verdict::Allow), (2, Said::No("x".into()), Verdict::Deny("x".into()))]
        {
            assert_eq!(verdicts.ask(now, &config, asker(serial), question("")), None);
            let (id, ..) = verdicts.take().unwrap();
            assert!(verdicts.take().is_none());
            let told = verdicts.said(now, &config, id, said);
            assert_eq!(told, Some((asker(serial), verdict)));
        }
        assert_eq!((verdicts.waiting_count(), verdicts.poll_timeout()), (0, None));
    }

    #[test]
    fn silence_is_asked_again_and_then_the_policy_decides() {
        for fail_open in [false, true] {
            let (mut verdicts, start) = (Verdicts::default(), clock::now());
            let config = config(|hook| hook.fail_open = fail_open);
            verdicts.ask(start, &config, asker(1), question(""));
            let (id, ..) = verdicts.take().unwrap();
            assert_eq!(verdicts.said(start, &config, id, Said::Nothing("e".into())), None);
            let again = verdicts.poll_timeout().unwrap();
            assert_eq!((again - start).as_millis(), 100);
            assert!(verdicts.handle_timeout(again, &config).is_empty());
            let (id, ..) = verdicts.take().unwrap();
            let (_, verdict) =
                verdicts.said(again, &config, id, Said::Nothing("e".into())).unwrap();
            assert_eq!(verdict == Verdict::Allow, fail_open);
        }
    }

    #[test]
    fn nobody_waits_longer_than_the_timeout() {
        let (mut verdicts, start, config) = (Verdicts::default(), clock::now(), config(|_| {}));
        verdicts.ask(start, &config, asker(1), question(""));
        let (id, _, until) = verdicts.take().unwrap();
        assert_eq!((until - start).as_millis(), 1000);
        let over = verdicts.handle_timeout(until, &config);
        assert!(matches!(over[..], [(_, Verdict::Deny(_))]));
        assert_eq!(verdicts.said(until, &config, id, YES), None, "too late");
        // Asked too late for another try.
        verdicts.ask(start, &config, asker(2), question(""));
        let (id, ..) = verdicts.take().unwrap();
        let late = start + Duration::from_millis(950);
        assert!(verdicts.said(late, &config, id, Said::Nothing("e".into())).is_some());
    }

    #[test]
    fn an_answer_is_remembered_for_the_same_case_as_long_as_the_operator_says() {
        let (mut verdicts, now) = (Verdicts::default(), clock::now());
        let config = config(|hook| hook.verdict_cache_ms = 500);
        verdicts.ask(now, &config, asker(1), question("t=1"));
        let (id, ..) = verdicts.take().unwrap();
        verdicts.said(now, &config, id, YES);
        assert_eq!(verdicts.ask(now, &config, asker(2), question("t=1")), Some(Verdict::Allow));
        assert_eq!(verdicts.ask(now, &config, asker(3), question("t=2")), None);
        let later = now + Duration::from_millis(500);
        assert_eq!(verdicts.ask(later, &config, asker(4), question("t=1")), None);
    }

    #[test]
    fn a_bounded_number_is_asked_at_once() {
        let (mut verdicts, now, config) = (Verdicts::default(), clock::now(), config(|_| {}));
        for serial in 0..HOOK_QUESTIONS_MAX as u64 + 1 {
            verdicts.ask(now, &config, asker(serial), question(""));
        }
        let first = verdicts.take().unwrap().0;
        assert_eq!(
            std::iter::from_fn(|| verdicts.take().map(|_| ())).count(),
            HOOK_QUESTIONS_MAX - 1
        );
        verdicts.said(now, &config, first, YES);
        assert!(verdicts.take().is_some());
    }

    #[test]
    fn a_hook_that_stalls_holds_no_slot_of_another_or_of_its_next_server() {
        let (mut verdicts, now, config) = (Verdicts::default(), clock::now(), config(|_| {}));
        let count = |verdicts: &mut Verdicts| {
            std::iter::from_fn(|| verdicts.take().map(|(_, question, _)| question.hook)).count()
        };
        let ask = |verdicts: &mut Verdicts, serial, hook| {
            let question = Box::new(Question { hook, ..*question("") });
            verdicts.ask(now, &config, asker(serial), question);
        };
        for serial in 0..100 {
            ask(&mut verdicts, serial, Hook::Play);
        }
        assert_eq!(count(&mut verdicts), HOOK_QUESTIONS_MAX);
        ask(&mut verdicts, 100, Hook::Publish);
        assert_eq!(verdicts.take().map(|(_, question, _)| question.hook), Some(Hook::Publish));
        verdicts.forget_servers();
        assert_eq!(count(&mut verdicts), HOOK_QUESTIONS_MAX);
        for id in 1..=HOOK_QUESTIONS_MAX as u64 {
            verdicts.said(now, &config, id, YES);
        }
        assert_eq!(count(&mut verdicts), 0, "those of the old server make no room at the new one");
    }

    #[test]
    fn what_the_server_before_said_is_not_remembered() {
        let (mut verdicts, now) = (Verdicts::default(), clock::now());
        let config = config(|hook| hook.verdict_cache_ms = 60_000);
        verdicts.ask(now, &config, asker(1), question(""));
        let (id, ..) = verdicts.take().unwrap();
        verdicts.forget_servers();
        assert!(verdicts.said(now, &config, id, YES).is_some(), "it was asked, and counts");
        assert_eq!(verdicts.ask(now, &config, asker(2), question("")), None);
    }

    #[test]
    fn a_short_timeout_has_room_for_all_tries() {
        let (mut verdicts, start) = (Verdicts::default(), clock::now());
        let config = config(|hook| (hook.retry_delay_ms, hook.retry_count) = (3000, 3));
        verdicts.ask(start, &config, asker(1), question(""));
        let mut now = start;
        for _ in 0..3 {
            let (id, ..) = verdicts.take().unwrap();
            assert_eq!(verdicts.said(now, &config, id, Said::Nothing("e".into())), None);
            now = verdicts.poll_timeout().unwrap();
            assert!(verdicts.handle_timeout(now, &config).is_empty());
        }
        assert_eq!((now - start).as_millis(), 750);
        let (id, ..) = verdicts.take().unwrap();
        assert!(verdicts.said(now, &config, id, Said::Nothing("e".into())).is_some());
    }
}
