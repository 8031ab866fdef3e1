//! The server under load, from outside: CPU time and memory of its process, its threads and its
//! children (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;

use nix::unistd::{SysconfVar, sysconf};

use super::Failure;

/// The processes that are the server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    roots: Vec<u32>,
}

/// What it has used up to a moment, and holds at it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Run time of each thread, as the scheduler counts it (`schedstat`); none where it does not.
    pub(super) threads_ns: BTreeMap<u32, u64>,
    /// User and system time, threads that have ended included; in ticks.
    pub(super) ticks: u64,
    pub(super) rss_bytes: u64,
    /// None where we may not see them.
    pub(super) fds: Option<u64>,
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
        let mut sample = Sample { fds: Some(0), ..Sample::default() };
        for pid in self.processes() {
            let Some(stat) = stat_of(pid) else { continue };
            sample.processes += 1;
            sample.ticks += stat.ticks;
            sample.rss_bytes += rss_of(pid).unwrap_or(0);
            sample.fds = sample.fds.zip(fds_of(pid)).map(|(sum, more)| sum + more);
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
    /// CPU seconds since `start` by the scheduler's clock, if there is one. A thread that ended
    /// meanwhile is not in it: see [`Self::ticked_seconds_since`].
    pub(super) fn cpu_seconds_since(&self, start: &Self) -> Option<f64> {
        if self.threads_ns.is_empty() {
            return None;
        }
        let used = self.threads_ns.iter().map(|(thread, ns)| {
            ns.saturating_sub(start.threads_ns.get(thread).copied().unwrap_or(0))
        });
        Some(used.sum::<u64>() as f64 / 1e9)
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
    let page_len = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page_len).ok()?)
}

/// None where we may not see them; a process that has ended meanwhile has none.
fn fds_of(pid: u32) -> Option<u64> {
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(fds) => Some(fds.count() as u64),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => Some(0),
    }
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

/// `USER_HZ`, as on every architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use std::process::Command;

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
        assert!(start.rss_bytes > 0 && start.fds > Some(0) && start.processes >= 1);
        let mut number = 0u64;
        while server.sample().cpu_seconds_since(&start) < Some(0.001) {
            number = std::hint::black_box(number + 1);
        }
    }

    #[test]
    fn children_are_part_of_it() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let server = Server::new(&[std::process::id()]).expect("we are there");
        let (found, sample) = (server.processes(), server.sample());
        child.kill().expect("a child");
        child.wait().expect("a child");
        assert!(found.contains(&child.id()), "{found:?}");
        assert!(sample.processes >= 2 && sample.threads_ns.contains_key(&child.id()));
        assert!(!server.processes().contains(&child.id()));
    }

    #[test]
    fn missing_process_is_refused() {
        assert!(Server::new(&[u32::MAX]).is_err());
    }
}
