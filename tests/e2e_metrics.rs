//! The page of metrics beside the table of docs/operations.md.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kit::Relay;

/// A metric, and the name of its label.
type Name = (String, Option<String>);

/// What the page has of a metric.
#[derive(Default)]
struct Family {
    has_help: bool,
    label: Option<String>,
    values: BTreeSet<String>,
}

/// Labels whose values the table has to list. Those of others are listed elsewhere, or names of origins.
const LISTED_LABELS: [&str; 3] = ["reason", "result", "verdict"];

fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        let is_help = line.starts_with("# HELP ");
        let is_type = line.starts_with("# TYPE ");
        let named = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        let name = named.split([' ', '{']).next().and_then(|name| name.strip_prefix("rillcast_"));
        let name = name.unwrap_or_else(|| panic!("{line}")).to_owned();
        if is_help || is_type {
            families.entry(name).or_default().has_help |= is_help;
        } else {
            let of_histogram = ["_bucket", "_sum", "_count"];
            let family = of_histogram.iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| families.contains_key(*family));
            let family = families.get_mut(family.unwrap_or(&name)).expect("its type comes first");
            let Some((_, labels)) = line.split_once('{') else { continue };
            let (label, value) = labels.split_once("=\"").expect("a value");
            family.label = Some(label.to_owned());
            family.values.insert(value.split('"').next().expect("a value").to_owned());
        }
    }
    families
}

/// The rows of the table, each with the metrics that it names.
fn rows() -> Vec<(Vec<Name>, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(path).expect("the document");
    let (_, section) = text.split_once("\n## Metrics\n").expect("the section");
    let section = section.split("\n## ").next().expect("what is before the next one");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells = line.trim_start_matches('|').split_once(" | ").expect("two cells");
        let names = cells.0.split('`').skip(1).step_by(2).map(|name| match name.split_once('{') {
            Some((name, label)) => (name.to_owned(), Some(label.trim_end_matches('}').to_owned())),
            None => (name.to_owned(), None),
        });
        (names.collect(), cells.1.to_owned())
    };
    rows.map(row).collect()
}

#[test]
fn each_metric_is_in_the_table_and_the_other_way_round() {
    // Those of origins are there for the origins of the config.
    let origin = "[[origin]]\nurl = \"rtmp://127.0.0.1:9/{app}/{stream}\"\n";
    let relay = Relay::start_with(2, origin);
    let page = relay.api.get("/metrics").text();
    let families = families(&page);
    let rows = rows();
    let told: BTreeSet<Name> = rows.iter().flat_map(|(names, _)| names.iter().cloned()).collect();
    let there: BTreeSet<Name> =
        families.iter().map(|(name, family)| (name.clone(), family.label.clone())).collect();
    let untold: Vec<_> = there.difference(&told).collect();
    let gone: Vec<_> = told.difference(&there).collect();
    assert!(untold.is_empty() && gone.is_empty(), "not in the table {untold:?}; gone {gone:?}");
    for (names, text) in rows {
        for (name, label) in names {
            let family = &families[&name];
            assert!(family.has_help, "{name} is not explained on the page");
            if label.is_some_and(|label| LISTED_LABELS.contains(&label.as_str())) {
                let unlisted = family.values.iter().filter(|of| !text.contains(&format!("`{of}`")));
                assert_eq!(unlisted.collect::<Vec<_>>(), Vec::<&String>::new(), "{name}");
            }
        }
    }
    relay.stop();
}
