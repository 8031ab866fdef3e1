//! Streams and players as a shard describes them to the API.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::media::state::{ErrorClass, Fault, Generation, StreamState};
use crate::media::{ConnectionId, Form, PushState, SourceUrl, StreamKey};
use crate::stream::{Packaging, Tracks};

/// A stream, pending or registered.
#[derive(Debug, Clone)]
pub struct StreamView {
    pub key: StreamKey,
    pub generation: Generation,
    pub state: StreamState,
    pub registered: bool,
    pub source: SourceView,
    /// Since the key was asked for.
    pub age_ms: u64,
    /// Since it was registered; 0 where it is not.
    pub alive_ms: u64,
    /// When it was registered, else when it was asked for; Unix seconds.
    pub created_unix: u64,
    /// In the order of [`Form::ALL`].
    pub forms: [FormView; Form::ALL.len()],
    pub waiters: u32,
    /// Since its source last brought media.
    pub media_age_ms: u64,
    pub bytes_per_second: u64,
    pub bytes_total: u64,
    pub timestamp_ms: u32,
    pub tracks: Tracks,
}

impl StreamView {
    pub fn form(&self, form: Form) -> &FormView {
        self.forms.iter().find(|view| view.form == form).expect("all forms are there")
    }

    /// Players in all forms.
    pub fn players(&self) -> u32 {
        self.forms.iter().map(|view| view.players).sum()
    }
}

/// When the source of a stream was silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GapsView {
    /// Since the key was asked for.
    pub count: u64,
    /// The newest first.
    pub recent: Vec<GapView>,
}

/// A time without media from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapView {
    /// Since its end.
    pub ago_ms: u64,
    pub length_ms: u64,
}

/// A stream in one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormView {
    pub form: Form,
    /// It can be played in this form, as far as its tracks are known; of a pending stream, this is
    /// the form of its source.
    pub playable: bool,
    pub players: u32,
}

/// Where a stream's media comes from.
#[derive(Debug, Clone)]
pub enum SourceView {
    /// Players wait, nobody brings it.
    None,
    Publisher(Box<PublisherView>),
    Pull(PullView),
}

/// A stream that could not be had a moment ago.
#[derive(Debug, Clone)]
pub struct AbsenceView {
    pub key: StreamKey,
    pub class: ErrorClass,
    pub text: String,
    pub age_ms: u64,
    /// For so long who asks for it is refused at once.
    pub left_ms: u64,
    /// So many times it was.
    pub refused: u64,
}

/// A host that is pulled from, as one shard sees it.
#[derive(Debug, Clone, Default)]
pub struct OriginView {
    /// Host and port.
    pub name: String,
    /// Tries that were dialed.
    pub connects: u64,
    /// Times that media came.
    pub ups: u64,
    /// Tries that failed, and streams that were up and lost; in the order of [`ErrorClass::ALL`].
    pub failures: [u64; ErrorClass::ALL.len()],
    /// Tries in a row that it has not answered.
    pub unanswered: u32,
    /// The last one, and how long ago.
    pub last_fault: Option<(Duration, Fault)>,
    pub up_ago: Option<Duration>,
    /// How long ago a try had its connection last, and what that took from the dial.
    pub connect: Option<(Duration, Duration)>,
    /// The same of the first media.
    pub media: Option<(Duration, Duration)>,
    /// Streams that are up from it now.
    pub pulls: u32,
    /// Places of its connect budget in use, pulls that wait for one, and all places.
    pub connecting: u32,
    pub queued: u32,
    pub places: u32,
    /// For how long searches ask its equals first, where they do.
    pub avoided: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct PublisherView {
    pub connection: ConnectionId,
    /// What it brings.
    pub form: Form,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub params: String,
}

#[derive(Debug, Clone)]
pub struct PullView {
    /// Players asked for it; nobody added it.
    pub on_demand: bool,
    /// Of the source in use.
    pub url: Arc<SourceUrl>,
    /// In the order in which they are tried.
    pub sources: Vec<PullSourceView>,
    /// What is tried beside the source in use.
    pub rival: Option<Arc<SourceUrl>>,
    /// From the dial of a try to its first media.
    pub timeout: Duration,
    /// Tries since the add.
    pub attempts: u32,
    pub last_fault: Option<Fault>,
    /// Milliseconds to the next try; 0 while one is under way.
    pub next_retry_ms: u64,
    /// It has delivered media at least once since the add.
    pub was_up: bool,
    /// Losses that were, or are to be, retried.
    pub losses: u32,
    /// Both ends of the connection to the origin, where there is one.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// One of the sources of a pull.
#[derive(Debug, Clone)]
pub struct PullSourceView {
    pub url: Arc<SourceUrl>,
    pub in_use: bool,
    /// Failed tries since its last success.
    pub failures: u32,
    pub last_fault: Option<Fault>,
    /// Milliseconds since it last came up.
    pub up_ago_ms: Option<u64>,
}

/// A push.
#[derive(Debug, Clone)]
pub struct PushView {
    /// The stream that it sends on.
    pub key: StreamKey,
    pub url: Arc<SourceUrl>,
    /// Which life of the push.
    pub generation: Generation,
    pub state: PushState,
    /// Tries since the add.
    pub attempts: u32,
    pub last_fault: Option<Fault>,
    /// Milliseconds to the next try; 0 while none is waited for.
    pub next_retry_ms: u64,
    /// It has been up at least once since the add.
    pub was_up: bool,
    /// Times that it was up again.
    pub returns: u32,
    /// Since the add.
    pub age_ms: u64,
    /// Since it is up; 0 where it is not.
    pub up_ms: u64,
    pub bytes_per_second: u64,
    /// Sent to the destination since the add.
    pub bytes_total: u64,
}

/// A player.
#[derive(Debug, Clone)]
pub struct PlayerView {
    pub connection: ConnectionId,
    pub packaging: Packaging,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub sent_bytes: u64,
    pub lag_bytes: u64,
    pub jumps: u32,
}

/// An accepted connection.
#[derive(Debug, Clone)]
pub struct SessionView {
    pub connection: ConnectionId,
    pub protocol: SessionProtocol,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionProtocol {
    Rtmp,
    Http,
    Rtsp,
}

/// How busy a shard is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadView {
    /// Share of the last seconds that the shard's thread spent on a core.
    pub percent: u32,
    /// How late the last timer was.
    pub delay_ms: u32,
    pub fd_count: u32,
}

/// One number of a shard, as `/metrics` shows it; shards' numbers of one name and label add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Without the `rillcast_` before it.
    pub name: &'static str,
    pub label: Option<Label>,
    pub kind: MetricKind,
    pub value: u64,
}

/// The name of a label, and what it says: a word of ours, or the name of an origin of the config.
pub type Label = (&'static str, Cow<'static, str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    /// A bucket without those below it, labelled by its bound, or the sum in nanoseconds.
    Histogram,
}

/// What a look at an origin found. Times are in milliseconds since the look began.
#[derive(Debug, Clone, Default)]
pub struct ProbeView {
    /// Where it connected to last.
    pub address: Option<SocketAddr>,
    pub resolved_ms: Option<u64>,
    pub connected_ms: Option<u64>,
    /// The origin said yes to what it was asked for.
    pub handshake_ms: Option<u64>,
    pub first_media_ms: Option<u64>,
    /// Every track that came so far had its configuration.
    pub tracks_ms: Option<u64>,
    pub first_keyframe_ms: Option<u64>,
    pub tracks: Tracks,
    /// `None` where all of it was found.
    pub fault: Option<Fault>,
}
