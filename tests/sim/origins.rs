//! Origins: up, silent at any stage, refusing, or gone in the middle of a tag.

use std::time::{Duration, Instant};

use fastrand::Rng;
use rillcast::limits::KEYFRAME_PATIENCE;
use rillcast::media::state::{ErrorClass, Fault, Generation};
use rillcast::media::{AttemptId, ConnectionId, Form, MediaPart, SourceUrl};
use rillcast::proto::rtp::RtpPart;
use rillcast::shard::{Stage, StreamHandle};

use super::api::MEDIA_TIMEOUT_MAX;
use super::players::ADDRESS;
use super::world::{Event, World};

/// How an origin answers those who come now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    Up,
    /// Gets so far and no further.
    SilentAt(Stage),
    /// Says no at this stage.
    FailsAt(Stage, ErrorClass),
    /// Sends whoever asks to the next origin.
    Redirects,
    /// Media comes, and after so many parts the connection is lost.
    LostAfter(u32),
    /// Media comes, and after so many parts nothing more.
    SilentAfter(u32),
}

/// An attempt of a shard; attempts of different shards may have one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttemptName {
    pub(crate) shard: usize,
    pub(crate) attempt: AttemptId,
}

/// A try at an origin, from `Dial` to `attempt_closed`.
pub(crate) struct Attempt {
    pub(crate) handle: StreamHandle,
    origin: usize,
    key: usize,
    behavior: Behavior,
    stage: Stage,
    source: Option<u32>,
    hung_up: bool,
    failed: bool,
    parts: u32,
    /// When it must have brought media.
    media_by: Instant,
}

/// Who hands a source's media in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Feed {
    Publisher(ConnectionId),
    Attempt(AttemptName),
}

impl Behavior {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        const STAGES: [Stage; 4] =
            [Stage::Resolving, Stage::Connecting, Stage::Handshaking, Stage::AwaitingMedia];
        match rng.u32(0..11) {
            0..=3 => Self::Up,
            4 => Self::SilentAt(STAGES[rng.usize(0..4)]),
            5 | 6 => {
                let at = rng.usize(0..4);
                let class = [
                    ErrorClass::Unresolved,
                    ErrorClass::Refused,
                    ErrorClass::NotFound,
                    ErrorClass::Lost,
                ][at];
                Self::FailsAt(STAGES[at], class)
            }
            7 => Self::LostAfter(rng.u32(0..12)),
            8 => Self::LostAfter(rng.u32(0..200)),
            9 => Self::Redirects,
            _ => Self::SilentAfter(rng.u32(0..100)),
        }
    }
}

impl Attempt {
    pub(crate) fn is_open(&self) -> bool {
        !self.hung_up && !self.failed
    }

    pub(crate) fn generation(&self) -> Generation {
        self.handle.generation
    }
}

impl World {
    pub(crate) fn dial(
        &mut self,
        name: AttemptName,
        handle: StreamHandle,
        (url, timeout): (&SourceUrl, Duration),
    ) {
        self.note(|_| format!("  dial {name:?} {url} {handle:?}"));
        let origin = self.origin_of(url);
        let key = self.urls.iter().position(|urls| urls.iter().any(|of| **of == *url));
        let key = key.expect("our URLs");
        assert!(!self.is_shut[name.shard], "dialed after the shut-down");
        let rivals = self.attempts.values().filter(|of| of.key == key && of.is_open());
        let rivals = rivals.count();
        assert!(rivals <= 1, "three sources of one key at once");
        self.stats.rivals += rivals as u64;
        let behavior = self.origins[origin];
        let attempt = Attempt {
            handle,
            origin,
            key,
            behavior,
            stage: Stage::Resolving,
            source: None,
            hung_up: false,
            failed: false,
            parts: 0,
            media_by: self.now + timeout,
        };
        let before = self.attempts.insert(name, attempt);
        assert!(before.is_none(), "{name:?} is dialed twice");
        let places = self.plan.policy.connects_per_origin_max;
        let connecting = self.attempts.iter().filter(|(of, attempt)| {
            let is_connecting = attempt.is_open() && attempt.stage <= Stage::Connecting;
            of.shard == name.shard && attempt.origin == origin && is_connecting
        });
        assert!(connecting.count() <= places, "more connects to one origin than its budget has");
        self.next_step(name);
    }

