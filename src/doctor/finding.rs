//! What a check says: a verdict, what was found, why it matters, what to do.

use std::process::ExitCode;

use serde::Serialize;

use super::host::Unknown;

/// How good something is; the worst of all decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Fine,
    /// To be known; nothing is lost by it, or nothing can be done about it.
    Note,
    /// What the check reads is not there or not understood.
    NotKnown,
    /// The relay runs, slower or for fewer than it could.
    Costs,
    /// The relay does not start.
    Blocks,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::NotKnown => "not known",
            Self::Costs => "COSTS",
            Self::Blocks => "BLOCKS",
        }
    }

    /// 0 where nothing is wrong, 1 where something costs, 2 where something blocks.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Fine | Self::Note | Self::NotKnown => 0,
            Self::Costs => 1,
            Self::Blocks => 2,
        }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(verdict.exit_code())
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) found: String,
    /// One line; empty where all is fine.
    pub(super) why: String,
    /// Commands, or lines for a file, one a line; empty where nothing is to be done.
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn fine(found: impl Into<String>) -> Self {
        Self::new(Verdict::Fine, found, "", "")
    }

    pub(super) fn note(found: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Verdict::Note, found, why, "")
    }

    pub(super) fn costs(
        found: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Verdict::Costs, found, why, remedy)
    }

    pub(super) fn blocks(
        found: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Verdict::Blocks, found, why, remedy)
    }

    fn new(
        verdict: Verdict,
        found: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict, found: found.into(), why: why.into(), remedy: remedy.into() }
    }
}

impl From<Unknown> for Finding {
    fn from(unknown: Unknown) -> Self {
        Self::new(Verdict::NotKnown, unknown.to_string(), "", "")
    }
}

/// What a check answers.
pub(super) type Outcome = Result<Finding, Unknown>;

/// The command that sets a sysctl now. `tuning/90-rillcast.conf` keeps it over a restart.
pub(super) fn set_sysctl(key: &str, value: impl std::fmt::Display) -> String {
    format!("sysctl -w {key}=\"{value}\"")
}

/// Why a count that is not zero may be no sign of what is now.
pub(super) const SINCE_START: &str = "counted since the start of the host or the driver, and rare";

/// Whether `count` is more than one in `every` of `total`. Counts of the kernel begin with the host,
/// so that one mishap in months must not be told for ever.
pub(super) fn is_often(count: u64, total: u64, every: u64) -> bool {
    count > total / every
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn often_is_more_than_one_in_so_many() {
        assert!(!is_often(2, 2_999, 1000));
        assert!(is_often(3, 2_999, 1000));
        assert!(is_often(1, 0, 1000));
        assert!(!is_often(0, 0, 1000));
    }

    #[test]
    fn the_worse_verdict_is_the_greater_one() {
        let verdicts =
            [Verdict::Fine, Verdict::Note, Verdict::NotKnown, Verdict::Costs, Verdict::Blocks];
        assert!(verdicts.is_sorted());
        assert_eq!(verdicts.map(Verdict::exit_code), [0, 0, 0, 1, 2]);
    }
}
