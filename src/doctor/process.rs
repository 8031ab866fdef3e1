//! What the process may have: locked memory, descriptors, CPUs, its cgroup's share of both.

use super::cgroup;
use super::finding::{Finding, Outcome, set_sysctl};
use super::host::{Unknown, bytes_text, cpu_list_text};
use super::plan::Plan;
use super::{Check, Exam};
use crate::rt::LOCKED_MEMORY_MIN;

pub(super) const CHECKS: &[Check] = &[
    Check::once("locked memory", locked_memory),
    Check::once("open files", open_files),
    Check::once("fs.nr_open", nr_open),
    Check::once("fs.file-max", file_max),
    Check::once("CPUs", cpus),
    Check::once("CPU quota", cgroup::cpu_quota),
    Check::once("memory limit", cgroup::memory_limit),
];

/// Soft and hard limit by its name in `/proc/PID/limits`; `u64::MAX` is unlimited.
fn limits(exam: &Exam<'_>, name: &str) -> Result<(u64, u64), Unknown> {
    let path = format!("proc/{}/limits", exam.process);
    let text = exam.host.text(&path)?;
    let parse = |word: &str| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() };
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let limits = line.and_then(|line| {
        let mut words = line.split_whitespace();
        Some((parse(words.next()?)?, parse(words.next()?)?))
    });
    limits.ok_or_else(|| Unknown::garbled(&path))
}

