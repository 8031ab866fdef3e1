//! Rules about who may do what; `access` applies them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Networks, ValueError};

/// Who may publish, play, be pulled from and call the API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessSection {
    pub api_deny: Networks,
    pub publish_allow: Networks,
    pub publish_deny: Networks,
    pub play_allow: Networks,
    pub play_deny: Networks,
    pub pull_deny: Networks,
    /// By app.
    pub publish_keys: BTreeMap<String, String>,
    /// By app.
    pub play_keys: BTreeMap<String, String>,
}

impl AccessSection {
    /// # Errors
    /// [`ValueError`] with the key of a map that has an empty key for URLs.
    pub(super) fn validate(&self) -> Result<(), ValueError> {
        let maps =
            [("access.publish_keys", &self.publish_keys), ("access.play_keys", &self.play_keys)];
        for (key, keys) in maps {
            if keys.values().any(String::is_empty) {
                let reason = "has an empty key, which anybody could sign with".to_owned();
                return Err(ValueError { key, reason });
            }
        }
        Ok(())
    }
}
