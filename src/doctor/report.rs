//! What was found, for people and as JSON.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::Row;
use super::finding::Verdict;
use super::host::cpu_list_text;
use super::plan::Plan;

/// All answers, in the order of the checks.
pub(super) struct Report {
    title: String,
    config: Option<String>,
    shards: usize,
    connections: u64,
    rows: Vec<Row>,
}

impl Report {
    /// `config` is the file that the plan is of, where it is not of the defaults.
    pub(super) fn new(plan: &Plan, config: Option<&Path>, rows: Vec<Row>) -> Self {
        let (shards, connections) = (plan.shards(), plan.connections);
        let cpus = cpu_list_text(&plan.cpus);
        let of = match config {
            None => "\nof the default config; --config FILE looks at yours",
            Some(_) => "",
        };
        let title = format!("for {shards} shards on CPUs {cpus}, {connections} connections{of}");
        let config = config.map(|file| file.display().to_string());
        Self { title, config, shards, connections, rows }
    }

    /// The worst of all.
    pub(super) fn verdict(&self) -> Verdict {
        let verdicts = self.rows.iter().map(|row| row.finding.verdict);
        verdicts.max().unwrap_or(Verdict::NotKnown)
    }

    pub(super) fn print(&self, as_json: bool) {
        let text = if as_json { format!("{:#}\n", self.json()) } else { self.text() };
        // A reader that closes early (head) has what it wanted; the exit code still tells.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("rillcast doctor {}", self.title)];
        for group in self.rows.chunk_by(|a, b| a.group == b.group) {
            lines.push(String::new());
            lines.push(group[0].group.to_owned());
            group.iter().for_each(|row| row_lines(row, &mut lines));
        }
        lines.push(String::new());
        lines.push(self.summary());
        if self.rows.iter().any(|row| row.finding.remedy.contains("sysctl -w")) {
            lines.push(
                "sysctl -w lasts until a restart; tuning/90-rillcast.conf keeps it".to_owned(),
            );
        }
        lines.join("\n") + "\n"
    }

    fn summary(&self) -> String {
        let count = |verdict: Verdict| {
            self.rows.iter().filter(|row| row.finding.verdict == verdict).count()
        };
        format!(
            "fine {}, notes {}, not known {}, costs {}, blocks {}",
            count(Verdict::Fine),
            count(Verdict::Note),
            count(Verdict::NotKnown),
            count(Verdict::Costs),
            count(Verdict::Blocks)
        )
    }

    fn json(&self) -> Value {
        let checks: Vec<Value> = self.rows.iter().map(row_json).collect();
        let verdict = self.verdict();
        json!({
            "verdict": verdict,
            "exitCode": verdict.exit_code(),
            "config": self.config,
            "shards": self.shards,
            "connections": self.connections,
            "checks": checks,
        })
    }
}

fn row_lines(row: &Row, lines: &mut Vec<String>) {
    let finding = &row.finding;
    let subject = row.subject.as_deref().map(|name| format!("{name} ")).unwrap_or_default();
    let verdict = finding.verdict.as_str();
    lines.push(format!("  {verdict:<9}  {subject}{}: {}", row.check, finding.found));
    if !finding.why.is_empty() {
        lines.push(format!("             why  {}", finding.why));
    }
    for (index, line) in finding.remedy.lines().enumerate() {
        let label = if index == 0 { "do " } else { "   " };
        lines.push(format!("             {label}  {line}"));
    }
}

fn row_json(row: &Row) -> Value {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let finding = &row.finding;
    json!({
        "group": row.group,
        "check": row.check,
        "interface": row.subject,
        "verdict": finding.verdict,
        "found": finding.found,
        "why": optional(&finding.why),
        "remedy": optional(&finding.remedy),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Finding;
    use super::super::testing::Bench;
    use super::*;

    fn report() -> Report {
        let row = |group, check, subject, finding| Row { group, check, subject, finding };
        let costs = Finding::costs("2", "it is slow", "first\nsecond");
        let rows = vec![
            row("kernel", "version", None, Finding::fine("6.18")),
            row("NICs", "queues", Some("eth0".to_owned()), costs),
            row("NICs", "RPS", Some("eth0".to_owned()), Finding::note("on", "so it is")),
        ];
        Report::new(&Bench::fine().plan, Some(Path::new("my.toml")), rows)
    }

    #[test]
    fn text_has_a_line_for_what_is_fine_and_more_for_what_is_not() {
        let expected = "\
rillcast doctor for 2 shards on CPUs 0-1, 2000 connections

kernel
  fine       version: 6.18

NICs
  COSTS      eth0 queues: 2
             why  it is slow
             do   first
                  second
  note       eth0 RPS: on
             why  so it is

fine 1, notes 1, not known 0, costs 1, blocks 0
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn the_default_config_is_told() {
        let report = Report::new(&Bench::fine().plan, None, Vec::new());
        assert!(report.text().contains("of the default config"), "{}", report.text());
        assert_eq!(report.json()["config"], Value::Null);
    }

    #[test]
    fn text_says_how_a_sysctl_is_kept() {
        let mut report = report();
        assert!(!report.text().contains("90-rillcast.conf"));
        report.rows[1].finding.remedy = "sysctl -w vm.swappiness=\"10\"".to_owned();
        assert!(report.text().ends_with("tuning/90-rillcast.conf keeps it\n"));
    }

    #[test]
    fn json_has_the_same() {
        let json = report().json();
        assert_eq!((&json["verdict"], &json["exitCode"]), (&json!("costs"), &json!(1)));
        assert_eq!(json["config"], "my.toml");
        assert_eq!(json["checks"][0]["why"], Value::Null);
        let row = &json["checks"][1];
        assert_eq!((&row["interface"], &row["remedy"]), (&json!("eth0"), &json!("first\nsecond")));
        assert_eq!(json["checks"][2]["verdict"], "note");
    }

    #[test]
    fn the_worst_verdict_is_the_verdict() {
        let mut report = report();
        assert_eq!(report.verdict(), Verdict::Costs);
        report.rows.truncate(1);
        assert_eq!(report.verdict(), Verdict::Fine);
        report.rows[0].finding = Finding::blocks("x", "y", "z");
        assert_eq!(report.verdict(), Verdict::Blocks);
    }
}
