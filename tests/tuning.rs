//! The files of `tuning/`: that the unit and the limits are what systemd, PAM and our own command line
//! understand, and that each setting says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
}

#[test]
fn systemd_finds_no_fault_with_the_unit() {
    let unit = fs::read_to_string(tuning("rillcast.service")).expect("the unit");
    // It looks whether the command is there.
    let unit = unit.replace("/usr/local/bin/rillcast", env!("CARGO_BIN_EXE_rillcast"));
    let folder = std::env::temp_dir().join(format!("rillcast-unit-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("rillcast.service");
    fs::write(&file, unit).expect("a unit");
    let verify = Command::new("systemd-analyze").arg("verify").arg(&file).output();
    fs::remove_dir_all(&folder).expect("the folder of this test");
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

#[test]
fn each_setting_says_why_and_what_was() {
    let text = fs::read_to_string(tuning("90-rillcast.conf")).expect("the settings");
    // After the head, a paragraph is a comment and the settings that it is for.
    for paragraph in text.split("\n\n").skip(1) {
        let comment: String = paragraph.lines().filter(|line| line.starts_with('#')).collect();
        assert!(comment.contains("was: "), "{paragraph}");
        let settings = paragraph.lines().filter(|line| !line.starts_with('#'));
        assert!(settings.clone().count() > 0, "{paragraph}");
        assert!(settings.clone().all(|line| line.contains(" = ")), "{paragraph}");
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
