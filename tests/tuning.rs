//! The files of `tuning/`: that the script does what it prints and takes it back, and that the unit
//! and the limits are what systemd, PAM and our own command line understand.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A root with a NIC in it, gone with it.
struct Root(PathBuf);

impl Root {
    /// A machine of four CPUs with a NIC of so many queues: `eth0`, and loopback.
    fn new(name: &str, queue_count: usize) -> Self {
        let name = format!("rillcast-tuning-{}-{name}", std::process::id());
        let root = Self(std::env::temp_dir().join(name));
        root.file("sys/devices/system/cpu/online", "0-3\n");
        root.file("sys/class/net/eth0/operstate", "up\n");
        root.file("proc/1/comm", "systemd\n");
        for queue in 0..queue_count {
            root.file(&format!("sys/class/net/eth0/queues/rx-{queue}/rps_cpus"), "00000000\n");
            root.file(&format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), "00000000\n");
            // Of the virtio kind: the interrupts are those of the device above, one for each way.
            root.interrupt(40 + 2 * queue, &format!("virtio2-input.{queue}"));
            root.interrupt(41 + 2 * queue, &format!("virtio2-output.{queue}"));
        }
        root.interrupt(39, "virtio2-config");
        root.file("sys/devices/pci/virtio2/uevent", "");
        let path = |path: &str| root.0.join(path);
        symlink("../../../devices/pci/virtio2", path("sys/class/net/eth0/device")).expect("a link");
        root.file("sys/devices/virtual/net/lo/queues/rx-0/rps_cpus", "0\n");
        symlink("../../devices/virtual/net/lo", path("sys/class/net/lo")).expect("a link");
        root
    }

    fn interrupt(&self, number: usize, name: &str) {
        self.file(&format!("sys/devices/pci/msi_irqs/{number}"), "msix\n");
        self.file(&format!("proc/irq/{number}/smp_affinity_list"), "0-3\n");
        self.file(&format!("proc/irq/{number}/{name}/x"), "");
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of the root");
        fs::write(path, text).expect("a file of the root");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).expect("a file of the root").trim().to_owned()
    }

    /// Every file that the script may write, with what is in it.
    fn settings(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.join("proc"), self.0.join("sys")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder of the root") {
                let path = entry.expect("an entry").path();
                if path.is_symlink() {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = fs::read_to_string(&path).expect("a text").trim().to_owned();
                    found.insert(path, text);
                }
            }
        }
        found
    }

    fn affinity(&self, arguments: &[&str]) -> Output {
        Command::new(tuning("affinity"))
            .arg("--root")
            .arg(&self.0)
            .args(arguments)
            .output()
            .expect("the script runs")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // It is in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tuning(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", text_of(output));
}

#[test]
fn affinity_gives_each_queue_its_cpu_and_takes_it_back() {
    let root = Root::new("queues", 2);
    root.file("sys/class/net/eth0/queues/rx-1/rps_cpus", "00000000,00000003\n");
    let before = root.settings();

    let printed = root.affinity(&["--cpus", "2,3"]);
    assert_done(&printed);
    assert_eq!(root.settings(), before, "it only prints");

    let applied = root.affinity(&["--cpus", "2,3", "--apply"]);
    assert_done(&applied);
    let writes = |output: &Output| -> Vec<String> {
        let text = text_of(output);
        text.lines().filter(|line| line.starts_with("echo ")).map(str::to_owned).collect()
    };
    assert_eq!(writes(&printed), writes(&applied));
    // Two interrupts each way, one RPS mask that was on, two XPS masks.
    assert_eq!(writes(&applied).len(), 7, "{}", text_of(&applied));
    let interrupts = [39, 40, 41, 42, 43];
    let cpus = interrupts.map(|number| root.read(&format!("proc/irq/{number}/smp_affinity_list")));
    assert_eq!(cpus, ["0-3", "2", "2", "3", "3"]);
    let queue = |name: &str| root.read(&format!("sys/class/net/eth0/queues/{name}"));
    assert_eq!([queue("rx-0/rps_cpus"), queue("rx-1/rps_cpus")], ["00000000", "0"]);
    assert_eq!([queue("tx-0/xps_cpus"), queue("tx-1/xps_cpus")], ["4", "8"]);

    let again = root.affinity(&["--cpus", "2,3", "--apply"]);
    assert!(writes(&again).is_empty(), "{}", text_of(&again));
    // What was there first counts, however often it is changed.
    assert_done(&root.affinity(&["--cpus", "0,1", "--apply"]));
    assert_eq!(root.read("proc/irq/42/smp_affinity_list"), "1");
    assert_done(&root.affinity(&["--undo"]));
    assert_eq!(root.settings(), before);
    assert!(text_of(&root.affinity(&["--undo"])).contains("nothing to undo"));
}

