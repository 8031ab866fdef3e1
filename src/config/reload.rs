//! Reading the config file again: what changed in it since it was read last is changed in the running
//! config, and nothing else, so that what a control plane has set meanwhile stays.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::de::Error as _;
use toml::{Table, Value};

use super::{Config, ConfigError, Overrides, ValueError, ZLM_SHIPPED_SECRET};

/// Where a config comes from, and what it said when it was read last.
#[derive(Debug)]
pub struct ConfigSource {
    path: Option<PathBuf>,
    overrides: Overrides,
    /// Of the readings the last that was merged, and what it said.
    last: Mutex<(u64, Config)>,
    readings: AtomicU64,
}

/// A running config as it is to be from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Reloaded {
    pub config: Config,
    /// `section.key` of what is different.
    pub changed: Vec<String>,
    /// `section.key` of what is different in the file and waits for a restart.
    pub needs_restart: Vec<String>,
}

/// Why nothing was changed; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("there is no config file: this node was started without --config")]
    NoFile,
    #[error("the config file was not read within {0} s")]
    Slow(u64),
    #[error("the config file was read again meanwhile")]
    Outdated,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error("the changed config is not valid: {0}")]
    Merge(#[from] toml::de::Error),
}

impl ConfigSource {
    /// `loaded` is the file with the overrides laid over it, before anything was made up for what it
    /// lacks.
    pub fn new(path: Option<PathBuf>, overrides: Overrides, loaded: Config) -> Self {
        let last = Mutex::new((0, loaded));
        Self { path, overrides, last, readings: AtomicU64::new(0) }
    }

    /// Reads and validates the file again. Blocks as long as the disk does.
    ///
    /// # Errors
    /// [`ReloadError`].
    pub fn read(&self) -> Result<Reread, ReloadError> {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed) + 1;
        let mut file = Config::load(self.path.as_deref().ok_or(ReloadError::NoFile)?)?;
        file.apply(self.overrides.clone());
        file.validate()?;
        Ok(Reread { reading, file: Box::new(file) })
    }

    /// Lays what is new in the file over the running config.
    ///
    /// # Errors
    /// [`ReloadError`], also where a later reading was merged before: the newest file counts. Everything
    /// then stays as it is.
    pub fn merge(&self, read: &Reread, running: &Config) -> Result<Reloaded, ReloadError> {
        // A panic elsewhere leaves a whole config.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if read.reading < last.0 {
            return Err(ReloadError::Outdated);
        }
        let (reloaded, config) = merge(&last.1, &read.file, running)?;
        *last = (read.reading, config);
        Ok(reloaded)
    }
}

/// The file, read again.
#[derive(Debug)]
pub struct Reread {
    /// The later, the higher.
    reading: u64,
    file: Box<Config>,
}

/// Also what counts as read now: the file without what waits for a restart, so that it is told again.
fn merge(
    last: &Config,
    file: &Config,
    running: &Config,
) -> Result<(Reloaded, Config), ReloadError> {
    let (secret, was) = (&file.api.secret, &last.api.secret);
    if secret != was && (secret.is_empty() || secret == ZLM_SHIPPED_SECRET) {
        let reason = "can't become empty, or one that everybody knows".to_owned();
        return Err(ValueError { key: "api.secret", reason }.into());
    }
    let (was, is) = (sections(last)?, sections(file)?);
    let (mut merged, mut read) = (sections(running)?, is.clone());
    let (mut changed, mut needs_restart) = (Vec::new(), Vec::new());
    for (section, keys) in &is {
        // A list is one key.
        if keys.is_array() && *keys != was[section] {
            merged[section] = keys.clone();
            changed.push(section.clone());
        }
        for (key, value) in keys.as_table().into_iter().flatten() {
            let old = &was[section][key];
            let name = format!("{section}.{key}");
            if value == old {
                continue;
            }
            if NEEDS_RESTART.contains(&name.as_str()) {
                read[section][key] = old.clone();
                needs_restart.push(name);
            } else {
                merged[section][key] = value.clone();
                changed.push(name);
            }
        }
    }
    let mut config: Config = Value::Table(merged).try_into()?;
    config.zlm_stored.clone_from(&running.zlm_stored);
    config.validate()?;
    Ok((Reloaded { config, changed, needs_restart }, Value::Table(read).try_into()?))
}

fn sections(config: &Config) -> Result<Table, toml::de::Error> {
    Table::try_from(config).map_err(toml::de::Error::custom)
}

