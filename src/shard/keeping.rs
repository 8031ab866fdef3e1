//! What survives a restart: pulls are put into the journal when they are to stay, and come back from
//! it before the first connection is accepted.
//!
//! A pull is kept from its success on, or from its add where that is acknowledged before. It is
//! taken out when it ends, whatever ends it but a shut-down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Action;
use super::Shard;
use super::lifecycle::{Pull, PullState};
use super::tables::{Source, Stream, StreamHandle};
use super::timers::Timer;
use crate::access::PullLimits;
use crate::bus::event::{Asker, What};
use crate::bus::message::{IdleClose, PullOptions};
use crate::journal::{PullRecord, Record};
use crate::limits::{RESTORES_PER_SECOND, SOURCES_MAX};
use crate::media::key::KeyError;
use crate::media::state::EndReason;
use crate::media::url::SourceUrlError;
use crate::media::{SourceUrl, StreamKey};
use crate::proto::rtsp::LowerTransport;

/// Why a pull of the journal does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("key: {0}")]
    Key(#[from] KeyError),
    #[error("URL: {0}")]
    Url(#[from] SourceUrlError),
}

impl Shard {
    /// Enters the pulls of a journal whose keys this shard owns, to be called before it has any
    /// other stream. Each waits for its turn as one that has failed waits for its next try: those of
    /// one origin come in groups as large as its connect budget, and all of them at a bounded rate.
    ///
    /// Returns how many were entered, and those that can't be.
    pub fn restore<'a>(
        &mut self,
        now: Instant,
        pulls: &'a [PullRecord],
    ) -> (usize, Vec<(&'a PullRecord, RestoreError)>) {
        let (mut count, mut refused) = (0, Vec::new());
        let mut by_origin: HashMap<String, u32> = HashMap::new();
        for record in pulls {
            let (key, pull) = match read(record) {
                Ok((key, _)) if self.owner_of(&key) != self.id => continue,
                Ok(found) => found,
                Err(error) => {
                    refused.push((record, error));
                    continue;
                }
            };
            let of_origin = by_origin.entry(pull.lead.origin()).or_default();
            let group = *of_origin / self.policy.connects_per_origin_max.max(1) as u32;
            *of_origin += 1;
            let delay =
                (GROUP_DELAY * group).max(Duration::from_secs(1) * count / RESTORES_PER_SECOND);
            count += 1;
            self.restore_pull(now, key, pull, delay);
        }
        (count as usize, refused)
    }

    fn restore_pull(&mut self, now: Instant, key: StreamKey, mut pull: Pull, delay: Duration) {
        let generation = self.next_generation();
        let none = Source::None { kept: false };
        let handle = self.tables.insert(key, generation, none, (now, self.now_unix));
        let next = now + delay;
        let timer = self.timers.set(next, Timer::Retry(handle));
        pull.lead.state = PullState::BackingOff { next, timer };
        // What is restored was let in before.
        pull.place = self.pending_pulls.enter(None, &PullLimits::default()).ok();
        let stream = self.tables.get_mut(handle).expect("just made");
        let url = Some(pull.lead.url.clone());
        stream.source = Source::Pull(Box::new(pull));
        self.tell(handle, |_| What::Pending { by: Asker::Pull, url });
    }

    /// Puts a pull into the journal, once.
    pub(super) fn keep_pull(&mut self, handle: StreamHandle) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        let key = stream.key.clone();
        if let Some(pull) = stream.pull_mut()
            && !pull.on_demand
            && !std::mem::replace(&mut pull.kept, true)
        {
            let record = Record::AddPull(written(&key, pull));
            self.actions.push_back(Action::Keep(record));
        }
    }

    /// The sources of a pull have changed: what the journal has of it is to be as it is now.
    pub(super) fn keep_again(&mut self, handle: StreamHandle) {
        let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
        if let Some(pull) = pull.filter(|pull| pull.kept) {
            pull.kept = false;
            self.keep_pull(handle);
        }
    }

    /// Takes the pull of a stream that ends out of the journal.
    pub(super) fn forget_pull(&mut self, stream: &Stream, reason: EndReason) {
        if reason != EndReason::Shutdown && stream.pull().is_some_and(|pull| pull.kept) {
            let record = Record::RemovePull { key: stream.key.as_str().to_owned() };
            self.actions.push_back(Action::Keep(record));
        }
    }
}

fn written(key: &StreamKey, pull: &Pull) -> PullRecord {
    // Those of a pull that is kept came with one call, and so with one login.
    let login = pull.sources.urls().find_map(|url| url.login.clone());
    let mut urls = pull.sources.urls().map(|url| url.as_str().to_owned());
    PullRecord {
        key: key.as_str().to_owned(),
        url: urls.next().expect("a pull has a source"),
        other_urls: urls.collect(),
        login,
        hedge_ms: pull.options.hedge.as_millis() as u64,
        retries_max: pull.options.retries_max,
        timeout_ms: pull.options.timeout.as_millis() as u64,
        media_timeout_ms: pull.options.media_timeout.as_millis() as u64,
        over_udp: pull.options.rtp_transport == LowerTransport::Udp,
        idle_close_ms: pull.options.idle_close.after.map(|after| after.as_millis() as u64),
        auto_close: pull.options.idle_close.always,
    }
}

/// A kept pull stays when its first try fails, whatever was asked for when it was added: that it had
/// succeeded, or was to stay, is why it was kept.
fn read(record: &PullRecord) -> Result<(StreamKey, Pull), RestoreError> {
    let key = StreamKey::parse(&record.key)?;
    let urls = std::iter::once(&record.url).chain(&record.other_urls).take(SOURCES_MAX);
    let login = |url: SourceUrl| url.with_rtsp_login(record.login.clone());
    let parse = |url| SourceUrl::parse(url, true).map(login).map(Arc::new);
    let urls: Result<Vec<_>, SourceUrlError> = urls.map(|url: &String| parse(url)).collect();
    let options = PullOptions {
        retries_max: record.retries_max,
        force: true,
        no_wait: true,
        timeout: Duration::from_millis(record.timeout_ms),
        hedge: Duration::from_millis(record.hedge_ms),
        media_timeout: Duration::from_millis(record.media_timeout_ms),
        rtp_transport: match record.over_udp {
            true => LowerTransport::Udp,
            false => LowerTransport::Tcp,
        },
        idle_close: IdleClose {
            after: record.idle_close_ms.map(Duration::from_millis),
            always: record.auto_close,
        },
        asked_by: None,
    };
    let pull = Pull { kept: true, ..Pull::new(urls?, options) };
    Ok((key, pull))
}

/// From one group of an origin's pulls to the next: most connects take less.
const GROUP_DELAY: Duration = Duration::from_millis(250);
