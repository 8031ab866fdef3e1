//! The kernel: its version, io_uring, its clock, what the hypervisor takes.

use super::facts::Rings;
use super::finding::{Finding, Outcome, set_sysctl};
use super::host::{Unknown, if_there};
use super::{Check, Exam};

pub(super) const CHECKS: &[Check] = &[
    Check::once("version", version),
    Check::once("io_uring", io_uring),
    Check::once("clock source", clock_source),
    Check::once("stolen time", stolen_time),
    Check::once("mitigations", mitigations),
];

/// Deferred task run, the newest thing that both rings need.
const VERSION_MIN: (u32, u32) = (6, 1);

fn version(exam: &Exam<'_>) -> Outcome {
    let path = "proc/sys/kernel/osrelease";
    let text = exam.host.word(path)?;
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(Unknown::garbled(path));
    };
    if (major, minor) < VERSION_MIN {
        let why = "the rings need deferred task run, which came with 6.1";
        return Ok(Finding::blocks(text, why, "install Linux 6.1 or later; 6.17 is better"));
    }
    if exam.facts.rings == (Rings::Work { sends_vectors: false }) {
        let why = "a flush of several pieces (RTMP, WebSocket) goes out as a message; with 6.17 it \
                   takes 15 % less";
        return Ok(Finding::costs(text, why, "install Linux 6.17 or later"));
    }
    Ok(Finding::fine(text))
}

fn io_uring(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "kernel.io_uring_disabled";
    const WHY: &str = "all sockets are on io_uring; there is no other way";
    // Came with 6.6; a kernel without it disables nothing.
    let disabled = if_there(exam.host.sysctl::<u8>(KEY))?.unwrap_or(0);
    if disabled >= 2 {
        let found = format!("{KEY} refuses it to all processes");
        return Ok(Finding::blocks(found, WHY, set_sysctl(KEY, 0)));
    }
    match &exam.facts.rings {
        Rings::Work { .. } if disabled == 1 => {
            let found = "works for this process, which is privileged or of kernel.io_uring_group";
            Ok(Finding::note(found, format!("{KEY} is 1: others are refused")))
        }
        Rings::Fail(cause) if disabled == 1 => Ok(Finding::blocks(cause, WHY, set_sysctl(KEY, 0))),
        Rings::Work { .. } => Ok(Finding::fine("works")),
        Rings::Fail(cause) => {
            let remedy = "allow io_uring_setup, io_uring_enter and io_uring_register: the default \
                          profiles of Docker and containerd do not (--security-opt \
                          seccomp=PROFILE.json)";
            Ok(Finding::blocks(cause, WHY, remedy))
        }
    }
}

/// Those that are read without a system call.
const CLOCKS_FAST: [&str; 4] =
    ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];

fn clock_source(exam: &Exam<'_>) -> Outcome {
    let folder = "sys/devices/system/clocksource/clocksource0";
    let current = exam.host.word(&format!("{folder}/current_clocksource"))?;
    if CLOCKS_FAST.contains(&&*current) {
        return Ok(Finding::fine(current));
    }
    let others = exam.host.text(&format!("{folder}/available_clocksource"))?;
    let better = CLOCKS_FAST.into_iter().find(|clock| others.split(' ').any(|one| one == *clock));
    let remedy = match better {
        Some(clock) => format!("echo {clock} > /{folder}/current_clocksource"),
        None => "dmesg | grep -i -e tsc -e clocksource   # why the kernel does not trust the TSC"
            .to_owned(),
    };
    let why = "a shard reads the clock in every tick, and with this one each time is a system call";
    Ok(Finding::costs(current, why, remedy))
}

/// Share of all time, in thousandths, that may be stolen: at 1 %, one tick in a hundred is late.
const STOLEN_PER_MILLE_MAX: u64 = 10;