/// What is used only at the start.
const NEEDS_RESTART: &[&str] = &[
    "server.shards",
    "server.cpus",
    "server.steer_by_cpu",
    "server.data_dir",
    "http.listen",
    "rtmp.listen",
    "rtsp.listen",
    "rtsp.udp_ports",
    "log.filter",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).expect(text)
    }

    #[test]
    fn only_what_changed_in_the_file_is_changed() {
        let last = config("[pull]\ntimeout_ms = 9000\n[api]\nsecret = \"a\"\n");
        let mut running = last.clone();
        running.set_zlm("general.maxStreamWaitMS", "777");
        running.set_zlm("hook.timeoutSec", "3");
        running.http.listen = ([127, 0, 0, 1], 4711).into();
        let file = config(
            "[pull]\ntimeout_ms = 8000\n[api]\nsecret = \"a\"\n[http]\nlisten = \"[::]:81\"\n",
        );
        let (reloaded, read) = merge(&last, &file, &running).unwrap();
        assert_eq!(reloaded.changed, ["pull.timeout_ms"]);
        assert_eq!(reloaded.needs_restart, ["http.listen"]);
        let mut expected = running.clone();
        expected.pull.timeout_ms = 8000;
        assert_eq!(reloaded.config, expected);
        // Read again: only what waits is told again.
        let (again, _) = merge(&read, &file, &expected).unwrap();
        assert_eq!((again.changed.len(), again.needs_restart.len()), (0, 1));
        assert_eq!(again.config, expected);
    }

    #[test]
    fn origins_are_changed_as_a_list() {
        let text = "[[origin]]\nurl = \"rtmp://a/{app}/{stream}\"\n";
        let (last, running) = (Config::default(), Config::default());
        let (reloaded, read) = merge(&last, &config(text), &running).unwrap();
        assert_eq!(reloaded.changed, ["origin"]);
        assert_eq!(reloaded.config.origin, config(text).origin);
        let (again, _) = merge(&read, &config(text), &reloaded.config).unwrap();
        assert_eq!((again.changed.len(), again.config), (0, reloaded.config));
    }

    #[test]
    fn what_is_not_valid_together_changes_nothing() {
        let last = Config::default();
        let mut running = last.clone();
        running.pull.retry_max_ms = 3000;
        let file = config("[pull]\nretry_base_ms = 4000\n");
        let error = merge(&last, &file, &running).unwrap_err();
        assert!(error.to_string().starts_with("pull.retry_base_ms: is above"), "{error}");
    }

    #[test]
    fn made_secret_stays_and_a_set_one_can_not_go() {
        let last = Config::default();
        let mut running = last.clone();
        assert!(running.ensure_secret([7; 16]));
        let secret = running.api.secret.clone();
        let (reloaded, _) = merge(&last, &last, &running).unwrap();
        assert_eq!(reloaded.config.api.secret, secret);
        let set = config("[api]\nsecret = \"b\"\n");
        let (reloaded, read) = merge(&last, &set, &running).unwrap();
        assert_eq!(reloaded.config.api.secret, "b");
        for secret in ["", ZLM_SHIPPED_SECRET] {
            let file = config(&format!("[api]\nsecret = \"{secret}\"\n"));
            let error = merge(&read, &file, &reloaded.config).unwrap_err();
            assert!(matches!(error, ReloadError::Value(_)), "{error}");
        }
    }

    #[test]
    fn keys_that_wait_for_a_restart_exist() {
        let all = sections(&Config::default()).unwrap();
        for name in NEEDS_RESTART {
            let (section, key) = name.split_once('.').unwrap();
            assert!(all[section].get(key).is_some(), "{name}");
        }
    }

    #[test]
    fn without_a_file_there_is_nothing_to_read() {
        let config = Config::default();
        let source = ConfigSource::new(None, Overrides::default(), config);
        assert!(matches!(source.read(), Err(ReloadError::NoFile)));
    }

    #[test]
    fn newest_reading_counts_whichever_is_merged_first() {
        let running = Config::default();
        let source = ConfigSource::new(None, Overrides::default(), running.clone());
        let reading = |reading, timeout_ms: u64| {
            let file = config(&format!("[pull]\ntimeout_ms = {timeout_ms}\n"));
            Reread { reading, file: Box::new(file) }
        };
        let newer = source.merge(&reading(2, 8000), &running).unwrap();
        assert_eq!(newer.config.pull.timeout_ms, 8000);
        let older = source.merge(&reading(1, 7000), &newer.config);
        assert!(matches!(older, Err(ReloadError::Outdated)));
        let again = source.merge(&reading(3, 7000), &newer.config).unwrap();
        assert_eq!((again.config.pull.timeout_ms, again.changed.len()), (7000, 1));
    }
}
