//! Log setup, and repeated faults counted and reported once a second.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("not a log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("a log is set up already")]
    AlreadySet,
}

/// Sends what passes `filter` (`info`, `warn,rillcast::api=debug`) to the standard error, one line
/// each.
///
/// # Errors
/// [`LogError`] when the filter is none or a log is set up already.
pub fn init(filter: &str) -> Result<(), LogError> {
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(EnvFilter::builder().parse(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|_| LogError::AlreadySet)
}

/// Faults that may come thousands of times a second, each named by a fixed text. They are counted
/// and logged as one line per name, a second after the first.
#[derive(Debug, Default)]
pub struct Repeats {
    counts: Vec<(&'static str, u64)>,
    since: Option<Instant>,
}

impl Repeats {
    pub fn count(&mut self, now: Instant, fault: &'static str) {
        self.since.get_or_insert(now);
        match self.counts.iter_mut().find(|(name, _)| *name == fault) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((fault, 1)),
        }
    }

    /// When [`Self::report`] has something to log.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.since.map(|since| since + PERIOD)
    }

    /// Logs what was counted once it is due.
    pub fn report(&mut self, now: Instant) {
        for (fault, count) in self.take_due(now) {
            tracing::warn!(count, "{fault}");
        }
    }

    fn take_due(&mut self, now: Instant) -> Vec<(&'static str, u64)> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.since = None;
        std::mem::take(&mut self.counts)
    }
}

const PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_set_up_once_with_a_filter() {
        assert!(matches!(init("a=b=c"), Err(LogError::Filter(_))));
        // Another test of this binary may have been first.
        assert!(!matches!(init("off"), Err(LogError::Filter(_))));
        assert!(matches!(init("off"), Err(LogError::AlreadySet)));
    }

    #[test]
    fn repeats_are_taken_a_second_after_the_first() {
        let mut repeats = Repeats::default();
        let start = crate::clock::now();
        let ms = Duration::from_millis;
        assert_eq!(repeats.poll_timeout(), None);
        assert_eq!(repeats.take_due(start), []);
        repeats.count(start, "a");
        repeats.count(start + ms(900), "b");
        repeats.count(start + ms(999), "a");
        assert_eq!(repeats.poll_timeout(), Some(start + ms(1000)));
        assert_eq!(repeats.take_due(start + ms(999)), []);
        assert_eq!(repeats.take_due(start + ms(1000)), [("a", 2), ("b", 1)]);
        assert_eq!(repeats.poll_timeout(), None);
        repeats.count(start + ms(5000), "b");
        assert_eq!(repeats.take_due(start + ms(6000)), [("b", 1)]);
    }
}
