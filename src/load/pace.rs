//! Calls at a steady pace without coordinated omission: each is counted from when it was due, so that
//! an answer that took long weighs as many calls as it held up.

/// When calls are due; ns of one monotonic clock.
#[derive(Debug)]
pub struct Pace {
    due_ns: u64,
    interval_ns: u64,
}

impl Pace {
    /// The first call is due at `start_ns`, the others every `interval_ns` after it.
    pub fn new(start_ns: u64, interval_ns: u64) -> Self {
        Self { due_ns: start_ns, interval_ns }
    }

    /// Takes the next call: from when it counts, which may be long ago.
    ///
    /// # Errors
    /// How long there is to wait for it, in ns.
    pub fn take(&mut self, now_ns: u64) -> Result<u64, u64> {
        let due_ns = self.due_ns;
        if now_ns < due_ns {
            return Err(due_ns - now_ns);
        }
        self.due_ns += self.interval_ns;
        Ok(due_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_an_answer_held_up_count_from_when_they_were_due() {
        let mut pace = Pace::new(100, 20);
        assert_eq!(pace.take(90), Err(10));
        assert_eq!(pace.take(100), Ok(100));
        assert_eq!(pace.take(105), Err(15));
        // Each answer comes at once but for one, which takes until 190.
        assert_eq!(pace.take(120), Ok(120));
        let waited: Vec<u64> =
            std::iter::from_fn(|| pace.take(190).ok()).map(|due| 190 - due).collect();
        assert_eq!(waited, [50, 30, 10]);
        assert_eq!(pace.take(190), Err(10));
    }
}
