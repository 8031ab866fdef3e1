//! Memory of the host: whether it is enough, and what makes a shard wait for it.

use super::finding::{Finding, Outcome, set_sysctl};
use super::host::{Unknown, bytes_text};
use super::plan::Plan;
use super::{Check, Exam};

pub(super) const CHECKS: &[Check] = &[
    Check::once("size", size),
    Check::once("swap", swap),
    Check::once("vm.overcommit_memory", overcommit),
    Check::once("transparent huge pages", huge_pages),
];

fn size(exam: &Exam<'_>) -> Outcome {
    let available = exam.host.labeled("proc/meminfo", "MemAvailable")?.saturating_mul(1024);
    // What the relay has already is not available any more; the examination itself has next to nothing.
    let status = format!("proc/{}/status", exam.process);
    let held = exam.host.labeled(&status, "VmRSS").map_or(0, |kib| kib.saturating_mul(1024));
    let available = available.saturating_add(held);
    let needed = exam.plan.memory_bytes();
    let found = format!(
        "{} available, {} needed without streams",
        bytes_text(available),
        bytes_text(needed)
    );
    if available >= needed {
        return Ok(Finding::fine(found));
    }
    let why = "the kernel kills what takes the most when there is none left";
    let fewer = exam.plan.fewer_connections(available, Plan::memory_bytes);
    let remedy = format!("{fewer}   # in the config; or a larger machine");
    Ok(Finding::costs(found, why, remedy))
}

/// The kernel's default is 60; at 10 it reclaims file pages long before it swaps.
const SWAPPINESS_MAX: u64 = 10;

fn swap(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "vm.swappiness";
    let total = exam.host.labeled("proc/meminfo", "SwapTotal")?.saturating_mul(1024);
    let swappiness: u64 = exam.host.sysctl(KEY)?;
    if total == 0 {
        return Ok(Finding::fine("none"));
    }
    let found = format!("{}, {KEY} {swappiness}", bytes_text(total));
    if swappiness <= SWAPPINESS_MAX {
        return Ok(Finding::fine(found));
    }
    let why = "a shard that touches a page on disk stands still, with all its players";
    let remedy =
        format!("{}\nMemorySwapMax=0   # systemd: none of it for the relay", set_sysctl(KEY, 10));
    Ok(Finding::costs(found, why, remedy))
}

fn overcommit(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "vm.overcommit_memory";
    let mode: u8 = exam.host.sysctl(KEY)?;
    if mode != 2 {
        return Ok(Finding::fine(mode.to_string()));
    }
    let why = "memory that is mapped and not used counts as used: an allocation may fail with memory \
               left, and the process aborts";
    Ok(Finding::costs("2", why, set_sysctl(KEY, 0)))
}

fn huge_pages(exam: &Exam<'_>) -> Outcome {
    let folder = "sys/kernel/mm/transparent_hugepage";
    let chosen = |name: &str| {
        let path = format!("{folder}/{name}");
        let text = exam.host.text(&path)?;
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        chosen.map(|(word, _)| word.to_owned()).ok_or_else(|| Unknown::garbled(&path))
    };
    let (enabled, defrag) = (chosen("enabled")?, chosen("defrag")?);
    let found = format!("{enabled}, defrag {defrag}");
    if enabled != "always" || defrag != "always" {
        return Ok(Finding::fine(found));
    }
    let why =
        "a page fault may first move memory about to make a huge page: a stall of milliseconds";
    Ok(Finding::costs(found, why, format!("echo madvise > /{folder}/defrag")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Costs, Fine, NotKnown};
    use super::super::testing::{Case, file, garbled, gone};

    const MEMORY: &str = "proc/meminfo";
    const SWAPPINESS: &str = "proc/sys/vm/swappiness";
    const OVERCOMMIT: &str = "proc/sys/vm/overcommit_memory";
    const HUGE: &str = "sys/kernel/mm/transparent_hugepage/enabled";
    const DEFRAG: &str = "sys/kernel/mm/transparent_hugepage/defrag";
    const STATUS: &str = "proc/self/status";
    const RUNNING: &str = "VmRSS:\t 8388608 kB\nCpus_allowed_list:\t0-3\n";
    const LITTLE: &str = "MemTotal: 65536 kB\nMemAvailable: 65536 kB\nSwapTotal: 0 kB";
    const SWAP: &str = "MemAvailable: 8388608 kB\nSwapTotal: 1048576 kB";

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("size", &[file(MEMORY, SWAP)], Fine, "8 GiB available"),
        Case::new("size", &[file(MEMORY, LITTLE)], Costs, "64 MiB available"),
        // The rest of it is with the relay that runs.
        Case::new("size", &[file(MEMORY, LITTLE), file(STATUS, RUNNING)], Fine, "8 GiB"),
        Case::new("size", &[file(MEMORY, "MemTotal: x")], NotKnown, "not understood"),
        Case::new("size", &[gone(MEMORY)], NotKnown, "not there"),
        Case::new("swap", &[file(SWAPPINESS, "60")], Fine, "none"),
        Case::new("swap", &[file(MEMORY, SWAP), file(SWAPPINESS, "10")], Fine, "1 GiB"),
        Case::new(
            "swap",
            &[file(MEMORY, SWAP), file(SWAPPINESS, "60")],
            Costs,
            "swappiness=\"10\"",
        ),
        Case::new("swap", &[garbled(SWAPPINESS)], NotKnown, "not understood"),
        Case::new("vm.overcommit_memory", &[file(OVERCOMMIT, "1")], Fine, "1"),
        Case::new("vm.overcommit_memory", &[file(OVERCOMMIT, "2")], Costs, "aborts"),
        Case::new("vm.overcommit_memory", &[garbled(OVERCOMMIT)], NotKnown, "not understood"),
        Case::new(
            "transparent huge pages",
            &[file(HUGE, "[always] madvise never")],
            Fine,
            "always",
        ),
        Case::new(
            "transparent huge pages",
            &[
                file(HUGE, "[always] madvise never"),
                file(DEFRAG, "[always] defer defer+madvise madvise never"),
            ],
            Costs,
            "echo madvise > /sys/kernel/mm/transparent_hugepage/defrag",
        ),
        Case::new("transparent huge pages", &[file(HUGE, "always")], NotKnown, "not understood"),
    ];
}
