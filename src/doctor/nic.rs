//! The network interfaces: queues against shards, where their interrupts go, what was lost.
//!
//! Terms and files are those of the kernel's `Documentation/networking/scaling.rst`.

use std::collections::BTreeSet;

use super::finding::{Finding, Outcome, SINCE_START, is_often, set_sysctl};
use super::host::{Host, Unknown, cpu_list_text, if_there};
use super::{Check, Exam};

pub(super) const CHECKS: &[Check] = &[
    Check::each_nic("queues", queues),
    Check::each_nic("interrupts", interrupts),
    Check::each_nic("RPS", rps),
    Check::each_nic("XPS", xps),
    Check::each_nic("node", node),
    Check::each_nic("lost packets", lost_packets),
    Check::once("softirq", softirq),
    Check::once("irqbalance", irqbalance),
    Check::once("steering", steering),
];

/// An interface that is up and has a device behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) driver: Option<String>,
    rx_count: usize,
    pub(super) tx_count: usize,
}

impl Nic {
    fn path(&self, file: &str) -> String {
        format!("sys/class/net/{}/{file}", self.name)
    }

    fn rps_paths(&self) -> impl Iterator<Item = String> {
        (0..self.rx_count).map(|queue| self.path(&format!("queues/rx-{queue}/rps_cpus")))
    }

    /// CPUs that RPS spreads the receive queues over; none where it is off.
    fn rps_cpus(&self, host: &Host) -> Result<BTreeSet<usize>, Unknown> {
        let mut cpus = BTreeSet::new();
        for path in self.rps_paths() {
            // A kernel without RPS has no such file.
            cpus.extend(if_there(host.cpu_mask(&path))?.unwrap_or_default());
        }
        Ok(cpus)
    }

    /// CPUs of the interrupts of each receive queue, in the order of the interrupts' numbers.
    fn interrupt_cpus(&self, host: &Host) -> Result<Vec<Vec<usize>>, Unknown> {
        let folders = [self.path("device/msi_irqs"), self.path("device/../msi_irqs")];
        let folder = folders.iter().find(|folder| host.has(folder));
        let Some(folder) = folder else {
            return Err(Unknown::because("its interrupts are not told in /sys"));
        };
        let mut numbers: Vec<u32> =
            host.names(folder)?.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let mut found = Vec::new();
        for number in numbers {
            let irq = format!("proc/irq/{number}");
            let Some(names) = if_there(host.names(&irq))? else { continue };
            if names.iter().any(|name| is_receive_interrupt(name)) {
                let effective = if_there(host.cpu_list(&format!("{irq}/effective_affinity_list")))?;
                found.push(match effective.filter(|cpus| !cpus.is_empty()) {
                    Some(cpus) => cpus,
                    None => host.cpu_list(&format!("{irq}/smp_affinity_list"))?,
                });
            }
        }
        if found.is_empty() {
            return Err(Unknown::because("none of its interrupts is known as a receive queue's"));
        }
        Ok(found)
    }
}

/// Names of receive queues' interrupts: `virtio2-input.0`, `eth0-TxRx-3`, `ens5-Tx-Rx-0`,
/// `mlx5_comp0@pci:...`, `gve-ntfy-blk0@pci:...`.
fn is_receive_interrupt(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["rx", "input", "comp", "ntfy"].iter().any(|part| name.contains(part))
}

/// Interfaces that are up, without those that are made of software.
pub(super) fn nics(host: &Host) -> Result<Vec<Nic>, Unknown> {
    let folder = "sys/class/net";
    let mut nics = Vec::new();
    for name in host.names(folder)? {
        let target = host.link_target(&format!("{folder}/{name}")).unwrap_or_default();
        let state = host.text(&format!("{folder}/{name}/operstate")).unwrap_or_default();
        if target.contains("/virtual/") || state == "down" {
            continue;
        }
        // `bonding_masters` is a file.
        let Ok(queues) = host.names(&format!("{folder}/{name}/queues")) else { continue };
        let count = |way: &str| queues.iter().filter(|queue| queue.starts_with(way)).count();
        let driver = host.link_target(&format!("{folder}/{name}/device/driver"));
        let driver = driver.and_then(|path| Some(path.rsplit('/').next()?.to_owned()));
        nics.push(Nic { rx_count: count("rx-"), tx_count: count("tx-"), name, driver });
    }
    if nics.is_empty() {
        return Err(Unknown::because(
            "no interface with a device behind it is seen; in a container, run it on the host",
        ));
    }
    Ok(nics)
}

