//! The configuration that the whole node goes by.

use std::sync::{Arc, Mutex, PoisonError};

use super::Config;

/// The node's newest configuration. One at a time changes it, so that nobody's change is lost; shards
/// go by a copy of their own, which they renew when they are told that there is a newer one.
#[derive(Debug)]
pub struct NewestConfig(Mutex<Arc<Config>>);

impl NewestConfig {
    pub fn new(config: Arc<Config>) -> Self {
        Self(Mutex::new(config))
    }

    pub fn read(&self) -> Arc<Config> {
        // A panic elsewhere leaves a whole config.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it; `edit` sees everybody's changes so far, and says what came of it.
    pub fn change<R>(&self, edit: impl FnOnce(&mut Config) -> R) -> R {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut newest))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn changes_of_many_at_once_are_all_kept() {
        let newest = NewestConfig::new(Arc::new(Config::default()));
        let before = newest.read();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        newest.change(|config| config.pull.timeout_ms += 1);
                    }
                });
            }
        });
        assert_eq!(newest.read().pull.timeout_ms, before.pull.timeout_ms + 400);
    }
}