#[test]
fn affinity_spreads_an_only_queue_by_rps() {
    let root = Root::new("rps", 1);
    assert_done(&root.affinity(&["--apply"]));
    assert_eq!(root.read("proc/irq/40/smp_affinity_list"), "0");
    assert_eq!(root.read("sys/class/net/eth0/queues/rx-0/rps_cpus"), "f");
    assert_eq!(root.read("sys/class/net/eth0/queues/tx-0/xps_cpus"), "00000000", "an only queue");
    assert_eq!(root.read("sys/class/net/lo/queues/rx-0/rps_cpus"), "0", "loopback is left alone");

    let many = root.affinity(&["--cpus", "0,31-32,64", "--apply"]);
    assert_done(&many);
    let mask = root.read("sys/class/net/eth0/queues/rx-0/rps_cpus");
    assert_eq!(mask, "1,00000001,80000001", "words of 32 bits");
}

#[test]
fn affinity_tells_lists_of_cpus_apart() {
    let root = Root::new("lists", 2);
    root.file("proc/irq/40/smp_affinity_list", "0,2\n");
    root.file("proc/irq/42/smp_affinity_list", "0,3\n");
    let before = root.settings();
    assert_done(&root.affinity(&["--cpus", "2,3", "--apply"]));
    let cpus = [40, 42].map(|number| root.read(&format!("proc/irq/{number}/smp_affinity_list")));
    assert_eq!(cpus, ["2", "3"]);
    assert_done(&root.affinity(&["--undo"]));
    assert_eq!(root.settings(), before);
}

#[test]
fn affinity_takes_back_what_it_could_write() {
    let root = Root::new("refused", 2);
    let before = root.settings();
    // A file of the kernel that nobody may write.
    let refused = root.0.join("proc/irq/40/smp_affinity_list");
    fs::remove_file(&refused).expect("it was there");
    symlink("/proc/sys/kernel/ostype", &refused).expect("a link");

    let applied = root.affinity(&["--cpus", "2,3", "--apply"]);
    assert_eq!(applied.status.code(), Some(1), "{}", text_of(&applied));
    assert!(text_of(&applied).contains("irq/40/smp_affinity_list does not take 2"));
    assert_eq!(root.read("proc/irq/42/smp_affinity_list"), "3", "the others are written");
    // A queue that is gone meanwhile needs nothing put back.
    let gone = "sys/class/net/eth0/queues/tx-1/xps_cpus";
    fs::remove_file(root.0.join(gone)).expect("it was there");

    assert_done(&root.affinity(&["--undo"]));
    assert!(!root.0.join(gone).exists(), "nothing is made");
    root.file(gone, "00000000\n");
    fs::remove_file(&refused).expect("the link");
    root.file("proc/irq/40/smp_affinity_list", "0-3\n");
    assert_eq!(root.settings(), before);
    assert!(text_of(&root.affinity(&["--undo"])).contains("nothing to undo"));
}

#[test]
fn affinity_says_what_is_wrong() {
    let root = Root::new("wrong", 2);
    let table: &[(&[&str], &str)] = &[
        (&["--cpus", "0-x"], "0-x is no list of CPUs"),
        (&["--nic", "eth7"], "there is no NIC eth7"),
        (&["--cpus"], "--cpus wants a value"),
        (&["--now"], "unknown option --now"),
    ];
    for (arguments, says) in table {
        let output = root.affinity(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
        assert!(text_of(&output).contains(says), "{}", text_of(&output));
    }
    root.file("proc/70/comm", "irqbalance\n");
    let output = root.affinity(&[]);
    assert_done(&output);
    assert!(text_of(&output).contains("irqbalance runs"), "{}", text_of(&output));
    root.file("sys/class/net/eth0/operstate", "down\n");
    assert!(text_of(&root.affinity(&[])).contains("no NIC is up"));
}

#[test]
fn unit_starts_commands_that_there_are() {
    let unit = fs::read_to_string(tuning("rillcast.service")).expect("the unit");
    let commands: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart")?.split_once('/').map(|(_, rest)| rest))
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        let mut words = command.split(' ').skip(1);
        let subcommand = words.next().expect("a subcommand");
        let help = Command::new(env!("CARGO_BIN_EXE_rillcast"))
            .args([subcommand, "--help"])
            .output()
            .expect("the binary runs");
        assert_done(&help);
        for option in words.filter(|word| word.starts_with("--")) {
            assert!(text_of(&help).contains(&format!("{option} <")), "{subcommand} {option}");
        }
    }
    assert!(unit.contains("SystemCallFilter=@system-service"), "the group that has io_uring");
    assert!(unit.contains("-HUP $MAINPID"), "the signal that reads the config again");
}