    pub(crate) fn hang_up(&mut self, name: AttemptName) {
        self.note(|_| format!("  hang up {name:?}"));
        let attempt = self.attempts.get_mut(&name).expect("hung up after it was closed");
        assert!(!attempt.hung_up, "{name:?} is hung up twice");
        assert!(!attempt.failed, "{name:?} had failed and is hung up");
        attempt.hung_up = true;
        let delay_ms = self.plan.confirm_ms(&mut self.rng);
        self.after_ms(delay_ms, Event::AttemptClosed(name));
    }

    /// An attempt gets one stage further, or does not.
    pub(crate) fn attempt_step(&mut self, name: AttemptName) {
        let Some(attempt) = self.attempts.get_mut(&name) else { return };
        if !attempt.is_open() {
            if self.rng.bool() {
                // A completion that was under way when the attempt was given up.
                self.on_shard(name.shard, |shard, now, _| {
                    shard.attempt_stage(now, name.attempt, Stage::Handshaking, "C0C1");
                });
            }
            return;
        }
        let stage = attempt.stage;
        match attempt.behavior {
            Behavior::SilentAt(at) if at == stage => return,
            Behavior::FailsAt(at, class) if at == stage => {
                self.fail(name, class);
                return;
            }
            Behavior::Redirects if stage == Stage::Handshaking => {
                self.redirect(name);
                return;
            }
            _ => {}
        }
        let next = match stage {
            Stage::Resolving => Stage::Connecting,
            Stage::Connecting => Stage::Handshaking,
            Stage::Handshaking => Stage::AwaitingMedia,
            Stage::AwaitingMedia | Stage::Up => {
                let of = (attempt.key, self.plan.forms[attempt.origin]);
                let interleaves = self.rng.bool();
                let source = self.new_source(of, interleaves, Feed::Attempt(name));
                let attempt = self.attempts.get_mut(&name).expect("just seen");
                attempt.source = Some(source);
                self.after_ms(0, Event::Media(source));
                return;
            }
        };
        attempt.stage = next;
        self.on_shard(name.shard, |shard, now, _| {
            if next == Stage::Handshaking {
                shard.attempt_connected(name.attempt, (ADDRESS, ADDRESS));
            }
            shard.attempt_stage(now, name.attempt, next, "an answer");
        });
        self.next_step(name);
    }

    fn next_step(&mut self, name: AttemptName) {
        let delay_ms = self.rng.u64(0..300);
        self.after_ms(delay_ms, Event::Attempt(name));
    }

    fn fail(&mut self, name: AttemptName, class: ErrorClass) {
        self.note(|_| format!("  {name:?} fails: {class:?}"));
        let attempt = self.attempts.get_mut(&name).expect("a known attempt");
        attempt.failed = true;
        let fault = Fault::new(class, "it failed");
        self.on_shard(name.shard, |shard, now, _| {
            shard.attempt_failed(now, name.attempt, fault);
        });
        let delay_ms = self.plan.confirm_ms(&mut self.rng);
        self.after_ms(delay_ms, Event::AttemptClosed(name));
    }

    fn redirect(&mut self, name: AttemptName) {
        let attempt = self.attempts.get_mut(&name).expect("a known attempt");
        // It is over for the shard, as one that failed is.
        attempt.failed = true;
        let next = (attempt.origin + 1) % self.plan.origins;
        let url = self.urls[attempt.key][next].clone();
        self.note(|_| format!("  {name:?} is sent to {url}"));
        self.stats.redirects += 1;
        self.on_shard(name.shard, |shard, now, _| {
            shard.attempt_redirected(now, name.attempt, url);
        });
        let delay_ms = self.plan.confirm_ms(&mut self.rng);
        self.after_ms(delay_ms, Event::AttemptClosed(name));
    }

    pub(crate) fn attempt_closed(&mut self, name: AttemptName) {
        self.attempts.remove(&name).expect("closed once");
        self.on_shard(name.shard, |shard, _, _| shard.attempt_closed(name.attempt, 1));
    }

    /// A source hands on its next parts, and says when it has more.
    pub(crate) fn media(&mut self, source: u32) {
        match self.feeds[source as usize] {
            Feed::Publisher(connection) => {
                let Some(handle) = self.publisher_handle(connection) else { return };
                let owner = self.owner(self.sources[source as usize].key);
                let from = &mut self.sources[source as usize];
                let wait_ms = match from.form {
                    Form::Flv => {
                        let (parts, wait_ms) = from.step(self.now, &mut self.rng);
                        for part in parts {
                            self.note_part(&part);
                            let taken = self
                                .on_shard(owner, |shard, now, _| shard.media(now, handle, part));
                            assert!(taken, "a live publisher's media is not taken");
                        }
                        wait_ms
                    }
                    Form::Rtp => {
                        let (parts, wait_ms) = from.step_rtp(self.now, &mut self.rng);
                        for part in parts {
                            let taken =
                                self.on_shard(owner, |shard, now, _| shard.rtp(now, handle, part));
                            assert!(taken, "a live publisher's packets are not taken");
                        }
                        wait_ms
                    }
                };
                self.after_ms(wait_ms, Event::Media(source));
            }
            Feed::Attempt(name) => self.attempt_media(name, source),
        }
    }