/// What puts all of it right; prints what it would do until told to do it.
fn affinity_command(exam: &Exam<'_>, nic: &Nic) -> String {
    let cpus = cpu_list_text(&exam.plan.cpus);
    format!("tuning/affinity --apply --nic {} --cpus {cpus}", nic.name)
}

fn queues(exam: &Exam<'_>, nic: &Nic) -> Outcome {
    let Nic { name, rx_count, tx_count, driver } = nic;
    let shards = exam.plan.shards();
    let driver = driver.as_deref().unwrap_or("driver not known");
    let found = format!("{rx_count} receive, {tx_count} transmit, {shards} shards, {driver}");
    if *rx_count >= shards {
        return Ok(Finding::fine(found));
    }
    let spread = nic.rps_cpus(exam.host)?;
    if spread.len() >= shards {
        let cpus = cpu_list_text(&Vec::from_iter(spread));
        return Ok(Finding::fine(format!("{found}; RPS spreads them over {cpus}")));
    }
    let why =
        "as many CPUs as there are queues handle what players acknowledge and publishers send";
    let remedy = format!(
        "ethtool -l {name}   # how many it can have\n\
         ethtool -L {name} combined {shards}\n\
         {}   # where it has no more: spreads by RPS",
        affinity_command(exam, nic)
    );
    Ok(Finding::costs(found, why, remedy))
}

fn interrupts(exam: &Exam<'_>, nic: &Nic) -> Outcome {
    let queues = nic.interrupt_cpus(exam.host)?;
    let cpus: BTreeSet<usize> = queues.iter().flatten().copied().collect();
    let wanted = queues.len().min(exam.plan.shards());
    let count = cpus.len();
    let list = cpu_list_text(&Vec::from_iter(cpus));
    let found = format!("receive queues: {}, on CPUs {list}", queues.len());
    if count >= wanted {
        return Ok(Finding::fine(found));
    }
    let why = "the shards on those CPUs do the receiving for the others too";
    Ok(Finding::costs(found, why, affinity_command(exam, nic)))
}

fn rps(exam: &Exam<'_>, nic: &Nic) -> Outcome {
    let cpus = nic.rps_cpus(exam.host)?;
    if cpus.is_empty() {
        return Ok(Finding::fine("off"));
    }
    let found = format!("on CPUs {}", cpu_list_text(&Vec::from_iter(cpus)));
    if nic.rx_count < exam.plan.shards() {
        return Ok(Finding::fine(found));
    }
    let why = "there is a queue for each shard already; RPS sends packets to another CPU once more";
    let zero = |path: String| format!("echo 0 > /{path}");
    Ok(Finding::costs(found, why, nic.rps_paths().map(zero).collect::<Vec<_>>().join("\n")))
}

fn xps(exam: &Exam<'_>, nic: &Nic) -> Outcome {
    if nic.tx_count < 2 {
        // The file is there and cannot be read.
        return Ok(Finding::fine("one transmit queue"));
    }
    let mut cpus = BTreeSet::new();
    for queue in 0..nic.tx_count {
        cpus.extend(exam.host.cpu_mask(&nic.path(&format!("queues/tx-{queue}/xps_cpus")))?);
    }
    let lacking: Vec<usize> =
        exam.plan.cpus.iter().copied().filter(|cpu| !cpus.contains(cpu)).collect();
    if lacking.is_empty() {
        return Ok(Finding::fine("every shard has a transmit queue"));
    }
    let found = format!("CPUs {} have no transmit queue of their own", cpu_list_text(&lacking));
    let why = "the kernel then takes a queue by a hash: shards wait for each other's locks";
    Ok(Finding::costs(found, why, affinity_command(exam, nic)))
}

fn node(exam: &Exam<'_>, nic: &Nic) -> Outcome {
    let path = nic.path("device/numa_node");
    let node = if_there(exam.host.number::<i64>(&path))?.filter(|node| *node >= 0);
    let Some(node) = node else { return Ok(Finding::fine("of none")) };
    let near = exam.host.cpu_list(&format!("sys/devices/system/node/node{node}/cpulist"))?;
    let far: Vec<usize> =
        exam.plan.cpus.iter().copied().filter(|cpu| !near.contains(cpu)).collect();
    if far.is_empty() {
        return Ok(Finding::fine(node.to_string()));
    }
    let found = format!("{node}; shards on CPUs {} are of another", cpu_list_text(&far));
    let why = "what they send and receive crosses the link between the nodes";
    Ok(Finding::costs(found, why, format!("server.cpus = \"{}\"", cpu_list_text(&near))))
}

