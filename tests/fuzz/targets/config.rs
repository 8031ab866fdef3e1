//! The config file: what is valid stays so when the API shows it and sets it.
#![no_main]

use rillcast::config::{Config, ZlmSet};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(mut config) = toml::from_str::<Config>(text) else { return };
    if config.validate().is_ok() {
        // As at the start; an empty one can't be set.
        config.ensure_secret([7; 16]);
        for (name, value) in config.zlm_map() {
            assert_eq!(config.set_zlm(&name, &value), ZlmSet::Unchanged, "{name} = {value}");
        }
    }
});
