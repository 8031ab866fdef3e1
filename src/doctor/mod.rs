//! `rillcast doctor`: what the host does for the relay and what it costs it, with the remedy.
//!
//! A check is a function of files under a root ([`Host`]), of what this process may do
//! ([`HostFacts`]) and of what the relay is to do ([`Plan`]), so that each has a test with a fake
//! host. [`GROUPS`] is the list of all. The remedies that outlast a restart are in `tuning/`.

mod cgroup;
mod cpu;
mod facts;
mod finding;
mod host;
mod kernel;
mod memory;
mod nic;
mod plan;
mod ports;
mod process;
mod report;
mod tcp;
#[cfg(test)]
mod testing;
mod udp;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, CpuList, Overrides, parse_cpu_list};
use facts::HostFacts;
use finding::{Finding, Outcome, Verdict};
use host::{Host, Unknown};
use nic::Nic;
use plan::Plan;
use report::Report;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Config file of the relay that is to run here; the defaults without it, also with --pid.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Shards that are to run here, over what the config says.
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// CPUs that shards may use, such as 0-3,8.
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// Players, publishers and pulls at a time; by default as many as the config's limits let in.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    connections: Option<u64>,
    /// Running relay whose limits, CPUs and cgroup are looked at, instead of this shell's.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Where /proc and /sys are.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// Examines the host and prints what was found. The exit code is that of the worst verdict: 0, 1
/// where something costs performance, 2 where the relay does not start.
pub(crate) fn run(options: &Options) -> ExitCode {
    let host = Host::new(&options.root);
    let facts = HostFacts::find_out();
    let process = options.pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    if options.pid.is_some() && !host.has(&format!("proc/{process}")) {
        eprintln!("rillcast: --pid: there is no process {process}");
        return Verdict::Blocks.into();
    }
    let (config, fault) = config_of(options);
    let allowed = allowed_cpus(&host, &process)
        .or_else(|_| host.cpu_list("sys/devices/system/cpu/online"))
        .unwrap_or_else(|_| vec![0]);
    let plan = Plan::new(&config, &allowed, options.connections);
    let exam = Exam { host: &host, facts: &facts, plan: &plan, process: &process };
    let mut rows = examine(&exam);
    if let Some(finding) = fault {
        rows.insert(0, Row { group: "config", check: "config", subject: None, finding });
    }
    let report = Report::new(&plan, options.config.as_deref(), rows);
    report.print(options.json);
    report.verdict().into()
}

/// The config to compare with, and what is wrong with what was given. The defaults then stand in.
fn config_of(options: &Options) -> (Config, Option<Finding>) {
    let blocks = |error: String| {
        let finding = Finding::blocks(error, "the relay would not start", "correct it");
        (Config::default(), Some(finding))
    };
    let mut config = match &options.config {
        None => Config::default(),
        Some(file) => match Config::load(file) {
            Ok(config) => config,
            Err(error) => return blocks(error.to_string()),
        },
    };
    let cpus = match options.cpus.clone().map(CpuList::try_from).transpose() {
        Ok(cpus) => cpus,
        Err(error) => return blocks(format!("--cpus: {error}")),
    };
    config.apply(Overrides { shards: options.shards, cpus, ..Overrides::default() });
    match config.validate() {
        Ok(()) => (config, None),
        Err(error) => blocks(error.to_string()),
    }
}

/// What a check looks at.
struct Exam<'a> {
    host: &'a Host,
    facts: &'a HostFacts,
    plan: &'a Plan,
    /// Its folder in `/proc`: `self` or a PID.
    process: &'a str,
}

impl Exam<'_> {
    fn allowed_cpus(&self) -> Result<Vec<usize>, Unknown> {
        allowed_cpus(self.host, self.process)
    }
}

fn allowed_cpus(host: &Host, process: &str) -> Result<Vec<usize>, Unknown> {
    let path = format!("proc/{process}/status");
    let text = host.text(&path)?;
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cpus = list.and_then(|list| parse_cpu_list(list).ok()).filter(|cpus| !cpus.is_empty());
    cpus.ok_or_else(|| Unknown::garbled(&path))
}

/// One question about the host.
struct Check {
    name: &'static str,
    run: Run,
}