/// More than one packet lost of so many costs. With one, TCP over 50 ms still carries 28 Mbit/s
/// (1.22 segments a round trip, by the root of the share).
const LOST_ONE_IN: u64 = 10_000;

fn lost_packets(exam: &Exam<'_>, nic: &Nic) -> Outcome {
    let count = |name: &str| exam.host.number::<u64>(&nic.path(&format!("statistics/{name}")));
    let (missed, fifo) = (count("rx_missed_errors")?, count("rx_fifo_errors")?);
    if missed == 0 && fifo == 0 {
        return Ok(Finding::fine("none"));
    }
    let received = count("rx_packets")?;
    let name = &nic.name;
    let found = format!("{missed} missed, {fifo} over the queue, {received} received");
    if !is_often(missed.saturating_add(fifo), received, LOST_ONE_IN) {
        return Ok(Finding::note(found, SINCE_START));
    }
    let why = "the receive ring was full when they came: TCP sends them again, UDP does not";
    // The first line of the kind is what the ring can be at most.
    let most = format!("ethtool -g {name} | awk '/^RX:/ {{ print $2; exit }}'");
    let remedy = format!(
        "ethtool -G {name} rx \"$({most})\"\n\
         {}   # where it is that long: more CPUs that receive",
        affinity_command(exam, nic)
    );
    Ok(Finding::costs(found, why, remedy))
}

/// Times out of budget among so many packets cost.
const SQUEEZED_ONE_IN: u64 = 1000;

/// Up to these the next remedy is twice the value: 16 and 4 times the kernel's own. More packets that
/// wait for a CPU are only late instead of lost.
const BACKLOG_ADVISED_MAX: u64 = 16_000;
const BUDGET_ADVISED_MAX: u64 = 1_200;

/// Costs with twice the value as the remedy; a note where that has been done often enough, since the
/// counts stay what they are.
fn twice(exam: &Exam<'_>, key: &str, advised_max: u64, found: String, why: &str) -> Outcome {
    let value = exam.host.sysctl::<u64>(key)?;
    if value >= advised_max {
        let why = format!("{why}; {key} is {value} already, so that more CPUs must receive");
        return Ok(Finding::note(found, why));
    }
    let remedy = set_sysctl(key, value.saturating_mul(2).min(advised_max));
    Ok(Finding::costs(found, why, remedy))
}

fn softirq(exam: &Exam<'_>) -> Outcome {
    let path = "proc/net/softnet_stat";
    let (mut processed, mut dropped, mut squeezed) = (0_u64, 0_u64, 0_u64);
    for line in exam.host.text(path)?.lines() {
        let mut counts = line.split_whitespace().map(|word| u64::from_str_radix(word, 16));
        let mut next = || counts.next().and_then(Result::ok).ok_or_else(|| Unknown::garbled(path));
        processed = processed.saturating_add(next()?);
        dropped = dropped.saturating_add(next()?);
        squeezed = squeezed.saturating_add(next()?);
    }
    let found = format!("{processed} packets, {dropped} dropped, {squeezed} times out of budget");
    if is_often(dropped, processed, LOST_ONE_IN) {
        let why = "a CPU's queue of packets was full (RPS and loopback use it)";
        return twice(exam, "net.core.netdev_max_backlog", BACKLOG_ADVISED_MAX, found, why);
    }
    if is_often(squeezed, processed, SQUEEZED_ONE_IN) {
        let why = "a CPU stopped receiving with packets left, to come back to them later";
        return twice(exam, "net.core.netdev_budget", BUDGET_ADVISED_MAX, found, why);
    }
    if dropped > 0 {
        return Ok(Finding::note(found, SINCE_START));
    }
    Ok(Finding::fine(found))
}

fn is_irqbalance_running(host: &Host) -> Result<bool, Unknown> {
    let processes = host.names("proc")?;
    let mut ids = processes.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    // A process may end between the list and the look.
    Ok(ids.any(|id| host.text(&format!("proc/{id}/comm")).is_ok_and(|name| name == "irqbalance")))
}

fn irqbalance(exam: &Exam<'_>) -> Outcome {
    if !is_irqbalance_running(exam.host)? {
        return Ok(Finding::fine("does not run"));
    }
    let why = "it moves interrupts every ten seconds, also those that tuning/affinity placed";
    if exam.plan.steers_by_cpu {
        let remedy = "systemctl disable --now irqbalance";
        return Ok(Finding::costs("runs", format!("{why}; steering by CPU needs them"), remedy));
    }
    Ok(Finding::note("runs", why))
}

