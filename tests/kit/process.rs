//! A child process: its output in a file, its end by pid, never left behind.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running child. Dropped, it is killed; when the test is failing its log is printed.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with nothing on standard input and its standard error in `log`.
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Self {
        let file = File::create(&log).expect("a log file");
        command.stdin(Stdio::null()).stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start ({error}); ./test installs it"));
        Self { name: name.to_owned(), child, log }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits for the end; `None` when it is still running after `bound`.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, then waits; killed when it does not end within `bound`.
    pub fn terminate(&mut self, bound: Duration) -> Option<ExitStatus> {
        if self.is_running() {
            self.signal(Signal::SIGTERM);
        }
        let status = self.wait(bound);
        self.kill();
        status
    }

    /// `kill -9`, as a crash.
    pub fn kill(&mut self) {
        // An ended child is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- last lines of {} ---", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
