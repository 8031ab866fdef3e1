//! How the hosts do that this shard pulls from: those of the config, and those of added pulls. A host is
//! known by name and port, as its connect budget is.
//!
//! What a shard sees here is its own; the API puts the shards' views together. One that has not answered
//! several tries in a row is *avoided* by searches for a while, among equals.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::Shard;
use crate::bus::view::OriginView;
use crate::limits::{AVOIDED_AFTER, HOST_TEXT_LEN_MAX, IDLE_HOSTS_MAX, ORIGINS_SHOWN_MAX};
use crate::media::state::{ErrorClass, Fault};

/// Hosts by name and port.
#[derive(Default)]
pub(super) struct Hosts {
    by_name: HashMap<String, Host>,
    /// Those with nothing under way that may be forgotten, the longest idle first.
    idle: BTreeMap<u64, String>,
    serial: u64,
}

/// One of them, since the start or since it was forgotten.
#[derive(Default)]
struct Host {
    connects: u64,
    /// Times that media came.
    ups: u64,
    failures: [u64; ErrorClass::ALL.len()],
    /// Tries in a row that it has not answered, or with that it can't now.
    unanswered: u32,
    unanswered_at: Option<Instant>,
    last_fault: Option<(Instant, Fault)>,
    last_up: Option<Instant>,
    last_connect: Option<Took>,
    last_media: Option<Took>,
    /// Tries that were dialed and have not ended; of those, the ones that bring media.
    live: u32,
    up: u32,
    /// Its place among the idle ones.
    idle: Option<u64>,
}

/// What a step of a try took, from the dial.
#[derive(Debug, Clone, Copy)]
struct Took {
    at: Instant,
    time: Duration,
}

impl Hosts {
    pub(super) fn dialed(&mut self, name: &str) {
        let host = self.by_name.entry(name.to_owned()).or_default();
        host.connects += 1;
        host.live += 1;
        if let Some(serial) = host.idle.take() {
            self.idle.remove(&serial);
        }
    }

    /// A try has a connection, so long after it was dialed.
    pub(super) fn connected(&mut self, now: Instant, name: &str, time: Duration) {
        if let Some(host) = self.by_name.get_mut(name) {
            host.last_connect = Some(Took { at: now, time });
        }
    }

    /// It has sent a try elsewhere; [`Self::ended`] follows.
    pub(super) fn redirected(&mut self, name: &str) {
        if let Some(host) = self.by_name.get_mut(name) {
            host.unanswered = 0;
        }
    }

    /// A try brings media, so long after it was dialed.
    pub(super) fn went_up(&mut self, now: Instant, name: &str, time: Duration) {
        if let Some(host) = self.by_name.get_mut(name) {
            host.ups += 1;
            host.up += 1;
            host.unanswered = 0;
            host.last_up = Some(now);
            host.last_media = Some(Took { at: now, time });
        }
    }

    /// A try has failed, or one that was up is lost; [`Self::ended`] follows.
    pub(super) fn failed(&mut self, now: Instant, name: &str, fault: &Fault, was_up: bool) {
        let Some(host) = self.by_name.get_mut(name) else { return };
        let index = ErrorClass::ALL.iter().position(|&class| class == fault.class);
        host.failures[index.expect("ALL is all")] += 1;
        match fault.class {
            // It is there, or was never asked.
            ErrorClass::NotFound | ErrorClass::Rejected => host.unanswered = 0,
            ErrorClass::Busy | ErrorClass::Denied => {}
            // Streams end, also several at a time.
            _ if was_up => {}
            _ => {
                host.unanswered += 1;
                host.unanswered_at = Some(now);
            }
        }
        host.last_fault = Some((now, fault.clipped(HOST_TEXT_LEN_MAX)));
    }

    /// Nothing of a try that was dialed is left for the pull: it failed or was given up. A host of the
    /// config is never forgotten.
    pub(super) fn ended(&mut self, name: &str, was_up: bool, is_configured: bool) {
        let Some(host) = self.by_name.get_mut(name) else { return };
        host.live -= 1;
        host.up -= u32::from(was_up);
        if host.live == 0 && !is_configured {
            self.serial += 1;
            host.idle = Some(self.serial);
            self.idle.insert(self.serial, name.to_owned());
            self.forget_idle();
        }
    }

