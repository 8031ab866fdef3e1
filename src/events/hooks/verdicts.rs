//! Players and publishers that a hook is asked about before they may go on. Pure.
//!
//! ```text
//!                     ┌── the server answers nobody for a timeout ──► policy
//!  ask ──► queued ── a slot is free ──► called ── it answers ───────► its word
//!             ▲                          │  └──── no time is left ──► policy
//!             └──────── resting ◄────────┘ a failure, time for another try is left
//! ```
//!
//! Each is answered once. What a call may take is counted while it is under way, and the queue costs nobody
//! anything as long as the server answers: who does not want to wait hangs up, and is asked about no more.
//! Each hook has its own slots, at each server anew, so that none waits for another.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::memory::{Case, Memory};
use super::reply::Said;
use crate::bus::keeper::{Question, Verdict};
use crate::config::{Hook, HookSection};
use crate::limits::{HOOK_SERVERS_MAX, HOOK_WAITERS_MAX};
use crate::media::ShardId;

/// Who waits for a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Asker {
    pub(super) shard: ShardId,
    pub(super) serial: u64,
}

/// A verdict, and for whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgment {
    pub(super) askers: BTreeSet<Asker>,
    pub(super) verdict: Verdict,
    /// It is the policy's, as the hook said nothing.
    pub(super) is_unanswered: bool,
}

/// What comes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It waits for the hook, or for the answer to an equal one.
    Waits,
    /// The hook has said so a moment ago.
    Known(Verdict),
    /// Too many wait. The policy's verdict.
    Overflow(Verdict),
}

#[derive(Default)]
pub(super) struct Verdicts {
    open: HashMap<u64, Open>,
    by_asker: HashMap<Asker, u64>,
    /// Questions whose answer counts for others, too.
    by_case: HashMap<Case, u64>,
    slots: HashMap<Hook, Slots>,
    /// One entry of each open question: when something becomes of it that the server does not do.
    due: BTreeSet<(Instant, u64)>,
    memory: Memory,
    /// The hook, and the URLs that were when it was asked.
    under_way: HashMap<u64, (Hook, u64)>,
    /// Goes up with each change of the URLs.
    urls: u64,
    newest: u64,
}

/// Those that ask one hook.
#[derive(Default)]
struct Slots {
    /// The oldest first, also where it is asked again.
    queued: BTreeSet<u64>,
    /// At the server that the hook has now.
    under_way: usize,
    /// When that answered last, or became the hook's.
    alive: Option<Instant>,
}

struct Open {
    askers: BTreeSet<Asker>,
    question: Box<Question>,
    case: Case,
    stand: Stand,
    /// Its entry in `due`.
    due: Instant,
    /// What calls may still take.
    left: Duration,
    retries_left: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// Due when the server has said nothing to anybody for a timeout.
    Queued,
    /// Due when its time is over.
    Called,
    /// Due when it is asked again.
    Resting,
}

