//! Limits of the control groups that the process is in, of version 2 and 1.
//!
//! A limit of any group on the way to the root holds, so that the lowest counts. In a container the
//! path in `/proc/PID/cgroup` is the container's view, and its own group is the root of what it sees.

use super::Exam;
use super::finding::{Finding, Outcome, is_often};
use super::host::{Unknown, bytes_text, if_there};

/// Folders of a controller's groups, from the root of its hierarchy down to the process's own.
fn groups(exam: &Exam<'_>, controller: &str) -> Result<Vec<String>, Unknown> {
    let path = format!("proc/{}/cgroup", exam.process);
    let text = exam.host.text(&path)?;
    let mut folders = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return Err(Unknown::garbled(&path));
        };
        let mounts = if controllers.is_empty() {
            vec!["sys/fs/cgroup".to_owned(), "sys/fs/cgroup/unified".to_owned()]
        } else if controllers.split(',').any(|one| one == controller) {
            vec![format!("sys/fs/cgroup/{controller}"), format!("sys/fs/cgroup/{controllers}")]
        } else {
            continue;
        };
        for mount in mounts.iter().filter(|mount| exam.host.has(mount)) {
            let mut folder = mount.clone();
            folders.push(folder.clone());
            for name in group.split('/').filter(|name| !name.is_empty() && *name != "..") {
                folder = format!("{folder}/{name}");
                folders.push(folder.clone());
            }
        }
    }
    folders.sort();
    folders.dedup();
    Ok(folders)
}

/// CPUs' worth of time, in hundredths, that the group may use in a period; `None` for all.
fn quota_of(exam: &Exam<'_>, folder: &str) -> Result<Option<u64>, Unknown> {
    let path = format!("{folder}/cpu.max");
    let pair = match if_there(exam.host.text(&path))? {
        Some(text) => {
            text.split_once(' ').map(|(quota, period)| (quota.to_owned(), period.to_owned()))
        }
        None => {
            let quota = if_there(exam.host.text(&format!("{folder}/cpu.cfs_quota_us")))?;
            let Some(quota) = quota else { return Ok(None) };
            Some((quota, exam.host.text(&format!("{folder}/cpu.cfs_period_us"))?))
        }
    };
    let (quota, period) = pair.ok_or_else(|| Unknown::garbled(&path))?;
    if quota == "max" || quota == "-1" {
        return Ok(None);
    }
    match (quota.parse::<u64>(), period.parse::<u64>()) {
        (Ok(quota), Ok(period)) if period > 0 => Ok(Some(quota.saturating_mul(100) / period)),
        _ => Err(Unknown::garbled(&path)),
    }
}

pub(super) fn cpu_quota(exam: &Exam<'_>) -> Outcome {
    let mut lowest: Option<u64> = None;
    let (mut throttled_count, mut is_often_throttled) = (0, false);
    for folder in groups(exam, "cpu")? {
        lowest = lowest.into_iter().chain(quota_of(exam, &folder)?).min();
        let (count, periods) = throttled(exam, &folder)?;
        throttled_count = throttled_count.max(count);
        is_often_throttled |= is_often(count, periods, THROTTLED_ONE_IN);
    }
    let Some(quota) = lowest else { return Ok(Finding::fine("none")) };
    let shards = exam.plan.shards();
    let found = format!("{}.{:02} CPUs for {shards} shards", quota / 100, quota % 100);
    let remedy = "CPUQuota=   # systemd: empty; Docker: no --cpus; Kubernetes: no limits.cpu.\n\
                  # Give whole CPUs instead: AllowedCPUs=, --cpuset-cpus, static CPU manager";
    if quota < shards as u64 * 100 {
        let why = "when it is used up, all shards stand still to the end of the period (100 ms)";
        return Ok(Finding::costs(found, why, remedy));
    }
    if throttled_count > 0 {
        let found = format!("{found}, throttled {throttled_count} times");
        let why = "each time, all shards stood still to the end of the period";
        if !is_often_throttled {
            return Ok(Finding::note(found, format!("{why}; rare since the group was made")));
        }
        return Ok(Finding::costs(found, why, remedy));
    }
    Ok(Finding::fine(found))
}

/// Periods of so many that end throttled cost: once in 100 s.
const THROTTLED_ONE_IN: u64 = 1000;

/// Periods in which the group used up its quota, and all in which it ran.
fn throttled(exam: &Exam<'_>, folder: &str) -> Result<(u64, u64), Unknown> {
    let stat = if_there(exam.host.text(&format!("{folder}/cpu.stat")))?.unwrap_or_default();
    let count = |name: &str| {
        let count = stat.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
        count.unwrap_or(0)
    };
    Ok((count("nr_throttled "), count("nr_periods ")))
}