    /// Other hosts are those of the config now.
    pub(super) fn configure(&mut self, is_configured: impl Fn(&str) -> bool) {
        for (name, host) in &mut self.by_name {
            let may_be_forgotten = host.live == 0 && !is_configured(name);
            match host.idle {
                Some(serial) if !may_be_forgotten => {
                    self.idle.remove(&serial);
                    host.idle = None;
                }
                None if may_be_forgotten => {
                    self.serial += 1;
                    host.idle = Some(self.serial);
                    self.idle.insert(self.serial, name.clone());
                }
                _ => {}
            }
        }
        self.forget_idle();
    }

    fn forget_idle(&mut self) {
        while self.idle.len() > IDLE_HOSTS_MAX
            && let Some((_, name)) = self.idle.pop_first()
        {
            self.by_name.remove(&name);
        }
    }

    /// For how long searches ask it after its equals, where they do.
    pub(super) fn avoided(&self, now: Instant, name: &str, time: Duration) -> Option<Duration> {
        let host = self.by_name.get(name)?;
        let at = host.unanswered_at.filter(|_| host.unanswered >= AVOIDED_AFTER)?;
        Some((at + time).saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn view(&self, now: Instant, name: &str) -> OriginView {
        let none = Host::default();
        let host = self.by_name.get(name).unwrap_or(&none);
        let ago = |at: Instant| now.duration_since(at);
        let took = |step: Option<Took>| step.map(|step| (ago(step.at), step.time));
        OriginView {
            name: name.to_owned(),
            connects: host.connects,
            ups: host.ups,
            failures: host.failures,
            unanswered: host.unanswered,
            last_fault: host.last_fault.clone().map(|(at, fault)| (ago(at), fault)),
            up_ago: host.last_up.map(ago),
            connect: took(host.last_connect),
            media: took(host.last_media),
            pulls: host.up,
            // Filled in by who knows the budget and the config.
            ..OriginView::default()
        }
    }

    /// For tests: tries by host that have not ended, and how many of those are up.
    pub(super) fn live(&self) -> BTreeMap<String, (u32, u32)> {
        let live = self.by_name.iter().filter(|(_, host)| host.live > 0);
        live.map(|(name, host)| (name.clone(), (host.live, host.up))).collect()
    }
}

impl Shard {
    /// A try that was dialed has failed or was given up.
    pub(super) fn try_has_ended(&mut self, origin: &str, was_up: bool) {
        let is_configured = self.demands.origins().connects_max(origin).is_some();
        self.hosts.ended(origin, was_up, is_configured);
    }

    /// Hosts that are pulled from, those of the config first, up to a limit.
    pub(super) fn origin_views(&self, now: Instant) -> Vec<OriginView> {
        let configured = self.demands.origins().authorities();
        let mut others: Vec<&str> = self.hosts.by_name.keys().map(String::as_str).collect();
        others.retain(|name| self.demands.origins().connects_max(name).is_none());
        others.sort_unstable();
        let shown = configured.chain(others).take(ORIGINS_SHOWN_MAX);
        shown.map(|name| self.origin_view(now, name)).collect()
    }

    /// Hosts of the config, for the metrics.
    pub fn configured_origins(&self, now: Instant) -> impl Iterator<Item = OriginView> {
        self.demands.origins().authorities().map(move |name| self.origin_view(now, name))
    }

    fn origin_view(&self, now: Instant, name: &str) -> OriginView {
        let (under_way, queued) = self.budget.use_of(name);
        OriginView {
            connecting: under_way as u32,
            queued: queued as u32,
            places: self.places(name) as u32,
            avoided: self.hosts.avoided(now, name, self.demands.origins().avoid()),
            ..self.hosts.view(now, name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);
    const TIME: Duration = Duration::from_secs(10);

    /// A try of it fails.
    fn fail(hosts: &mut Hosts, now: Instant, name: &str, class: ErrorClass) {
        hosts.dialed(name);
        hosts.failed(now, name, &Fault::new(class, "é".repeat(HOST_TEXT_LEN_MAX)), false);
        hosts.ended(name, false, false);
    }

    #[test]
    fn a_host_is_avoided_after_tries_in_a_row_that_it_has_not_answered() {
        use ErrorClass::{Busy, Denied, Lost, NotFound, Refused, Rejected, Silent, Unavailable};
        let now = clock::now();
        for (classes, is_avoided) in [
            (&[Refused, Silent][..], false),
            (&[Refused, Silent, Lost], true),
            (&[Refused, Busy, Denied, Silent, Refused], true),
            (&[Unavailable; 3], true),
            (&[Refused, Silent, NotFound, Refused, Refused], false),
            (&[Refused, Silent, Refused, Rejected], false),
        ] {
            let mut hosts = Hosts::default();
            classes.iter().for_each(|&class| fail(&mut hosts, now, "h", class));
            let avoided = hosts.avoided(now, "h", TIME);
            assert_eq!(avoided, is_avoided.then_some(TIME), "{classes:?}");
            assert_eq!(hosts.avoided(now, "other", TIME), None);
        }
    }

    #[test]
    fn a_host_is_avoided_for_its_time_or_until_media_comes() {
        let (mut hosts, now) = (Hosts::default(), clock::now());
        for _ in 0..AVOIDED_AFTER {
            fail(&mut hosts, now, "h", ErrorClass::Refused);
        }
        assert_eq!(hosts.avoided(now + TIME - MS, "h", TIME), Some(MS));
        assert_eq!(hosts.avoided(now + TIME, "h", TIME), None);
        assert_eq!(hosts.avoided(now, "h", Duration::ZERO), None);
        fail(&mut hosts, now + TIME, "h", ErrorClass::Refused);
        assert_eq!(hosts.avoided(now + TIME, "h", TIME), Some(TIME), "it still does not answer");
        hosts.dialed("h");
        hosts.connected(now + TIME, "h", MS);
        hosts.went_up(now + TIME, "h", MS * 3);
        assert_eq!(hosts.avoided(now + TIME, "h", TIME), None);
        for _ in 0..AVOIDED_AFTER {
            hosts.failed(now + TIME, "h", &Fault::new(ErrorClass::Lost, "it has ended"), true);
        }
        assert_eq!(hosts.avoided(now + TIME, "h", TIME), None, "streams may end");
        let view = hosts.view(now + TIME, "h");
        assert_eq!((view.connects, view.ups, view.pulls), (5, 1, 1));
        assert_eq!(view.connect.map(|(_, time)| time), Some(MS));
        assert_eq!(view.media.map(|(_, time)| time), Some(MS * 3));
        hosts.ended("h", true, false);
        assert!(hosts.live().is_empty());
    }

    #[test]
    fn idle_hosts_that_are_not_of_the_config_are_bounded() {
        let (mut hosts, now) = (Hosts::default(), clock::now());
        hosts.dialed("live");
        hosts.dialed("configured");
        hosts.ended("configured", false, true);
        for number in 0..IDLE_HOSTS_MAX + 2 {
            fail(&mut hosts, now, &number.to_string(), ErrorClass::Refused);
        }
        assert_eq!(hosts.by_name.len(), IDLE_HOSTS_MAX + 2);
        let is_known = |hosts: &Hosts, name: &str| hosts.by_name.contains_key(name);
        assert!(is_known(&hosts, "live") && is_known(&hosts, "configured"));
        assert!(!is_known(&hosts, "1") && is_known(&hosts, "2"));
        let text = &hosts.view(now, "2").last_fault.expect("it failed").1.text;
        assert!(text.len() <= HOST_TEXT_LEN_MAX);
        hosts.configure(|_| false);
        assert_eq!((hosts.by_name.len(), hosts.idle.len()), (IDLE_HOSTS_MAX + 1, IDLE_HOSTS_MAX));
        hosts.configure(|_| true);
        assert!(hosts.idle.is_empty());
    }
}