impl Verdicts {
    /// Enters a question, unless it can be answered at once.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        config: &HookSection,
        asker: Asker,
        question: Box<Question>,
    ) -> Asked {
        let case = Case::of(&question);
        if let Some(verdict) = self.memory.recall(now, case) {
            return Asked::Known(verdict);
        }
        if self.by_asker.len() >= HOOK_WAITERS_MAX {
            return Asked::Overflow(by_policy(config, "too many wait for it"));
        }
        if let Some(&id) = self.by_case.get(&case) {
            self.open.get_mut(&id).expect("it is open").askers.insert(asker);
            self.by_asker.insert(asker, id);
            return Asked::Waits;
        }
        self.newest += 1;
        let id = self.newest;
        if config.verdict_cache_ms > 0 {
            self.by_case.insert(case, id);
        }
        self.by_asker.insert(asker, id);
        let time = Duration::from_millis(config.timeout_ms);
        let open = Open {
            askers: BTreeSet::from([asker]),
            question,
            case,
            stand: Stand::Resting,
            due: now,
            left: time,
            retries_left: config.retry_count,
        };
        self.open.insert(id, open);
        self.enqueue(now, config, id);
        Asked::Waits
    }

    /// Who asked has gone. What was not put to the hook is not, unless others wait for it.
    pub(super) fn withdraw(&mut self, asker: Asker) -> bool {
        let Some(id) = self.by_asker.remove(&asker) else { return false };
        let open = self.open.get_mut(&id).expect("it waits for that");
        open.askers.remove(&asker);
        if open.askers.is_empty() && open.stand != Stand::Called {
            self.close(id);
        }
        true
    }

    /// The next that the hook is to be asked, its number and until when.
    pub(super) fn take(
        &mut self,
        now: Instant,
        config: &HookSection,
    ) -> Option<(u64, &Question, Instant)> {
        let max = config.questions_max();
        if self.under_way.len() >= self.slots.len() * HOOK_SERVERS_MAX * max {
            return None;
        }
        let mut free = self.slots.iter_mut().filter(|(_, slots)| slots.under_way < max);
        let (hook, id) = free.find_map(|(&hook, slots)| {
            let id = slots.queued.pop_first()?;
            slots.under_way += 1;
            Some((hook, id))
        })?;
        self.under_way.insert(id, (hook, self.urls));
        let until = now + self.open[&id].left;
        self.stand(id, Stand::Called, until);
        Some((id, &self.open[&id].question, until))
    }

    /// What the hook said to one that was taken out.
    pub(super) fn said(
        &mut self,
        now: Instant,
        config: &HookSection,
        id: u64,
        said: Said,
    ) -> Option<Judgment> {
        let (hook, urls) = self.under_way.remove(&id)?;
        let is_of_these_urls = urls == self.urls;
        if is_of_these_urls && let Some(slots) = self.slots.get_mut(&hook) {
            slots.under_way -= 1;
            if !matches!(said, Said::Nothing(_)) {
                slots.alive = Some(now);
            }
        }
        let open = self.open.get_mut(&id)?;
        let verdict = match said {
            Said::Yes { .. } => Verdict::Allow,
            Said::No(text) => Verdict::Deny(text),
            Said::Nothing(text) => {
                let again = now + retry_delay(config);
                if open.retries_left > 0 && again < open.due && !open.askers.is_empty() {
                    open.retries_left -= 1;
                    open.left = open.due - again;
                    self.stand(id, Stand::Resting, again);
                    return None;
                }
                return Some(self.close(id).by_policy(config, &text));
            }
        };
        if is_of_these_urls && config.verdict_cache_ms > 0 {
            let time = Duration::from_millis(config.verdict_cache_ms);
            self.memory.keep(now, time, open.case, &verdict);
        }
        let askers = self.close(id).askers;
        Some(Judgment { askers, verdict, is_unanswered: false })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Those whose time is over.
    pub(super) fn handle_timeout(&mut self, now: Instant, config: &HookSection) -> Vec<Judgment> {
        let mut over = Vec::new();
        while let Some(&(at, id)) = self.due.first()
            && at <= now
        {
            let open = &self.open[&id];
            let alive = self.slots[&open.question.hook].alive;
            let patience = alive.map(|at| at + Duration::from_millis(config.timeout_ms));
            match (open.stand, patience) {
                (Stand::Resting, _) => self.enqueue(now, config, id),
                (Stand::Queued, Some(patience)) if patience > now => {
                    self.stand(id, Stand::Queued, patience);
                }
                (Stand::Queued | Stand::Called, _) => {
                    over.push(self.close(id).by_policy(config, "no answer in time"));
                }
            }
        }
        over
    }

    /// Hooks have other URLs: what was answered before counts for nobody who comes now, what is under way
    /// takes no slot of the new server, and that has its time to answer who waits.
    pub(super) fn forget_servers(&mut self, now: Instant) {
        self.memory.clear();
        self.urls += 1;
        for slots in self.slots.values_mut() {
            slots.under_way = 0;
            slots.alive = Some(now);
        }
        let under_way = &self.under_way;
        self.by_case.retain(|_, id| !under_way.contains_key(id));
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.by_asker.len()
    }

    fn enqueue(&mut self, now: Instant, config: &HookSection, id: u64) {
        self.stand(id, Stand::Queued, now + Duration::from_millis(config.timeout_ms));
        self.slots.entry(self.open[&id].question.hook).or_default().queued.insert(id);
    }

    fn stand(&mut self, id: u64, stand: Stand, due: Instant) {
        let open = self.open.get_mut(&id).expect("callers look");
        self.due.remove(&(open.due, id));
        (open.stand, open.due) = (stand, due);
        self.due.insert((due, id));
    }

    fn close(&mut self, id: u64) -> Open {
        let open = self.open.remove(&id).expect("callers look");
        self.due.remove(&(open.due, id));
        if let Some(slots) = self.slots.get_mut(&open.question.hook) {
            slots.queued.remove(&id);
        }
        if self.by_case.get(&open.case) == Some(&id) {
            self.by_case.remove(&open.case);
        }
        for asker in &open.askers {
            self.by_asker.remove(asker);
        }
        open
    }
}

impl Open {
    fn by_policy(self, config: &HookSection, text: &str) -> Judgment {
        let verdict = by_policy(config, text);
        Judgment { askers: self.askers, verdict, is_unanswered: true }
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
mod tests;