fn steering(exam: &Exam<'_>) -> Outcome {
    if !exam.plan.steers_by_cpu {
        return Ok(Finding::fine("by hash"));
    }
    let mut receiving = BTreeSet::new();
    for nic in nics(exam.host)? {
        let spread = nic.rps_cpus(exam.host)?;
        if spread.is_empty() {
            receiving.extend(nic.interrupt_cpus(exam.host)?.into_iter().flatten());
        } else {
            receiving.extend(spread);
        }
    }
    let idle: Vec<usize> =
        exam.plan.cpus.iter().copied().filter(|cpu| !receiving.contains(cpu)).collect();
    if idle.is_empty() {
        return Ok(Finding::fine("by CPU, and every shard's CPU receives"));
    }
    let found = format!("by CPU, and CPUs {} receive nothing", cpu_list_text(&idle));
    let why = "their shards get no connections from the network";
    let cpus = cpu_list_text(&exam.plan.cpus);
    let remedy =
        format!("tuning/affinity --apply --cpus {cpus}\nserver.steer_by_cpu = false   # else");
    Ok(Finding::costs(found, why, remedy))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Costs, Fine, NotKnown, Note};
    use super::super::plan::Plan;
    use super::super::testing::{Bench, Case, Change, file, garbled, gone};
    use super::*;

    const STATE: &str = "sys/class/net/eth0/operstate";
    const FIRST_RPS: &str = "sys/class/net/eth0/queues/rx-0/rps_cpus";
    const RPS: &str = "sys/class/net/eth0/queues/rx-1/rps_cpus";
    const XPS: &str = "sys/class/net/eth0/queues/tx-1/xps_cpus";
    const NODE: &str = "sys/class/net/eth0/device/numa_node";
    const MISSED: &str = "sys/class/net/eth0/statistics/rx_missed_errors";
    const RECEIVED: &str = "sys/class/net/eth0/statistics/rx_packets";
    const SECOND_IRQ: &str = "proc/irq/31/effective_affinity_list";
    const SOFTNET: &str = "proc/net/softnet_stat";
    const BACKLOG: &str = "proc/sys/net/core/netdev_max_backlog";
    const BUDGET: &str = "proc/sys/net/core/netdev_budget";
    // 20,000 packets; 4,096 packets.
    const DROPPED_RARELY: &str = "00004e20 00000002 00000000";
    const DROPPED: &str = "00004e20 00000003 00000000";
    const SQUEEZED: &str = "00001000 00000000 00000005";
    const BALANCER: Change = file("proc/812/comm", "irqbalance");
    const STEER: fn(&mut Plan) = |plan| plan.steers_by_cpu = true;
    const ONE_QUEUE: Change = gone("sys/class/net/eth0/queues/rx-1");

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("queues", &[], Fine, "2 receive, 2 transmit, 2 shards, ixgbe"),
        Case::new("queues", &[ONE_QUEUE], Costs, "ethtool -L eth0 combined 2"),
        Case::new("queues", &[ONE_QUEUE, file(FIRST_RPS, "3")], Fine, "RPS spreads them over 0-1"),
        Case::new("queues", &[ONE_QUEUE, garbled(FIRST_RPS)], NotKnown, "not understood"),
        Case::new("interfaces", &[gone("sys/class/net")], NotKnown, "not there"),
        Case::new("interfaces", &[file(STATE, "down")], NotKnown, "in a container"),
        Case::new("interrupts", &[file(SECOND_IRQ, "0")], Costs, "--nic eth0 --cpus 0-1"),
        Case::new("interrupts", &[gone(SECOND_IRQ)], Fine, "receive queues: 2, on CPUs 0-1"),
        Case::new("interrupts", &[garbled(SECOND_IRQ)], NotKnown, "not understood"),
        Case::new("interrupts", &[gone("proc/irq")], NotKnown, "none of its interrupts"),
        Case::new("RPS", &[file(RPS, "2")], Costs, "echo 0 > /sys/class/net/eth0/queues/rx-1"),
        Case::new("RPS", &[gone(RPS)], Fine, "off"),
        Case::new("RPS", &[file(RPS, "x")], NotKnown, "not understood"),
        Case::new("XPS", &[file(XPS, "0")], Costs, "CPUs 1 have no transmit queue"),
        Case::new("XPS", &[gone("sys/class/net/eth0/queues/tx-1")], Fine, "one transmit queue"),
        Case::new("XPS", &[gone(XPS)], NotKnown, "not there"),
        Case::new("node", &[file(NODE, "0")], Fine, "0"),
        Case::new(
            "node",
            &[file(NODE, "1"), file("sys/devices/system/node/node1/cpulist", "2-3")],
            Costs,
            "server.cpus = \"2-3\"",
        ),
        Case::new("node", &[file(NODE, "-1")], Fine, "of none"),
        Case::new("node", &[file(NODE, "7")], NotKnown, "node7/cpulist is not there"),
        Case::new(
            "lost packets",
            &[file(MISSED, "5"), file(RECEIVED, "49999")],
            Costs,
            "ethtool -G eth0 rx \"$(ethtool -g eth0 | awk",
        ),
        Case::new(
            "lost packets",
            &[file(MISSED, "5"), file(RECEIVED, "49999")],
            Costs,
            "affinity --apply --nic eth0 --cpus 0-1   # where it is that long",
        ),
        Case::new("lost packets", &[file(MISSED, "5")], Note, "50000 received"),
        Case::new(
            "lost packets",
            &[file(MISSED, "5"), gone(RECEIVED)],
            NotKnown,
            "rx_packets is not there",
        ),
        Case::new("lost packets", &[garbled(MISSED)], NotKnown, "not understood"),
        Case::new("softirq", &[file(SOFTNET, "00001000 00000000 00000004")], Fine, "4096 packets"),
        Case::new("softirq", &[file(SOFTNET, DROPPED_RARELY)], Note, "20000 packets, 2 dropped"),
        Case::new("softirq", &[file(SOFTNET, DROPPED)], Costs, "=\"2000\""),
        Case::new(
            "softirq",
            &[file(SOFTNET, DROPPED), file(BACKLOG, "15000")],
            Costs,
            "backlog=\"16000\"",
        ),
        Case::new(
            "softirq",
            &[file(SOFTNET, DROPPED), file(BACKLOG, "16000")],
            Note,
            "is 16000 already",
        ),
        Case::new("softirq", &[file(SOFTNET, SQUEEZED)], Costs, "=\"600\""),
        Case::new(
            "softirq",
            &[file(SOFTNET, SQUEEZED), file(BUDGET, "1200")],
            Note,
            "is 1200 already",
        ),
        Case::new("softirq", &[file(SOFTNET, "1 x")], NotKnown, "not understood"),
        Case::new("irqbalance", &[BALANCER], Note, "every ten seconds"),
        Case::new("irqbalance", &[gone("proc")], NotKnown, "not there"),
        Case::new("irqbalance", &[BALANCER], Costs, "disable --now").planned(STEER),
        Case::new("steering", &[file(SECOND_IRQ, "0")], Fine, "by hash"),
        Case::new("steering", &[], Fine, "every shard's CPU receives").planned(STEER),
        Case::new("steering", &[file(SECOND_IRQ, "0")], Costs, "CPUs 1 receive nothing")
            .planned(STEER),
        // Where RPS is on, the CPU that it chooses counts.
        Case::new("steering", &[file(SECOND_IRQ, "0"), file(RPS, "3")], Fine, "by CPU")
            .planned(STEER),
        Case::new("steering", &[gone("proc/irq")], NotKnown, "interrupts").planned(STEER),
    ];

    #[test]
    fn interfaces_of_software_and_those_that_are_down_are_left_out() {
        let bench = Bench::fine();
        bench.host.change(&file("sys/class/net/eth1/operstate", "down"));
        bench.host.change(&file("sys/class/net/eth1/queues/rx-0/rps_cpus", "0"));
        bench.host.change(&file("sys/class/net/bonding_masters", "bond0"));
        let names = nics(bench.host.host()).map(|nics| nics.into_iter().map(|nic| nic.name));
        assert_eq!(names.map(Vec::from_iter), Ok(vec!["eth0".to_owned()]));
    }

    #[test]
    fn receive_interrupts_are_known_by_name() {
        let names =
            ["virtio2-input.0", "eth0-TxRx-3", "ens5-Tx-Rx-0", "mlx5_comp0@pci:0000:06:00.0"];
        assert!(names.into_iter().all(is_receive_interrupt));
        let others = ["virtio2-output.0", "virtio2-config", "mlx5_async0@pci:0000:06:00.0", "eth0"];
        assert!(!others.into_iter().any(is_receive_interrupt));
    }
}
