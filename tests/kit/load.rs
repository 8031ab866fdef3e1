//! The load generator: its reports.

use serde_json::Value;

use super::relay::run;

/// `rillcast load` with these arguments: its JSON and whether it was content.
#[track_caller]
pub fn load(args: &[&str]) -> (Value, bool) {
    let args = [&["load"], args, &["--json", "-"]].concat();
    let (code, json, log) = run(&args);
    let report = serde_json::from_str(&json)
        .unwrap_or_else(|error| panic!("{args:?}: no report ({error}): {json}\n{log}"));
    (report, code == Some(0))
}

/// A number of a report.
#[track_caller]
pub fn number(report: &Value, pointer: &str) -> f64 {
    let number = report.pointer(pointer).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("no number {pointer} in {report:#}"))
}
