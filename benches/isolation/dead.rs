//! Thousands of pulls of origins that they never come up from.

use std::thread::scope;

use rillcast::load::dead::DeadOrigins;

use crate::kit::Api;

pub(crate) const APP: &str = "dead";

/// Adds under way at once.
const ADDERS: usize = 4;

/// Adds so many pulls, a third of each kind, retried without end.
pub(crate) fn add(origins: &DeadOrigins, api: &Api, pulls: usize) {
    let urls = origins.urls("dead");
    scope(|scope| {
        for adder in 0..ADDERS {
            let urls = &urls;
            scope.spawn(move || {
                for number in (adder..pulls).step_by(ADDERS) {
                    let stream = number.to_string();
                    let params = [
                        ("vhost", "__defaultVhost__"),
                        ("app", APP),
                        ("stream", &stream),
                        ("url", &urls[number % urls.len()]),
                        ("async", "1"),
                        ("force", "1"),
                    ];
                    assert_eq!(api.call("addStreamProxy", &params)["code"], 0);
                }
            });
        }
    });
}
