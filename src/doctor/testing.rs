//! A fake host for the tests of checks: a tree in which every verdict is fine, and changes to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::facts::{HostFacts, Rings};
use super::finding::{Finding, Verdict};
use super::host::Host;
use super::plan::Plan;
use super::{Exam, Row, examine};
use crate::config::Config;

/// A tree of files in the temporary folder, gone with it.
pub(super) struct FakeHost {
    root: PathBuf,
    host: Host,
}

/// What is different from the host on which all is fine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    File(&'static str, &'static str),
    /// A file whose bytes are no text.
    Garbled(&'static str),
    /// A file, or a folder with all that is in it.
    Gone(&'static str),
}

pub(super) const fn file(path: &'static str, text: &'static str) -> Change {
    Change::File(path, text)
}

pub(super) const fn garbled(path: &'static str) -> Change {
    Change::Garbled(path)
}

pub(super) const fn gone(path: &'static str) -> Change {
    Change::Gone(path)
}

/// One line of a check's table: what it says about a host with these changes.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) check: &'static str,
    changes: &'static [Change],
    pub(super) verdict: Verdict,
    /// A part of what is found, why, or the remedy.
    says: &'static str,
    plan: fn(&mut Plan),
}

impl Case {
    pub(super) const fn new(
        check: &'static str,
        changes: &'static [Change],
        verdict: Verdict,
        says: &'static str,
    ) -> Self {
        Self { check, changes, verdict, says, plan: |_| {} }
    }

    /// The same for a relay that is to do something else.
    pub(super) const fn planned(mut self, plan: fn(&mut Plan)) -> Self {
        self.plan = plan;
        self
    }

    /// Makes the changes, looks, and takes them back.
    #[track_caller]
    pub(super) fn finding_on(&self, bench: &mut Bench) -> Finding {
        let plan = bench.plan.clone();
        (self.plan)(&mut bench.plan);
        for change in self.changes {
            bench.host.change(change);
        }
        let finding = bench.finding(self.check);
        for change in self.changes {
            bench.host.take_back(change);
        }
        bench.plan = plan;
        finding
    }

    #[track_caller]
    pub(super) fn assert_on(&self, bench: &mut Bench) {
        let finding = self.finding_on(bench);
        let text = format!("{}\n{}\n{}", finding.found, finding.why, finding.remedy);
        let held = finding.verdict == self.verdict && text.contains(self.says);
        assert!(held, "{self:#?}\nbut it is {}: {text}", finding.verdict.as_str());
    }
}

/// A fake host with two shards and 2,000 connections planned on it.
pub(super) struct Bench {
    pub(super) host: FakeHost,
    pub(super) facts: HostFacts,
    pub(super) plan: Plan,
    pub(super) process: String,
}

impl Bench {
    pub(super) fn fine() -> Self {
        let mut config = Config::default();
        config.server.shards = 2;
        Self {
            host: FakeHost::fine(),
            facts: HostFacts { rings: Rings::Work { sends_vectors: true }, page_len: 4096 },
            plan: Plan::new(&config, &[0, 1, 2, 3], Some(2000)),
            process: "self".to_owned(),
        }
    }

    /// What every check says.
    pub(super) fn rows(&self) -> Vec<Row> {
        examine(&Exam {
            host: self.host.host(),
            facts: &self.facts,
            plan: &self.plan,
            process: &self.process,
        })
    }

    /// What one check says, of the first interface where it is about them.
    #[track_caller]
    pub(super) fn finding(&self, check: &str) -> Finding {
        let row = self.rows().into_iter().find(|row| row.check == check);
        row.unwrap_or_else(|| panic!("no check {check}")).finding
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl FakeHost {
    pub(super) fn empty() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rillcast-host-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).expect("a folder in the temporary one");
        Self { host: Host::new(&root), root }
    }

    pub(super) fn fine() -> Self {
        let host = Self::empty();
        for (path, text) in FINE {
            host.file(path, text);
        }
        host.link("sys/class/net/lo", "../../devices/virtual/net/lo");
        host.link("sys/class/net/eth0/device/driver", "../../../bus/pci/drivers/ixgbe");
        host
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn file(&self, path: &str, text: &str) {
        self.bytes(path, text.as_bytes());
    }

    pub(super) fn bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.root.join(path);
        let folder = path.parent().expect("a path in the tree");
        fs::create_dir_all(folder).expect("a folder of the tree");
        fs::write(path, bytes).expect("a file of the tree");
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.root.join(path);
        let folder = path.parent().expect("a path in the tree");
        fs::create_dir_all(folder).expect("a folder of the tree");
        std::os::unix::fs::symlink(target, path).expect("a link of the tree");
    }