enum Run {
    Once(fn(&Exam<'_>) -> Outcome),
    /// Asked about each network interface.
    EachNic(fn(&Exam<'_>, &Nic) -> Outcome),
}

impl Check {
    const fn once(name: &'static str, run: fn(&Exam<'_>) -> Outcome) -> Self {
        Self { name, run: Run::Once(run) }
    }

    const fn each_nic(name: &'static str, run: fn(&Exam<'_>, &Nic) -> Outcome) -> Self {
        Self { name, run: Run::EachNic(run) }
    }
}

/// All checks in the order in which they are printed.
const GROUPS: &[(&str, &[Check])] = &[
    ("kernel", kernel::CHECKS),
    ("process", process::CHECKS),
    ("CPUs", cpu::CHECKS),
    ("memory", memory::CHECKS),
    ("TCP", tcp::CHECKS),
    ("ports", ports::CHECKS),
    ("UDP", udp::CHECKS),
    ("NICs", nic::CHECKS),
];

/// One check's answer.
#[derive(Debug)]
struct Row {
    group: &'static str,
    check: &'static str,
    /// The interface that it is about.
    subject: Option<String>,
    finding: Finding,
}

/// Asks every check.
fn examine(exam: &Exam<'_>) -> Vec<Row> {
    let nics = nic::nics(exam.host);
    let mut rows = Vec::new();
    if let Err(unknown) = &nics {
        let finding = Finding::from(unknown.clone());
        rows.push(Row { group: "NICs", check: "interfaces", subject: None, finding });
    }
    for (group, checks) in GROUPS {
        for Check { name, run } in *checks {
            let mut add = |subject, outcome: Outcome| {
                let finding = outcome.unwrap_or_else(Finding::from);
                rows.push(Row { group, check: name, subject, finding });
            };
            match (run, &nics) {
                (Run::Once(run), _) => add(None, run(exam)),
                (Run::EachNic(run), Ok(nics)) => {
                    nics.iter().for_each(|nic| add(Some(nic.name.clone()), run(exam, nic)));
                }
                (Run::EachNic(_), Err(_)) => {}
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::testing::{Bench, Case, FINE, garbled, gone};
    use super::*;

    const CASES: &[&[Case]] = &[
        kernel::tests::CASES,
        process::tests::CASES,
        cgroup::tests::CASES,
        cpu::tests::CASES,
        memory::tests::CASES,
        tcp::tests::CASES,
        ports::tests::CASES,
        udp::tests::CASES,
        nic::tests::CASES,
    ];

    #[test]
    fn each_check_says_what_its_table_says() {
        let mut bench = Bench::fine();
        CASES.iter().copied().flatten().for_each(|case| case.assert_on(&mut bench));
    }

    #[test]
    fn each_check_is_in_a_table_with_what_is_wrong_and_with_what_is_not_known() {
        let cases = || CASES.iter().copied().flatten();
        for Check { name, .. } in GROUPS.iter().flat_map(|(_, checks)| *checks) {
            let has = |is: fn(Verdict) -> bool| cases().any(|c| c.check == *name && is(c.verdict));
            assert!(has(|verdict| verdict == Verdict::NotKnown), "{name}: not known");
            let is_wrong =
                |verdict| matches!(verdict, Verdict::Note | Verdict::Costs | Verdict::Blocks);
            assert!(has(is_wrong), "{name}: wrong");
        }
    }

    #[test]
    fn all_is_fine_on_the_fine_host() {
        let rows = Bench::fine().rows();
        for row in &rows {
            assert_eq!(row.finding.verdict, Verdict::Fine, "{row:?}");
        }
        let names: BTreeSet<&str> = rows.iter().map(|row| row.check).collect();
        assert_eq!(names.len(), rows.len(), "no name stands for two checks");
    }

    #[test]
    fn a_host_without_files_is_not_known_and_nothing_is_made_up() {
        let bench = Bench::fine();
        for folder in ["proc", "sys"] {
            bench.host.change(&gone(folder));
        }
        let known: Vec<&str> = bench
            .rows()
            .iter()
            .filter(|row| row.finding.verdict != Verdict::NotKnown)
            .map(|row| row.check)
            .collect();
        // The rings were tried out; the others are features that such a kernel lacks, or are off.
        assert_eq!(known, ["io_uring", "kernel.numa_balancing", "conntrack", "steering"]);
    }

    #[test]
    fn each_file_may_be_garbled_or_gone_and_nothing_blocks() {
        let bench = Bench::fine();
        for (path, text) in FINE {
            for change in [garbled(path), gone(path)] {
                bench.host.change(&change);
                let rows = bench.rows();
                let worst = rows.iter().max_by_key(|row| row.finding.verdict);
                let worst = worst.expect("there are checks");
                assert!(worst.finding.verdict < Verdict::Blocks, "{change:?}: {worst:?}");
                bench.host.file(path, text);
            }
        }
    }

    #[test]
    fn what_is_wrong_says_why_and_what_to_do() {
        const STAT: &str = "cpu  HUGE HUGE HUGE HUGE HUGE HUGE HUGE HUGE";
        const SOFTNET: &str = "ffffffffffffffff 0 0\nffffffffffffffff 0 ffffffffffffffff";
        let bench = Bench::fine();
        for (path, text) in FINE {
            for value in ["0", "1", "2", "x", "0 0 0", "HUGE", "HUGE HUGE HUGE", STAT, SOFTNET] {
                bench.host.file(path, &value.replace("HUGE", &u64::MAX.to_string()));
                for Row { check, finding, .. } in bench.rows() {
                    let is_wrong = finding.verdict >= Verdict::Costs;
                    assert_eq!(!finding.remedy.is_empty(), is_wrong, "{check}: {finding:?}");
                    assert!(!is_wrong || !finding.why.is_empty(), "{check}: {finding:?}");
                    assert!(!finding.found.is_empty(), "{check}: {finding:?}");
                    let lines = [finding.found, finding.why];
                    assert!(lines.iter().all(|line| !line.contains('\n')), "{check}: {lines:?}");
                }
            }
            bench.host.file(path, text);
        }
    }

    const SYSCTL_FILE: &str = include_str!("../../tuning/90-rillcast.conf");

    /// Keys and values that the file sets.
    fn tuned() -> Vec<(&'static str, &'static str)> {
        let lines = SYSCTL_FILE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let (key, value) = line.split_once('=').expect("a setting");
                (key.trim().trim_start_matches('-'), value.trim())
            })
            .collect()
    }

    #[test]
    fn host_tuned_by_our_file_is_fine_and_a_check_reads_each_key() {
        let bench = Bench::fine();
        assert!(tuned().len() > 10, "the file was not understood");
        let path = |key: &str| format!("proc/sys/{}", key.replace('.', "/"));
        for (key, value) in tuned() {
            bench.host.file(&path(key), value);
        }
        // Swap, a second node and bbr, so that what is set for them is looked at.
        bench.host.file("proc/meminfo", "MemAvailable: 15728640 kB\nSwapTotal: 1048576 kB");
        bench.host.file("sys/devices/system/node/node1/cpulist", "4-7");
        bench.host.file("proc/sys/net/ipv4/tcp_congestion_control", "bbr");
        for row in bench.rows() {
            assert_eq!(row.finding.verdict, Verdict::Fine, "{row:?}");
        }
        for (key, value) in tuned() {
            bench.host.file(&path(key), "?");
            let is_seen = |row: &Row| row.finding.verdict > Verdict::Note;
            assert!(bench.rows().iter().any(is_seen), "{key}");
            bench.host.file(&path(key), value);
        }
    }

    #[test]
    fn remedies_and_our_file_agree() {
        let mut bench = Bench::fine();
        let mut advised = BTreeSet::new();
        for case in CASES.iter().copied().flatten() {
            let remedy = case.finding_on(&mut bench).remedy;
            for setting in remedy.split("sysctl -w ").skip(1) {
                let (key, rest) = setting.split_once("=\"").expect("a setting");
                let (value, _) = rest.split_once('"').expect("a value");
                match tuned().iter().find(|(tuned, _)| *tuned == key) {
                    // Of a list it may be one item: the host's own stay.
                    Some((_, tuned)) => {
                        assert!(value.split(',').any(|item| item == *tuned), "{key}: {value}");
                    }
                    None => assert!(SYSCTL_FILE.contains(key), "{key} is not told of"),
                }
                advised.insert(key.to_owned());
            }
        }
        assert!(advised.len() > 10, "{advised:?}");
    }

    fn options(arguments: &[&str]) -> Options {
        #[derive(clap::Parser)]
        struct Parser {
            #[command(flatten)]
            options: Options,
        }
        let arguments = ["doctor"].iter().chain(arguments);
        <Parser as clap::Parser>::try_parse_from(arguments).expect("options").options
    }

    #[test]
    fn a_config_that_is_wrong_blocks() {
        assert_eq!(config_of(&options(&["--shards", "3"])).0.server.shards, 3);
        let table: &[(&[&str], &str)] = &[
            (&["--config", "/nowhere.toml"], "cannot be read"),
            (&["--cpus", "3-1"], "--cpus: a CPU range"),
            (&["--cpus", "0", "--shards", "2"], "server.shards: more shards"),
        ];
        for (arguments, says) in table {
            let (config, finding) = config_of(&options(arguments));
            let finding = finding.expect("it is wrong");
            assert!(finding.found.contains(says), "{finding:?}");
            assert_eq!((finding.verdict, config), (Verdict::Blocks, Config::default()));
        }
    }
}