fn stolen_time(exam: &Exam<'_>) -> Outcome {
    let path = "proc/stat";
    let text = exam.host.text(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "));
    let times: Option<Vec<u64>> =
        line.and_then(|line| line.split_whitespace().map(|time| time.parse().ok()).collect());
    // user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's.
    let times = times.filter(|times| times.len() >= 8).ok_or_else(|| Unknown::garbled(path))?;
    let total = times[..8].iter().copied().fold(0, u64::saturating_add);
    let per_mille = times[7].saturating_mul(1000) / total.max(1);
    let found = format!("{}.{} % since the start", per_mille / 10, per_mille % 10);
    if per_mille <= STOLEN_PER_MILLE_MAX {
        return Ok(Finding::fine(found));
    }
    let why = "the hypervisor ran something else while a shard wanted to run: players see gaps";
    Ok(Finding::costs(found, why, "ask for a machine with CPUs of its own (dedicated, not shared)"))
}

fn mitigations(exam: &Exam<'_>) -> Outcome {
    let folder = "sys/devices/system/cpu/vulnerabilities";
    let mut active = Vec::new();
    for name in exam.host.names(folder)? {
        if exam.host.text(&format!("{folder}/{name}"))?.starts_with("Mitigation") {
            active.push(name);
        }
    }
    if active.is_empty() {
        return Ok(Finding::fine("none is active"));
    }
    let why = "each system call and interrupt pays for them; they protect, so weigh it yourself";
    Ok(Finding::note(active.join(", "), why))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Blocks, Costs, Fine, NotKnown, Note};
    use super::super::testing::{Bench, Case, file, garbled, gone};
    use super::*;

    const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    const CLOCKS: &str = "sys/devices/system/clocksource/clocksource0/available_clocksource";
    const RELEASE: &str = "proc/sys/kernel/osrelease";
    const DISABLED: &str = "proc/sys/kernel/io_uring_disabled";
    const SPECTRE: &str = "sys/devices/system/cpu/vulnerabilities/spectre_v2";
    const STAT: &str = "proc/stat";

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("version", &[file(RELEASE, "6.18.44-cloud")], Fine, "6.18.44-cloud"),
        Case::new("version", &[file(RELEASE, "6.1.0")], Fine, "6.1.0"),
        Case::new("version", &[file(RELEASE, "6.0.19")], Blocks, "6.1 or later"),
        Case::new("version", &[file(RELEASE, "5.15.0-91-generic")], Blocks, "deferred task run"),
        Case::new("version", &[file(RELEASE, "Linux")], NotKnown, "not understood"),
        Case::new("version", &[gone(RELEASE)], NotKnown, "not there"),
        Case::new("io_uring", &[gone(DISABLED)], Fine, "works"),
        Case::new("io_uring", &[file(DISABLED, "1")], Note, "others are refused"),
        Case::new("io_uring", &[file(DISABLED, "2")], Blocks, "io_uring_disabled=\"0\""),
        Case::new("io_uring", &[garbled(DISABLED)], NotKnown, "not understood"),
        Case::new("clock source", &[file(CLOCK, "kvm-clock")], Fine, "kvm-clock"),
        Case::new("clock source", &[file(CLOCK, "hpet")], Costs, "echo tsc > /sys/devices"),
        Case::new("clock source", &[file(CLOCK, "xen"), file(CLOCKS, "xen")], Costs, "dmesg"),
        Case::new("clock source", &[file(CLOCK, "hpet"), gone(CLOCKS)], NotKnown, "not there"),
        Case::new("clock source", &[file(CLOCK, "")], NotKnown, "not understood"),
        Case::new("clock source", &[gone(CLOCK)], NotKnown, "not there"),
        Case::new("stolen time", &[file(STAT, "cpu  500 0 0 490 0 0 0 10 0 0")], Fine, "1.0 %"),
        Case::new("stolen time", &[file(STAT, "cpu  500 0 0 480 0 0 0 20 0 0")], Costs, "2.0 %"),
        Case::new("stolen time", &[file(STAT, "cpu  0 0 0 0 0 0 0 0")], Fine, "0.0 %"),
        Case::new("stolen time", &[file(STAT, "cpu  1 2 3")], NotKnown, "not understood"),
        Case::new("stolen time", &[gone(STAT)], NotKnown, "not there"),
        Case::new("mitigations", &[file(SPECTRE, "Mitigation: Retpolines")], Note, "spectre_v2"),
        Case::new("mitigations", &[file(SPECTRE, "Vulnerable")], Fine, "none is active"),
        Case::new("mitigations", &[garbled(SPECTRE)], NotKnown, "not understood"),
    ];

    #[test]
    fn rings_that_fail_block_and_say_why() {
        let mut bench = Bench::fine();
        bench.facts.rings = Rings::Fail("io_uring is refused to this process".to_owned());
        let finding = bench.finding("io_uring");
        assert_eq!(
            (finding.verdict, &*finding.found),
            (Blocks, "io_uring is refused to this process")
        );
        assert!(finding.remedy.contains("seccomp"), "{}", finding.remedy);
        bench.host.change(&file(DISABLED, "1"));
        assert!(bench.finding("io_uring").remedy.contains("kernel.io_uring_disabled"));
    }

    #[test]
    fn a_kernel_without_vectorized_sends_costs() {
        let mut bench = Bench::fine();
        bench.facts.rings = Rings::Work { sends_vectors: false };
        let finding = bench.finding("version");
        assert_eq!(finding.verdict, Costs);
        assert!(finding.remedy.contains("6.17"), "{}", finding.remedy);
    }
}
