//! A network of the test's own: namespaces, the interfaces in them, and what an interface saw.
//!
//! Nothing else speaks there, and nothing of the machine's own network is touched. Making one takes
//! root; without it the test fails and says so.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{Builder, current};

use nix::sched::{CloneFlags, setns};

use super::process::Process;
use super::{LIVENESS, TempDir, holds_within};

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// One with a loopback interface. The kernel cuts what is to be datagrams before that interface
    /// sees it, as a network card would.
    #[track_caller]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rillcast-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "gso_max_segs", "1", "up"]);
        namespace
    }

    /// Ties two namespaces together with a cable whose packets have at most `mtu` bytes; the hosts
    /// are `10.0.0.1` here and `10.0.0.2` there.
    #[track_caller]
    pub fn tie(&self, other: &Self, mtu: u32) {
        let mtu = mtu.to_string();
        self.ip(&[
            "link",
            "add",
            "cable",
            "mtu",
            &mtu,
            "type",
            "veth",
            "peer",
            "cable",
            "mtu",
            &mtu,
            "netns",
            &other.name,
        ]);
        for (namespace, host) in [(self, "10.0.0.1/24"), (other, "10.0.0.2/24")] {
            namespace.ip(&["address", "add", host, "dev", "cable"]);
            namespace.ip(&["link", "set", "cable", "up"]);
        }
    }

    /// Runs a part of the test in here: the processes and threads that it starts stay here.
    #[track_caller]
    pub fn run<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.name);
        std::thread::scope(|scope| {
            // Named as the test, for its messages.
            let thread = Builder::new().name(current().name().unwrap_or("test").to_owned());
            let thread = thread.spawn_scoped(scope, || {
                let file = File::open(path).expect("a namespace that was made");
                setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                part()
            });
            let result = thread.expect("a thread").join();
            result.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    #[track_caller]
    fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.name], args].concat());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left behind is empty and harms nothing.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs iproute2, in the network of this thread.
#[track_caller]
pub fn ip(args: &[&str]) {
    // Debian keeps it where only root looks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new("ip").args(args).env("PATH", path).output();
    let output = output.expect("ip; ./test installs it (iproute2)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args:?} (namespaces take root): {error}");
}

/// dumpcap, writing down all that the loopback interface of this namespace sees.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    dir: TempDir,
}

impl Capture {
    /// Returns when it writes. To be called within [`Namespace::run`].
    #[track_caller]
    pub fn start() -> Self {
        let dir = TempDir::new("capture");
        let mut command = Command::new("dumpcap");
        // Megabytes between the kernel and the file: nothing is to be lost on a busy machine.
        command.args(["-i", "lo", "-B", "64", "-w"]).arg(dir.file("lo.pcapng"));
        command.stdout(Stdio::null());
        let process = Process::start("dumpcap", &mut command, dir.file("stderr.log"));
        let begun = holds_within(LIVENESS, || process.log().contains("File: "));
        assert!(begun, "dumpcap does not begin: {}", process.log());
        Self { process, dir }
    }

    /// Ends it, and tells where its file is: there for as long as the capture.
    #[track_caller]
    pub fn stop(&mut self) -> PathBuf {
        self.process.terminate(LIVENESS);
        let log = self.process.log();
        assert!(log.contains("/0 (pcap:0/dumpcap:0"), "dumpcap lost packets: {log}");
        self.dir.file("lo.pcapng")
    }
}
