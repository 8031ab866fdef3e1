//! What the threads of a run tell each other while it goes on, and how it is shown.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::figures::Spread;
use super::publisher::Sent;
use super::watch::Figures;
use crate::clock;

/// Counted by the threads that load, read by the one that shows.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stopping: AtomicBool,
    pub(super) joined: AtomicU64,
    /// Of publishing: streams that began or failed to.
    pub(super) settled: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) missing: AtomicU64,
    /// Of each thread: lateness and delay so far.
    times: Mutex<Vec<(Spread, Spread)>>,
}

impl Progress {
    pub(super) fn new(threads: usize) -> Self {
        let times = Mutex::new(vec![(Spread::default(), Spread::default()); threads]);
        Self { times, ..Self::default() }
    }

    /// Has all threads come to their end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Of one thread that plays; to be called once in a while.
    pub(super) fn set_times(&self, thread: usize, figures: &Figures) {
        let mut times = self.times.lock().expect("no panic while locked");
        times[thread] = (figures.lateness.clone(), figures.delay.clone());
    }

    /// Of a thread that publishes: what it has sent, of which `told` was told before.
    pub(super) fn add_publishing(&self, sent: &Sent, told: &mut Told) {
        let numbers = [sent.started, sent.settled, sent.failed_count(), sent.bytes, sent.frames];
        let counters = [&self.joined, &self.settled, &self.failed, &self.bytes, &self.frames];
        for ((counter, number), before) in counters.into_iter().zip(numbers).zip(told.0) {
            counter.fetch_add(number - before, Relaxed);
        }
        told.0 = numbers;
    }

    /// `late 0.20/6.40 ms`: median and 99th percentile, of lateness and of delay where there are any.
    fn times_text(&self) -> String {
        let times = self.times.lock().expect("no panic while locked");
        let (mut lateness, mut delay) = (Spread::default(), Spread::default());
        for (of_thread, delay_of_thread) in times.iter() {
            lateness.add(of_thread);
            delay.add(delay_of_thread);
        }
        let text = |name, spread: &Spread| {
            spread.summary().map_or_else(String::new, |summary| {
                format!("  {name} {:.1}/{:.1} ms", summary.p50, summary.p99)
            })
        };
        text("late", &lateness) + &text("delay", &delay)
    }
}

/// What a thread has added to a progress.
#[derive(Debug, Default)]
pub(super) struct Told([u64; 5]);

/// The line that tells how it goes: on a terminal one that is drawn over itself, else a new one
/// every five seconds.
pub(super) struct Shown {
    on_terminal: bool,
    start_ns: u64,
    /// `u64::MAX` without an end.
    end_ns: u64,
    next_ns: u64,
    last: (u64, u64),
}

impl Shown {
    pub(super) fn new(start_ns: u64, end_ns: u64) -> Self {
        let on_terminal = stderr().is_terminal();
        Self { on_terminal, start_ns, end_ns, next_ns: 0, last: (start_ns, 0) }
    }

    pub(super) fn end_ns(&self) -> u64 {
        self.end_ns
    }

    pub(super) fn show(&mut self, phase: &str, progress: &Progress) {
        let now_ns = clock::monotonic_ns();
        if now_ns >= self.next_ns {
            let text = self.text(phase, now_ns, progress);
            self.last = (now_ns, progress.bytes());
            self.say(|| text);
        }
    }

    /// Shows a phase and how much of its time has passed, if it is time for it.
    pub(super) fn say_phase(&mut self, phase: &str) {
        let whole_ns = self.end_ns.saturating_sub(self.start_ns);
        let passed_ns = clock::monotonic_ns().saturating_sub(self.start_ns);
        self.say(|| format!("{} {phase}", bar(passed_ns, whole_ns)));
    }

    /// Shows a text if it is time for one.
    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        let now_ns = clock::monotonic_ns();
        if now_ns < self.next_ns {
            return;
        }
        let text = text();
        self.next_ns =
            now_ns + if self.on_terminal { DRAWN_INTERVAL_NS } else { PLAIN_INTERVAL_NS };
        // A progress that nobody can see is none to fail for.
        let _ = match self.on_terminal {
            true => write!(stderr(), "\r\x1b[K{text}"),
            false => writeln!(stderr(), "{text}"),
        };
    }

    /// Makes room for the results.
    pub(super) fn clear(&self) {
        if self.on_terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    fn text(&self, phase: &str, now_ns: u64, progress: &Progress) -> String {
        let get = |number: &AtomicU64| number.load(Relaxed);
        let passed_ns = now_ns.saturating_sub(self.start_ns);
        let (last_ns, last_bytes) = self.last;
        let seconds = now_ns.saturating_sub(last_ns).max(1) as f64 / 1e9;
        let mbit = progress.bytes().saturating_sub(last_bytes) as f64 * 8e-6 / seconds;
        format!(
            "{} {phase}  joined {} open {} failed {}  {mbit:.0} Mbit/s  frames {} missing {}{}",
            bar(passed_ns, self.end_ns.saturating_sub(self.start_ns)),
            get(&progress.joined),
            get(&progress.open),
            get(&progress.failed),
            get(&progress.frames),
            get(&progress.missing),
            progress.times_text()
        )
    }
}

/// `[#####.....]`
pub(super) fn filled(done: u64, whole: u64) -> String {
    let len = (u128::from(done.min(whole)) * BAR_LEN as u128).checked_div(whole.into());
    let len = len.unwrap_or(0) as usize;
    format!("[{}{}]", "#".repeat(len), ".".repeat(BAR_LEN - len))
}

/// `[#####.....] 12/25 s`; without an end only the time.
fn bar(passed_ns: u64, whole_ns: u64) -> String {
    let seconds = passed_ns / 1_000_000_000;
    if whole_ns > LONGEST_NS {
        return format!("{seconds} s");
    }
    let passed_ns = passed_ns.min(whole_ns);
    format!("{} {seconds}/{} s", filled(passed_ns, whole_ns), whole_ns / 1_000_000_000)
}

const BAR_LEN: usize = 20;
const DRAWN_INTERVAL_NS: u64 = 200_000_000;
const PLAIN_INTERVAL_NS: u64 = 5_000_000_000;

/// What is longer has no end.
const LONGEST_NS: u64 = 1_000_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_grows_with_time() {
        const S: u64 = 1_000_000_000;
        assert_eq!(bar(0, 20 * S), "[....................] 0/20 s");
        assert_eq!(bar(5 * S, 20 * S), "[#####...............] 5/20 s");
        assert_eq!(bar(25 * S, 20 * S), "[####################] 25/20 s");
        assert_eq!(bar(5 * S, u64::MAX), "5 s");
        assert_eq!(bar(0, 0), "[....................] 0/0 s");
        assert_eq!(filled(30, 60), "[##########..........]");
        assert_eq!(filled(u64::MAX, u64::MAX), "[####################]");
    }

    #[test]
    fn line_tells_what_goes_on() {
        let progress = Progress::new(1);
        progress.joined.store(7, Relaxed);
        progress.bytes.store(250_000, Relaxed);
        let mut figures = Figures::default();
        figures.lateness.record_ns(2_000_000);
        progress.set_times(0, &figures);
        let shown = Shown { on_terminal: false, start_ns: 0, end_ns: 0, next_ns: 0, last: (0, 0) };
        let text = shown.text("measuring", 1_000_000_000, &progress);
        assert!(text.contains("measuring  joined 7 open 0 failed 0  2 Mbit/s"), "{text}");
        assert!(text.ends_with("  late 2.0/2.0 ms"), "{text}");
    }
}