fn limit_text(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

/// What glommio pins for each shard: three rings with 64 KiB of buffers.
const LOCKED_BYTES_PER_SHARD: u64 = 3 * 64 * 1024;

fn locked_memory(exam: &Exam<'_>) -> Outcome {
    let (soft, _) = limits(exam, "Max locked memory")?;
    let found = if soft == u64::MAX { "unlimited".to_owned() } else { bytes_text(soft) };
    let wanted = LOCKED_BYTES_PER_SHARD * exam.plan.shards() as u64;
    if soft < LOCKED_MEMORY_MIN {
        let why =
            format!("executors do not start with less than {}", bytes_text(LOCKED_MEMORY_MIN));
        let remedy = "LimitMEMLOCK=infinity   # systemd; Docker: --ulimit memlock=-1; \
                      root's shell: ulimit -l unlimited";
        return Ok(Finding::blocks(found, why, remedy));
    }
    if soft < wanted {
        let why = format!(
            "executors register {} without need, and warn at start where they cannot; \
             LimitMEMLOCK=infinity keeps them quiet",
            bytes_text(wanted)
        );
        return Ok(Finding::note(found, why));
    }
    Ok(Finding::fine(found))
}

fn open_files(exam: &Exam<'_>) -> Outcome {
    let (_, hard) = limits(exam, "Max open files")?;
    let needed = exam.plan.descriptors();
    let found = format!("{}, {needed} needed", limit_text(hard));
    let remedy = format!(
        "LimitNOFILE={needed}   # systemd; Docker: --ulimit nofile={needed}; \
         root's shell: ulimit -Hn {needed}\n\
         {}   # in the config, where so many are not expected",
        exam.plan.fewer_connections(hard, Plan::descriptors)
    );
    if hard < exam.plan.own_descriptors() {
        return Ok(Finding::blocks(found, "the rings and listeners alone are more", remedy));
    }
    if hard < needed {
        let why = "a connection is a descriptor, a track over UDP is two; at the limit new players \
                   and publishers are closed";
        return Ok(Finding::costs(found, why, remedy));
    }
    Ok(Finding::fine(found))
}

fn nr_open(exam: &Exam<'_>) -> Outcome {
    let most: u64 = exam.host.sysctl("fs.nr_open")?;
    let needed = exam.plan.descriptors();
    if most >= needed {
        return Ok(Finding::fine(most.to_string()));
    }
    let why = "no process may have a higher limit of open files";
    let remedy = set_sysctl("fs.nr_open", rounded_up(needed));
    Ok(Finding::costs(format!("{most}, {needed} needed"), why, remedy))
}

fn file_max(exam: &Exam<'_>) -> Outcome {
    let [in_use, _, most] = exam.host.numbers("proc/sys/fs/file-nr")?;
    let needed = exam.plan.descriptors();
    if most.saturating_sub(in_use) >= needed {
        return Ok(Finding::fine(format!("{most}, {in_use} in use")));
    }
    let why = "open files of all processes together";
    let found = format!("{most}, {in_use} in use, {needed} needed");
    let remedy = set_sysctl("fs.file-max", rounded_up(in_use.saturating_add(needed)));
    Ok(Finding::costs(found, why, remedy))
}

/// To a power of two, where there is one.
fn rounded_up(number: u64) -> u64 {
    number.checked_next_power_of_two().unwrap_or(number)
}

fn cpus(exam: &Exam<'_>) -> Outcome {
    let allowed = exam.allowed_cpus()?;
    let Exam { plan, .. } = exam;
    let strange: Vec<usize> =
        plan.cpus.iter().copied().filter(|cpu| !allowed.contains(cpu)).collect();
    if !strange.is_empty() {
        let found = format!("CPU {} is not this process's to use", cpu_list_text(&strange));
        let why = format!("it may use {}", cpu_list_text(&allowed));
        let remedy = format!(
            "server.cpus = \"{}\"   # or CPUAffinity= and AllowedCPUs= (systemd), taskset, \
             --cpuset-cpus (Docker)",
            cpu_list_text(&allowed)
        );
        return Ok(Finding::blocks(found, why, remedy));
    }
    if plan.homeless_shards > 0 {
        let found = format!("{} shards, {} CPUs", plan.shards(), plan.cpus.len());
        let remedy = format!("server.shards = {}   # or fewer; 0 takes all CPUs", plan.cpus.len());
        return Ok(Finding::blocks(found, "each shard has a CPU of its own", remedy));
    }
    Ok(Finding::fine(format!("shards on {}", cpu_list_text(&plan.cpus))))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Blocks, Costs, Fine, NotKnown, Note};
    use super::super::testing::{Bench, Case, file, garbled, gone};

    const LIMITS: &str = "proc/self/limits";
    const STATUS: &str = "proc/self/status";
    const NR_OPEN: &str = "proc/sys/fs/nr_open";
    const FILE_NR: &str = "proc/sys/fs/file-nr";

    const LOCKED_LITTLE: &str =
        "Max locked memory         524287               8388608              bytes";
    const LOCKED_BARELY: &str =
        "Max locked memory         524288               524288               bytes";
    const FILES_FEW: &str =
        "Max open files            1024                 7063                 files";
    const FILES_ENOUGH: &str =
        "Max open files            1024                 7064                 files";
    const FILES_NONE: &str =
        "Max open files            63                   63                   files";
    const FILES_ENDLESS: &str =
        "Max open files            1024                 unlimited            files";

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("locked memory", &[file(LIMITS, LOCKED_BARELY)], Fine, "512 KiB"),
        Case::new("locked memory", &[file(LIMITS, LOCKED_BARELY)], Note, "576 KiB")
            .planned(|plan| plan.cpus = vec![0, 1, 2]),
        Case::new("locked memory", &[file(LIMITS, LOCKED_LITTLE)], Blocks, "LimitMEMLOCK=infinity"),
        Case::new("locked memory", &[file(LIMITS, LOCKED_LITTLE)], Blocks, "ulimit -l unlimited"),
        Case::new("locked memory", &[file(LIMITS, "Max locked memory  ?")], NotKnown, "limits"),
        Case::new("locked memory", &[gone(LIMITS)], NotKnown, "not there"),
        Case::new("open files", &[file(LIMITS, FILES_ENOUGH)], Fine, "7064, 7064 needed"),
        Case::new("open files", &[file(LIMITS, FILES_ENDLESS)], Fine, "unlimited"),
        Case::new("open files", &[file(LIMITS, FILES_FEW)], Costs, "LimitNOFILE=7064"),
        Case::new("open files", &[file(LIMITS, FILES_FEW)], Costs, "ulimit -Hn 7064"),
        Case::new("open files", &[file(LIMITS, FILES_NONE)], Blocks, "alone are more"),
        Case::new("open files", &[file(LIMITS, LOCKED_BARELY)], NotKnown, "not understood"),
        Case::new("fs.nr_open", &[file(NR_OPEN, "7064")], Fine, "7064"),
        Case::new("fs.nr_open", &[file(NR_OPEN, "7063")], Costs, "fs.nr_open=\"8192\""),
        Case::new("fs.nr_open", &[garbled(NR_OPEN)], NotKnown, "not understood"),
        Case::new("fs.file-max", &[file(FILE_NR, "1000 0 8064")], Fine, "1000 in use"),
        Case::new("fs.file-max", &[file(FILE_NR, "1000 0 8063")], Costs, "fs.file-max=\"8192\""),
        Case::new("fs.file-max", &[file(FILE_NR, "1000 0")], NotKnown, "not understood"),
        Case::new("CPUs", &[file(STATUS, "Cpus_allowed_list:\t0-3")], Fine, "shards on 0-1"),
        Case::new("CPUs", &[file(STATUS, "Cpus_allowed_list:\t1-3")], Blocks, "it may use 1-3"),
        Case::new("CPUs", &[], Blocks, "3 shards, 2 CPUs").planned(|plan| plan.homeless_shards = 1),
        Case::new("CPUs", &[file(STATUS, "Cpus_allowed_list:\t3-1")], NotKnown, "not understood"),
        Case::new("CPUs", &[file(STATUS, "Name: x")], NotKnown, "not understood"),
    ];

    #[test]
    fn limits_are_those_of_the_process_that_is_asked_about() {
        let mut bench = Bench::fine();
        bench.host.change(&file("proc/77/limits", LOCKED_LITTLE));
        bench.process = "77".to_owned();
        assert_eq!(bench.finding("locked memory").verdict, Blocks);
        assert!(bench.finding("CPUs").found.starts_with("/proc/77/status is not there"));
    }
}
