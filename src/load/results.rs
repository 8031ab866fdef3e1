//! Where results go: a table to standard output, JSON to a file or instead of the table.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::Failure;
use super::options::OutputOptions;

/// Where the results of a run go.
pub(super) enum Results {
    Table,
    Json,
    /// The table, and JSON to a file.
    Both(File),
}

impl Results {
    /// Opens what is asked for before the run, which is not to be lost for a wrong name.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn open(options: &OutputOptions) -> Result<Self, Failure> {
        Ok(match &options.json {
            None => Self::Table,
            Some(path) if path == Path::new("-") => Self::Json,
            Some(path) => {
                let file = File::create(path);
                Self::Both(file.map_err(|error| format!("{}: {error}", path.display()))?)
            }
        })
    }

    /// Writes the results.
    ///
    /// # Errors
    /// When the file does not take them.
    pub(super) fn publish(self, report: &impl Serialize, table: &str) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(report)?;
        match self {
            Self::Table => print!("{table}"),
            Self::Json => println!("{json}"),
            Self::Both(mut file) => {
                writeln!(file, "{json}")?;
                print!("{table}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_cannot_be_made_is_told_before_the_run() {
        let json = Some("/dev/null/results.json".into());
        let error = Results::open(&OutputOptions { json }).err().expect("no folder");
        assert!(error.to_string().starts_with("/dev/null/results.json: "), "{error}");
        let json = Some("-".into());
        assert!(matches!(Results::open(&OutputOptions { json }), Ok(Results::Json)));
    }
}
