//! The CPUs of the shards: their speed, their siblings, their memory.

use std::collections::BTreeSet;

use super::finding::{Finding, Outcome, set_sysctl};
use super::host::{Unknown, cpu_list_text, if_there};
use super::{Check, Exam};

pub(super) const CHECKS: &[Check] = &[
    Check::once("governor", governor),
    Check::once("siblings", siblings),
    Check::once("isolated CPUs", isolated),
    Check::once("NUMA nodes", numa_nodes),
    Check::once("kernel.numa_balancing", numa_balancing),
];

const CPUS: &str = "sys/devices/system/cpu";

fn governor(exam: &Exam<'_>) -> Outcome {
    let mut slow = Vec::new();
    let mut names = BTreeSet::new();
    for cpu in &exam.plan.cpus {
        let path = format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor");
        let Some(name) = if_there(exam.host.word(&path))? else {
            let why =
                "the CPUs' frequency is not ours to see; on a virtual machine the host decides";
            return Err(Unknown::because(why));
        };
        if name != "performance" {
            slow.push(*cpu);
        }
        names.insert(name);
    }
    let found = Vec::from_iter(names).join(", ");
    if slow.is_empty() {
        return Ok(Finding::fine(found));
    }
    let why =
        "a shard that works in short turns looks idle to it, and each turn runs at a low clock";
    let list = cpu_list_text(&slow);
    let remedy = format!("cpupower -c {list} frequency-set -g performance");
    Ok(Finding::costs(format!("{found} on {list}"), why, remedy))
}

fn siblings(exam: &Exam<'_>) -> Outcome {
    let mut shared = BTreeSet::new();
    for cpu in &exam.plan.cpus {
        let path = format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list");
        let siblings = exam.host.cpu_list(&path)?;
        let ours = |sibling: &&usize| *sibling != cpu && exam.plan.cpus.contains(sibling);
        if siblings.iter().any(|sibling| ours(&sibling)) {
            shared.insert(cpu_list_text(&siblings));
        }
    }
    if shared.is_empty() {
        return Ok(Finding::fine("each shard has a core of its own"));
    }
    let cores = Vec::from_iter(shared).join("; ");
    let why = "two shards share a core's execution units: more in all than one, less than two each";
    Ok(Finding::note(format!("shards that are siblings: {cores}"), why))
}

fn isolated(exam: &Exam<'_>) -> Outcome {
    let isolated = exam.host.cpu_list(&format!("{CPUS}/isolated"))?;
    if isolated.is_empty() {
        return Ok(Finding::fine("none"));
    }
    let list = cpu_list_text(&isolated);
    if exam.plan.cpus.iter().any(|cpu| isolated.contains(cpu)) {
        return Ok(Finding::fine(format!("{list}, used by shards")));
    }
    let why = "the scheduler keeps others off them; shards get them only by name (server.cpus)";
    Ok(Finding::note(format!("{list}, not used"), why))
}

/// Each node's CPUs, in the order of the nodes' numbers.
fn nodes(exam: &Exam<'_>) -> Result<Vec<(u64, Vec<usize>)>, Unknown> {
    let folder = "sys/devices/system/node";
    let names = exam.host.names(folder)?;
    let numbers = names.iter().filter_map(|name| name.strip_prefix("node")?.parse().ok());
    let cpus =
        |number: u64| Ok((number, exam.host.cpu_list(&format!("{folder}/node{number}/cpulist"))?));
    numbers.map(cpus).collect()
}

fn numa_nodes(exam: &Exam<'_>) -> Outcome {
    let nodes = nodes(exam)?;
    let has_ours = |cpus: &[usize]| cpus.iter().any(|cpu| exam.plan.cpus.contains(cpu));
    let used: Vec<u64> = nodes.iter().filter(|(_, c)| has_ours(c)).map(|(node, _)| *node).collect();
    if nodes.len() < 2 {
        return Ok(Finding::fine("one"));
    }
    let found = format!("{}, shards on {}", nodes.len(), used.len());
    if used.len() < 2 {
        return Ok(Finding::fine(found));
    }
    let why = "a stream's bytes lie on its owner's node, and players of other nodes read them over \
               the link between; one relay for each node avoids it";
    Ok(Finding::note(found, why))
}

fn numa_balancing(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "kernel.numa_balancing";
    let Some(mode) = if_there(exam.host.sysctl::<u8>(KEY))? else {
        return Ok(Finding::fine("the kernel has none"));
    };
    if mode == 0 || nodes(exam)?.len() < 2 {
        return Ok(Finding::fine(mode.to_string()));
    }
    let why = "it unmaps pages to see who touches them; shards are pinned, so that it costs faults \
               and finds nothing";
    Ok(Finding::costs(mode.to_string(), why, set_sysctl(KEY, 0)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Costs, Fine, NotKnown, Note};
    use super::super::testing::{Case, Change, file, garbled, gone};

    const GOVERNOR: &str = "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor";
    const SIBLINGS: &str = "sys/devices/system/cpu/cpu1/topology/thread_siblings_list";
    const ISOLATED: &str = "sys/devices/system/cpu/isolated";
    const NODE: &str = "sys/devices/system/node/node0/cpulist";
    const BALANCING: &str = "proc/sys/kernel/numa_balancing";
    const SECOND_NODE: Change = file("sys/devices/system/node/node1/cpulist", "2-3");

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("governor", &[file(GOVERNOR, "powersave")], Costs, "powersave on 1"),
        Case::new("governor", &[gone("sys/devices/system/cpu/cpu0/cpufreq")], NotKnown, "virtual"),
        Case::new("governor", &[garbled(GOVERNOR)], NotKnown, "not understood"),
        Case::new("siblings", &[file(SIBLINGS, "0-1")], Note, "shards that are siblings: 0-1"),
        Case::new("siblings", &[file(SIBLINGS, "1,3")], Fine, "a core of its own"),
        Case::new("siblings", &[garbled(SIBLINGS)], NotKnown, "not understood"),
        Case::new("isolated CPUs", &[file(ISOLATED, "2-3")], Note, "2-3, not used"),
        Case::new("isolated CPUs", &[file(ISOLATED, "1-3")], Fine, "used by shards"),
        Case::new("isolated CPUs", &[gone(ISOLATED)], NotKnown, "not there"),
        Case::new("NUMA nodes", &[SECOND_NODE], Fine, "2, shards on 1"),
        Case::new("NUMA nodes", &[SECOND_NODE], Note, "2, shards on 2")
            .planned(|plan| plan.cpus = vec![0, 2]),
        Case::new("NUMA nodes", &[SECOND_NODE, file(NODE, "?")], NotKnown, "not understood"),
        Case::new("kernel.numa_balancing", &[file(BALANCING, "1")], Fine, "1"),
        Case::new("kernel.numa_balancing", &[gone(BALANCING)], Fine, "has none"),
        Case::new(
            "kernel.numa_balancing",
            &[SECOND_NODE, file(BALANCING, "1")],
            Costs,
            "numa_balancing=\"0\"",
        ),
        Case::new("kernel.numa_balancing", &[garbled(BALANCING)], NotKnown, "not understood"),
    ];
}