    fn attempt_media(&mut self, name: AttemptName, source: u32) {
        let Some(attempt) = self.attempts.get_mut(&name) else { return };
        attempt.parts += 1;
        let (is_open, parts, behavior) = (attempt.is_open(), attempt.parts, attempt.behavior);
        if is_open {
            match behavior {
                Behavior::LostAfter(after) if parts > after => {
                    self.fail(name, ErrorClass::Lost);
                    return;
                }
                Behavior::SilentAfter(after) if parts > after => return,
                _ => {}
            }
        }
        if !is_open {
            // Bytes that were under way when the attempt was given up.
            let part = MediaPart::Abort { lane: 0 };
            let taken = self
                .on_shard(name.shard, |shard, now, _| shard.attempt_media(now, name.attempt, part));
            assert!(!taken, "media of an attempt that was given up is taken");
            return;
        }
        let wait_ms = match self.sources[source as usize].form {
            Form::Flv => self.tags_come(name, source),
            Form::Rtp => self.packets_come(name, source),
        };
        self.after_ms(wait_ms, Event::Media(source));
    }

    /// The source of a pull's attempt that brings a stream.
    pub(crate) fn source_of(&self, key: usize) -> Option<u32> {
        let of_key = self.attempts.iter().filter(|(_, attempt)| attempt.key == key);
        let mut bringing =
            of_key.filter(|(name, _)| self.shards[name.shard].brings_media(name.attempt));
        bringing.next().and_then(|(_, attempt)| attempt.source)
    }

    /// An attempt hands in the next parts of its source; returns the milliseconds to those after them.
    fn tags_come(&mut self, name: AttemptName, source: u32) -> u64 {
        let (parts, wait_ms) = self.sources[source as usize].step(self.now, &mut self.rng);
        for part in parts {
            self.note_part(&part);
            let taken = self
                .on_shard(name.shard, |shard, now, _| shard.attempt_media(now, name.attempt, part));
            assert!(taken, "a live attempt's media is not taken");
        }
        wait_ms
    }

    fn packets_come(&mut self, name: AttemptName, source: u32) -> u64 {
        let (parts, wait_ms) = self.sources[source as usize].step_rtp(self.now, &mut self.rng);
        for part in parts {
            self.note(|_| match &part {
                RtpPart::Packet { track, packet, .. } => {
                    format!("  {name:?} track {track}: {:?}", packet.header())
                }
                _ => "  tracks".to_owned(),
            });
            let taken = self
                .on_shard(name.shard, |shard, now, _| shard.attempt_rtp(now, name.attempt, part));
            assert!(taken, "a live attempt's packets are not taken");
        }
        wait_ms
    }

    /// Attempts that bring nothing are given up in time, before their first media and after it.
    pub(crate) fn check_attempts(&self) {
        for (name, attempt) in self.attempts.iter().filter(|(_, attempt)| attempt.is_open()) {
            let source = attempt.source.map(|source| &self.sources[source as usize]);
            let last_media = source.and_then(|source| source.last_media);
            // One that is to go on where another one ended has time for its keyframe.
            let patience = match self.shards[name.shard].brings_media(name.attempt) {
                true => MEDIA_TIMEOUT_MAX,
                false => MEDIA_TIMEOUT_MAX.max(KEYFRAME_PATIENCE),
            };
            let silent_by = last_media.map(|at| at + patience);
            let bound = silent_by.map_or(attempt.media_by, |by| by.max(attempt.media_by));
            assert!(self.now <= bound, "{name:?} brings nothing and is kept");
        }
    }

    fn note_part(&mut self, part: &MediaPart) {
        self.note(|_| match part {
            MediaPart::Data { lane, bytes } => format!("  lane {lane}: {} bytes", bytes.len()),
            MediaPart::Script { .. } => "  script".to_owned(),
            other => format!("  {other:?}"),
        });
    }
}