#[test]
fn unit_lets_the_relay_write_where_the_documents_put_its_data() {
    let unit = fs::read_to_string(tuning("rillcast.service")).expect("the unit");
    let folder = unit.lines().find_map(|line| line.strip_prefix("StateDirectory="));
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let documents = fs::read_to_string(documents).expect("the document");
    let folder = folder.expect("a folder that it may write");
    assert!(documents.contains(&format!("--data-dir /var/lib/{folder}\n")), "{folder}");
}

#[test]
fn systemd_finds_no_fault_with_the_unit() {
    let unit = fs::read_to_string(tuning("rillcast.service")).expect("the unit");
    // It looks whether the command is there.
    let unit = unit.replace("/usr/local/bin/rillcast", env!("CARGO_BIN_EXE_rillcast"));
    let root = Root::new("unit", 1);
    root.file("rillcast.service", &unit);
    let verify =
        Command::new("systemd-analyze").arg("verify").arg(root.0.join("rillcast.service")).output();
    // A machine without systemd has no use for the unit.
    let Ok(output) = verify else { return };
    assert_done(&output);
    assert_eq!(text_of(&output), "");
}

#[test]
fn limits_are_lines_of_four_words() {
    let limits = fs::read_to_string(tuning("limits.conf")).expect("the limits");
    let lines: Vec<&str> =
        limits.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(matches!(*words, ["rillcast", "hard" | "-", "nofile" | "memlock", _]), "{line}");
    }
}

/// Paragraphs after the head: the comment of each, and its other lines.
fn paragraphs(file: &str) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(tuning(file)).expect("a file of ours");
    let (head, rest) = text.split_once("\n\n").expect("a head");
    assert!(head.contains("# Undo: "), "{file}: {head}");
    let split = |paragraph: &str| {
        let (comment, others): (Vec<&str>, Vec<&str>) =
            paragraph.lines().partition(|line| line.starts_with('#'));
        (comment.join(" "), others.into_iter().map(str::to_owned).collect())
    };
    rest.split("\n\n").map(split).collect()
}

/// Some words, not only a mark.
#[track_caller]
fn assert_says_why(comment: &str) {
    let words = comment.split_whitespace().filter(|word| word.chars().all(char::is_alphabetic));
    assert!(words.count() >= 4, "no reason: {comment}");
}

#[test]
fn each_setting_says_why_and_what_was() {
    for (file, sign) in [("90-rillcast.conf", " = "), ("limits.conf", "rillcast ")] {
        for (comment, settings) in paragraphs(file) {
            let (why, was) = comment.split_once("was: ").unwrap_or_else(|| panic!("{comment}"));
            assert_says_why(why);
            assert!(!was.trim().is_empty(), "{comment}");
            assert!(!settings.is_empty(), "{comment}");
            assert!(settings.iter().all(|line| line.contains(sign)), "{settings:?}");
        }
    }
}

#[test]
fn each_paragraph_of_the_service_says_why() {
    let paragraphs = paragraphs("rillcast.service");
    let of_service = paragraphs
        .iter()
        .skip_while(|(_, lines)| lines.first().is_none_or(|line| line != "[Service]"))
        .take_while(|(_, lines)| lines.first().is_none_or(|line| line != "[Install]"));
    assert!(of_service.clone().count() > 3, "the unit was not understood");
    of_service.for_each(|(comment, _)| assert_says_why(comment));
}

#[test]
fn each_change_of_a_nic_says_why_and_how_to_undo_it() {
    let text = fs::read_to_string(tuning("nic.md")).expect("the notes");
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    assert!(rows.clone().count() > 8, "the table was not understood");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, _, set, why, _, undo] = *cells else { panic!("{row}") };
        assert_says_why(why);
        // What was there differs from host to host.
        let restores = undo.contains("as it was") || undo.contains("as they were");
        assert!(!set.contains("ethtool") || restores, "{row}");
    }
}

#[test]
fn index_names_every_file() {
    let index = fs::read_to_string(tuning("README.md")).expect("the index");
    for entry in fs::read_dir(tuning("")).expect("the folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(name == "README.md" || index.contains(&format!("({name})")), "{name}");
    }
}
