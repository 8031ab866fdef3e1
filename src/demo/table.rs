//! The table of streams that the demo shows, drawn over itself on a terminal.

use std::io::{IsTerminal, stdout};

use serde_json::Value;

pub(super) struct Table {
    on_terminal: bool,
    lines_drawn: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { on_terminal: stdout().is_terminal(), lines_drawn: 0 }
    }

    /// Shows what `listStreamProxy` tells.
    pub(super) fn show(&mut self, streams: &[Value]) {
        if self.on_terminal && self.lines_drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.lines_drawn);
        }
        println!(
            "{:<10} {:<15} {:>8} {:>9} {:>7} {:>12}  last error",
            "stream", "state", "attempts", "next try", "players", "bit rate"
        );
        for stream in streams {
            println!("{}", line(stream));
        }
        self.lines_drawn = streams.len() + 1;
    }
}

fn line(stream: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let next = match (text(&stream["state"]).as_str(), number(&stream["nextRetryMs"])) {
        ("backing_off", ms) => format!("{:.1} s", ms as f64 / 1000.0),
        _ => "-".to_owned(),
    };
    format!(
        "{:<10} {:<15} {:>8} {:>9} {:>7} {:>7} kb/s  {}",
        text(&stream["src"]["stream"]),
        text(&stream["state"]),
        number(&stream["attempts"]),
        next,
        number(&stream["totalReaderCount"]),
        number(&stream["bytesSpeed"]) * 8 / 1000,
        text(&stream["lastError"]),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stream_that_backs_off_shows_when_it_tries_again() {
        let stream = json!({
            "src": {"stream": "never"}, "state": "backing_off", "attempts": 3,
            "nextRetryMs": 2500, "totalReaderCount": 0, "bytesSpeed": 0,
            "lastError": "the origin is silent"
        });
        let line = line(&stream);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..5], ["never", "backing_off", "3", "2.5", "s"]);
        assert!(line.ends_with("the origin is silent"));
    }
}