    pub(super) fn change(&self, change: &Change) {
        match change {
            Change::File(path, text) => self.file(path, text),
            Change::Garbled(path) => self.bytes(path, &[0xff]),
            Change::Gone(path) => self.remove(path),
        }
    }

    fn take_back(&self, change: &Change) {
        let (Change::File(path, _) | Change::Garbled(path) | Change::Gone(path)) = change;
        self.remove(path);
        for folder in Path::new(path).ancestors().skip(1) {
            // Those that are not empty stay.
            if fs::remove_dir(self.root.join(folder)).is_err() {
                break;
            }
        }
        for (fine, text) in FINE.iter().filter(|(fine, _)| Path::new(fine).starts_with(path)) {
            self.file(fine, text);
        }
    }

    fn remove(&self, path: &str) {
        let path = self.root.join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("a folder of the tree");
        } else {
            // A change may name what was never there.
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        // It is in the temporary folder.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A machine of four CPUs with a NIC of two queues, on which nothing is wrong.
pub(super) const FINE: &[(&str, &str)] = &[
    ("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 15728640 kB\nSwapTotal: 0 kB\n"),
    ("proc/stat", "cpu  1000 0 500 98000 0 0 20 0 0 0\ncpu0 500 0 250 49000 0 0 10 0 0 0\n"),
    ("proc/net/netstat", "TcpExt: ListenOverflows ListenDrops TCPMemoryPressures\nTcpExt: 0 0 0\n"),
    (
        "proc/net/softnet_stat",
        "0075b753 00000000 00000003 00000000\n00807127 00000000 00000007 0\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1048576              1048576              files     \n\
         Max locked memory         unlimited            unlimited            bytes     \n",
    ),
    ("proc/self/status", "Name:\trillcast\nCapEff:\t0\nCpus_allowed_list:\t0-3\n"),
    ("proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n"),
    ("proc/self/cgroup", "0::/system.slice\n"),
    ("sys/fs/cgroup/cpu.stat", "usage_usec 1\n"),
    ("sys/fs/cgroup/system.slice/cpu.max", "max 100000\n"),
    ("sys/fs/cgroup/system.slice/cpu.stat", "usage_usec 1\nnr_periods 0\nnr_throttled 0\n"),
    ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
    ("proc/1/comm", "systemd\n"),
    ("proc/irq/30/smp_affinity_list", "0-3\n"),
    ("proc/irq/30/effective_affinity_list", "0\n"),
    ("proc/irq/30/eth0-TxRx-0/x", ""),
    ("proc/irq/31/smp_affinity_list", "1\n"),
    ("proc/irq/31/effective_affinity_list", "1\n"),
    ("proc/irq/31/eth0-TxRx-1/x", ""),
    ("proc/irq/32/smp_affinity_list", "0-3\n"),
    ("proc/irq/32/eth0/x", ""),
    ("proc/sys/fs/file-nr", "1000\t0\t9223372036854775807\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/kernel/numa_balancing", "0\n"),
    ("proc/sys/kernel/osrelease", "6.18.44\n"),
    ("proc/sys/net/core/default_qdisc", "fq\n"),
    ("proc/sys/net/core/netdev_budget", "300\n"),
    ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
    ("proc/sys/net/core/rmem_max", "4194304\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/core/wmem_max", "4194304\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "10240\t65535\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "30000-34999\n"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096\n"),
    ("proc/sys/net/ipv4/tcp_mem", "190000\t250000\t380000\n"),
    ("proc/sys/net/ipv4/tcp_notsent_lowat", "4294967295\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "0\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("proc/sys/net/ipv4/tcp_tw_reuse", "1\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "0\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
    ("proc/sys/vm/overcommit_memory", "0\n"),
    ("proc/sys/vm/swappiness", "10\n"),
    ("sys/class/net/eth0/device/msi_irqs/30", "msix\n"),
    ("sys/class/net/eth0/device/msi_irqs/31", "msix\n"),
    ("sys/class/net/eth0/device/msi_irqs/32", "msix\n"),
    ("sys/class/net/eth0/device/numa_node", "0\n"),
    ("sys/class/net/eth0/operstate", "up\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/tx-0/xps_cpus", "5\n"),
    ("sys/class/net/eth0/queues/tx-1/xps_cpus", "a\n"),
    ("sys/class/net/eth0/statistics/rx_fifo_errors", "0\n"),
    ("sys/class/net/eth0/statistics/rx_missed_errors", "0\n"),
    ("sys/class/net/eth0/statistics/rx_packets", "50000\n"),
    ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Not affected\n"),
    ("sys/devices/system/node/node0/cpulist", "0-3\n"),
    ("sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
];
