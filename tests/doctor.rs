//! `rillcast doctor` as a command: what it prints and how it ends, on a host made of a few files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A root with `/proc` and `/sys` of its own, gone with it.
struct Root(PathBuf);

impl Root {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root =
            std::env::temp_dir().join(format!("rillcast-doctor-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of the root");
            fs::write(path, text).expect("a file of the root");
        }
        fs::create_dir_all(&root).expect("the root");
        Self(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // It is in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn doctor(root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rillcast"))
        .args(["doctor", "--root"])
        .arg(root)
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn text_of(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("a text")
}

#[test]
fn exit_code_tells_the_worst_verdict() {
    let somaxconn = ("proc/sys/net/core/somaxconn", "128\n");
    let old = ("proc/sys/kernel/osrelease", "5.10.0\n");
    let table = [
        (vec![], 0, "not known  version: /proc/sys/kernel/osrelease is not there"),
        (vec![somaxconn], 1, "do   sysctl -w net.core.somaxconn=\"4096\""),
        (vec![somaxconn, old], 2, "BLOCKS     version: 5.10.0"),
    ];
    for (files, code, says) in table {
        let root = Root::new(&format!("exit-{code}"), &files);
        let output = doctor(&root.0, &[]);
        let text = text_of(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn a_process_that_is_not_there_is_told() {
    let root = Root::new("pid", &[("proc/7/status", "Cpus_allowed_list:\t0\n")]);
    let gone = doctor(&root.0, &["--pid", "8"]);
    let error = String::from_utf8_lossy(&gone.stderr);
    assert_eq!(gone.status.code(), Some(2), "{error}");
    assert!(gone.stdout.is_empty() && error.contains("there is no process 8"), "{error}");
    let found = doctor(&root.0, &["--pid", "7"]);
    assert!(text_of(&found).contains("for 1 shards on CPUs 0"), "{}", text_of(&found));
}

#[test]
fn json_tells_the_same() {
    let root = Root::new("json", &[("proc/sys/net/core/somaxconn", "128\n")]);
    let output = doctor(&root.0, &["--json", "--connections", "100", "--shards", "1"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&report["verdict"], &report["exitCode"]), (&"costs".into(), &1.into()));
    assert_eq!((&report["connections"], &report["shards"]), (&100.into(), &1.into()));
    let checks = report["checks"].as_array().expect("checks");
    let row = checks.iter().find(|row| row["check"] == "net.core.somaxconn").expect("the check");
    assert_eq!((&row["verdict"], &row["found"]), (&"costs".into(), &"128".into()));
}

#[test]
fn a_config_that_is_wrong_is_told_with_its_line() {
    let root = Root::new("config", &[("bad.toml", "[http]\nport = 80\n")]);
    let config = root.0.join("bad.toml");
    let output = doctor(&root.0, &["--config", config.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text_of(&output).contains("bad.toml:2:1: unknown field `port`"),
        "{}",
        text_of(&output)
    );
}

#[test]
fn this_host_is_examined() {
    let output = doctor(Path::new("/"), &["--pid", &std::process::id().to_string()]);
    let text = text_of(&output);
    // The tests run here, so that nothing blocks; what costs is the machine's business.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{text}");
    assert!(text.contains("fine       io_uring: works"), "{text}");
    assert!(!text.contains("not understood"), "{text}");
}