pub(super) fn memory_limit(exam: &Exam<'_>) -> Outcome {
    let mut lowest: Option<u64> = None;
    for folder in groups(exam, "memory")? {
        for name in ["memory.max", "memory.limit_in_bytes"] {
            let path = format!("{folder}/{name}");
            let limit = match if_there(exam.host.text(&path))?.as_deref() {
                None | Some("max") => continue,
                Some(text) => text.parse().map_err(|_| Unknown::garbled(&path))?,
            };
            lowest = lowest.into_iter().chain([limit]).min();
        }
    }
    // Version 1 has no word for "none": the largest number of pages.
    let Some(limit) = lowest.filter(|limit| *limit < 1 << 62) else {
        return Ok(Finding::fine("none"));
    };
    let needed = exam.plan.memory_bytes();
    let found = format!("{}, {} needed without streams", bytes_text(limit), bytes_text(needed));
    if limit >= needed {
        return Ok(Finding::fine(found));
    }
    let why = "what sockets hold counts; at the limit the kernel first starves them, then kills";
    let remedy = format!("MemoryMax={}M   # systemd; Docker: --memory", (needed >> 20) + 1);
    Ok(Finding::costs(found, why, remedy))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Costs, Fine, NotKnown, Note};
    use super::super::testing::{Case, Change, file, garbled, gone};

    const OWN: &str = "proc/self/cgroup";
    const V1: Change = file(OWN, "3:cpu,cpuacct:/box\n2:memory:/box\n0::/");
    const ROOT_MAX: &str = "sys/fs/cgroup/cpu.max";
    const SLICE_MAX: &str = "sys/fs/cgroup/system.slice/cpu.max";
    const SLICE_STAT: &str = "sys/fs/cgroup/system.slice/cpu.stat";
    const V1_QUOTA: &str = "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us";
    const V1_PERIOD: &str = "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us";
    const MEMORY: &str = "sys/fs/cgroup/system.slice/memory.max";
    const V1_MEMORY: &str = "sys/fs/cgroup/memory/box/memory.limit_in_bytes";

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("CPU quota", &[], Fine, "none"),
        Case::new("CPU quota", &[file(SLICE_MAX, "200000 100000")], Fine, "2.00 CPUs for 2"),
        Case::new("CPU quota", &[file(SLICE_MAX, "199000 100000")], Costs, "1.99 CPUs for 2"),
        Case::new("CPU quota", &[file(ROOT_MAX, "50000 100000")], Costs, "0.50 CPUs"),
        Case::new(
            "CPU quota",
            &[file(SLICE_MAX, "400000 100000"), file(SLICE_STAT, "nr_periods 9\nnr_throttled 3")],
            Costs,
            "throttled 3 times",
        ),
        Case::new(
            "CPU quota",
            &[
                file(SLICE_MAX, "400000 100000"),
                file(SLICE_STAT, "nr_periods 3000\nnr_throttled 3"),
            ],
            Note,
            "throttled 3 times",
        ),
        Case::new(
            "CPU quota",
            &[V1, file(V1_QUOTA, "-1"), file(V1_PERIOD, "100000")],
            Fine,
            "none",
        ),
        Case::new(
            "CPU quota",
            &[V1, file(V1_QUOTA, "5000"), file(V1_PERIOD, "10000")],
            Costs,
            "0.50",
        ),
        Case::new("CPU quota", &[V1, file(V1_QUOTA, "5000")], NotKnown, "cpu.cfs_period_us"),
        Case::new("CPU quota", &[file(SLICE_MAX, "200000")], NotKnown, "not understood"),
        Case::new("CPU quota", &[file(SLICE_MAX, "1 0")], NotKnown, "not understood"),
        Case::new("CPU quota", &[gone(OWN)], NotKnown, "not there"),
        Case::new("CPU quota", &[file(OWN, "0:")], NotKnown, "not understood"),
        Case::new("memory limit", &[], Fine, "none"),
        Case::new("memory limit", &[file(MEMORY, "8589934592")], Fine, "8 GiB"),
        Case::new("memory limit", &[file(MEMORY, "67108864")], Costs, "MemoryMax="),
        Case::new("memory limit", &[V1, file(V1_MEMORY, "9223372036854771712")], Fine, "none"),
        Case::new("memory limit", &[V1, file(V1_MEMORY, "67108864")], Costs, "64 MiB"),
        Case::new("memory limit", &[garbled(MEMORY)], NotKnown, "not understood"),
    ];
}
