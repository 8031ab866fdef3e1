//! The server under load, from outside: CPU time and memory of its process, its threads and its
//! children (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::Failure;

/// The processes that are the server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    roots: Vec<u32>,
}

/// What it has used up to a moment, and holds at it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Run time of each thread, as the scheduler counts it (`schedstat`).
    pub(super) threads_ns: BTreeMap<u32, u64>,
    /// User and system time, threads that have ended included; in ticks.
    pub(super) ticks: u64,
    pub(super) rss_bytes: u64,
    pub(super) fds: u64,
    pub(super) processes: usize,
}

impl Server {
    /// # Errors
    /// When there is no such process.
    pub(super) fn new(pids: &[u32]) -> Result<Self, Failure> {
        if let Some(pid) = pids.iter().find(|pid| stat_of(**pid).is_none()) {
            return Err(format!("--pid {pid}: there is no such process").into());
        }
        Ok(Self { roots: pids.to_vec() })
    }

    pub(super) fn is_given(&self) -> bool {
        !self.roots.is_empty()
    }

    pub(super) fn sample(&self) -> Sample {
        let mut sample = Sample::default();
        for pid in self.processes() {
            let Some(stat) = stat_of(pid) else { continue };
            sample.processes += 1;
            sample.ticks += stat.ticks;
            sample.rss_bytes += rss_of(pid).unwrap_or(0);
            sample.fds +=
                fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |fds| fds.count()) as u64;
            sample.threads_ns.extend(threads_of(pid));
        }
        sample
    }

    /// The named processes and all that come from them, but for us: `load limit` is the server, and
    /// starts the players.
    fn processes(&self) -> BTreeSet<u32> {
        let mut found: BTreeSet<u32> = self.roots.iter().copied().collect();
        let own = std::process::id();
        let parents: Vec<(u32, u32)> = numbers_in("/proc")
            .filter(|pid| *pid != own)
            .filter_map(|pid| Some((pid, stat_of(pid)?.parent)))
            .collect();
        loop {
            let is_child = |(_, parent): &&(u32, u32)| found.contains(parent);
            let children: Vec<u32> = parents.iter().filter(is_child).map(|(pid, _)| *pid).collect();
            let before = found.len();
            found.extend(children);
            if found.len() == before {
                return found;
            }
        }
    }
}

impl Sample {
    /// CPU seconds since `start` by the scheduler's clock. A thread that ended meanwhile is not
    /// in it: see [`Self::ticked_seconds_since`].
    pub(super) fn cpu_seconds_since(&self, start: &Self) -> f64 {
        let used = self.threads_ns.iter().map(|(thread, ns)| {
            ns.saturating_sub(start.threads_ns.get(thread).copied().unwrap_or(0))
        });
        used.sum::<u64>() as f64 / 1e9
    }

    /// CPU seconds since `start` as user and system time, in steps of 10 ms.
    pub(super) fn ticked_seconds_since(&self, start: &Self) -> f64 {
        self.ticks.saturating_sub(start.ticks) as f64 / TICKS_PER_SECOND
    }
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat_of(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in brackets may hold anything, also spaces and brackets.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let parent = u32::try_from(number(1)?).ok()?;
    Some(Stat { parent, ticks: number(11)? + number(12)? })
}

fn rss_of(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE_LEN)
}

fn threads_of(pid: u32) -> impl Iterator<Item = (u32, u64)> {
    numbers_in(&format!("/proc/{pid}/task")).filter_map(move |thread| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
        Some((thread, text.split(' ').next()?.parse().ok()?))
    })
}

fn numbers_in(folder: &str) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `USER_HZ` and the page size, as on every architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_LEN: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_shift_fields() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194304 10 0 0 0 25 17 0 0 20 0 1 0 100 200 30 4";
        let stat = parse_stat(text).expect("a line of the kernel");
        assert_eq!((stat.parent, stat.ticks), (3, 42));
        assert!(parse_stat("7 (a) S").is_none());
    }

    #[test]
    fn own_process_is_sampled() {
        let server = Server::new(&[std::process::id()]).expect("we are there");
        let start = server.sample();
        assert!(start.rss_bytes > 0 && start.fds > 0 && start.processes >= 1);
        let mut number = 0u64;
        while server.sample().cpu_seconds_since(&start) < 0.001 {
            number = std::hint::black_box(number + 1);
        }
    }

    #[test]
    fn missing_process_is_refused() {
        assert!(Server::new(&[u32::MAX]).is_err());
    }
}
