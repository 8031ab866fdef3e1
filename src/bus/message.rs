//! Every bus message. Read it to know what the shards tell each other.
//!
//! ```text
//!  players' shard                     owner of the key
//!     │── Interest(players, waiters) ───►│   first one attaches, (0, 0) detaches
//!     │◄── Attached(snapshot) ───────────│   the key is registered
//!     │◄── Flushed(delta) ───────────────│   each flush
//!     │◄── Suspended ────────────────────│   source lost, players are kept
//!     │◄── Resumed ──────────────────────│
//!     │◄── End(reason) ──────────────────│   players and waiters are sent away
//!     │── Released(what) ───────────────►│   and are gone
//!
//!  any shard ── Ask ──► any shard ── Answer ──► back          (the API)
//!  accepting shard ── Adopt ──► owner                         (a publisher's connection)
//! ```

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::view::{
    AbsenceView, GapsView, LoadView, Metric, OriginView, PlayerView, ProbeView, PushView,
    SessionView, StreamView,
};
use crate::config::{ReloadError, Reread};
use crate::media::state::{EndReason, Fault, Generation, Released, StreamState};
use crate::media::{ConnectionId, Form, PushState, ShardId, SourceUrl, StreamKey, UrlDigest};
use crate::origin::Asking;
use crate::proto::rtsp::LowerTransport;
use crate::ring::TcpFacts;
use crate::stream::Snapshot;
use crate::stream::log::Delta;

/// One presence of a key on a shard that has players or waiters of it; never used twice, so that
/// what belongs to an earlier one is known to be late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalId {
    pub shard: ShardId,
    /// In which the players there want it.
    pub form: Form,
    /// Its place on its shard.
    pub slot: u32,
    pub serial: u64,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub shard: ShardId,
    pub serial: u64,
}

/// What one shard tells another.
pub enum Message {
    /// How many players and waiters a shard has for a key of yours.
    Interest {
        key: StreamKey,
        local: LocalId,
        players: u32,
        waiters: u32,
        /// What is to be asked with for those who wait, where anybody may be: one of each address.
        askings: Vec<Arc<Asking>>,
    },
    /// All that hung on an ended presence is gone.
    Released {
        key: StreamKey,
        local: LocalId,
        generation: Generation,
        released: Released,
    },
    /// The key is registered. `snapshot` is `None` on the owner's own shard, which reads its log.
    Attached {
        key: StreamKey,
        local: LocalId,
        generation: Generation,
        snapshot: Option<Box<Snapshot>>,
    },
    /// What was flushed. Dropped when the queue is full; the replica then gets a new snapshot.
    Flushed {
        key: StreamKey,
        local: LocalId,
        delta: Delta,
        /// When the last byte of its oldest video frame came in.
        video_since: Option<Instant>,
    },
    /// The source is lost; keep the players, park newcomers.
    Suspended {
        key: StreamKey,
        local: LocalId,
    },
    /// The source is back.
    Resumed {
        key: StreamKey,
        local: LocalId,
    },
    /// Send players and waiters away and say so with `Released`.
    End {
        key: StreamKey,
        local: LocalId,
        generation: Generation,
        reason: EndReason,
    },
    Ask {
        ticket: Ticket,
        ask: Ask,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    /// A connection that has found out its role moves to the owner of its key. What it is made of
    /// is known to `net` alone.
    Adopt(Box<dyn Any + Send>),
}

/// How a pull is to be done; `addStreamProxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullOptions {
    /// Retries after a failure; `None` without end.
    pub retries_max: Option<u32>,
    /// Keep it when the first attempt fails.
    pub force: bool,
    /// Answer at once.
    pub no_wait: bool,
    /// From the dial to the first media.
    pub timeout: Duration,
    /// Time without media after which another source is tried beside one; zero never.
    pub hedge: Duration,
    /// Silence after which a connected source is given up.
    pub media_timeout: Duration,
    /// What is to carry the media of an RTSP origin, if the origin can.
    pub rtp_transport: LowerTransport,
    pub idle_close: IdleClose,
    /// Whose share of the pending pulls it takes; that of nobody where we want it ourselves.
    pub asked_by: Option<IpAddr>,
}

/// When a pull that nobody plays is closed; where it says nothing, what the operator says for all
/// streams holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdleClose {
    /// So long without a player. It is then closed, or the hook decides where one is set.
    pub after: Option<Duration>,
    /// Closed without asking, or not.
    pub always: Option<bool>,
}

/// How a push is to be done; `addStreamPusherProxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushOptions {
    /// Retries after a failure; `None` without end.
    pub retries_max: Option<u32>,
    /// Take it where its stream is not registered, and keep it when the first attempt fails.
    pub force: bool,
    /// Answer at once.
    pub no_wait: bool,
    /// From the dial to the destination's word that it takes the stream.
    pub timeout: Duration,
    /// What is to carry the media to an RTSP destination.
    pub rtp_transport: LowerTransport,
}

/// What the API asks of a shard.
pub enum Ask {
    /// Of the key's owner; the sources in the order in which they are tried, one at least.
    AddPull { key: StreamKey, urls: Vec<Arc<SourceUrl>>, options: PullOptions },
    /// Of the key's owner: gives a pull other sources, one at least. `timeout` is from the dial to the
    /// first media.
    UpdatePull { key: StreamKey, urls: Vec<Arc<SourceUrl>>, timeout: Duration },
    /// Of the key's owner: ends the pull in whatever state it is, with all that hangs on it.
    DeletePull { key: StreamKey },
    /// Of the stream's owner: sends it on to a destination.
    AddPush { key: StreamKey, url: Arc<SourceUrl>, options: PushOptions },
    /// Of the stream's owner: ends a push in whatever state it is.
    DeletePush { key: StreamKey, digest: UrlDigest },
    /// Of the stream's owner: one push of it.
    Push { key: StreamKey, digest: UrlDigest },
    /// Of each shard: the pushes of the streams that it owns, a page at a time, those after this one.
    Pushes { after: Option<Generation> },
    /// Of the key's owner. Without a generation, whatever lives under the key now.
    Close {
        key: StreamKey,
        generation: Option<Generation>,
        /// Where it is registered, only if it can be played in this form.
        form: Option<Form>,
        /// Also where players are.
        force: bool,
        /// Also where it is pending.
        pending_too: bool,
    },
    /// Of the key's owner: closes a stream that was told to be unwatched and still is.
    CloseIdle { key: StreamKey, generation: Option<Generation> },
    /// Of the key's owner: lets a stream be that was told to be unwatched, whatever it would do without a
    /// word.
    KeepIdle { key: StreamKey, generation: Option<Generation> },
    /// Of the key's owner: sends those away who wait for a key that nobody brings, in this life of it.
    SendAway { key: StreamKey, generation: Option<Generation> },
    /// Of the key's owner: the hook can't be told of a missing stream, as it is told of too many. Who waits
    /// for one that origins are not asked for either is refused.
    TurnAway { key: StreamKey, generation: Option<Generation> },
    /// Of the key's owner: the hook that was told of a missing stream brings none itself.
    Demand { key: StreamKey, generation: Option<Generation> },
    /// Of each shard: the streams that are known to be missing; or of the owner of a key, that one.
    Absences { key: Option<StreamKey> },
    /// Of each shard, or of the owner of a key: forget that it is missing, or all of them.
    ForgetAbsences { key: Option<StreamKey> },
    /// Of each shard: the hosts that it pulls from.
    Origins,
    /// Of the key's owner: the stream of a key.
    Stream { key: StreamKey },
    /// Of the key's owner: when its source was silent.
    Gaps { key: StreamKey },
    /// Of each shard: the streams that it owns, a page at a time. A stream that lives from the first
    /// page to the last is in one of them.
    Streams {
        /// 0, then where the page before it ended.
        from: u32,
        registered_only: bool,
    },
    /// Of each shard: its players of a key.
    Players { key: StreamKey },
    /// Of each shard: its connections, load, counters and configuration; `net` answers it.
    Node(NodeAsk),
}

/// What concerns a shard's connections and not its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeAsk {
    Sessions,
    Metrics,
    Load,
    /// Use the node's newest configuration from now on.
    Configure,
    Kick {
        connection: ConnectionId,
    },
    /// What the kernel knows of a connection.
    Tcp {
        connection: ConnectionId,
    },
}

/// What a shard answers.
pub enum Answer {
    /// The pull delivers media, or is at work where it was not to be waited for.
    Added {
        state: StreamState,
        generation: Generation,
    },
    /// The first attempt failed and the pull was not to be kept.
    AddFailed(Fault),
    /// The key is taken; by what.
    Exists {
        state: StreamState,
        url: Option<Arc<SourceUrl>>,
        generation: Generation,
    },
    /// The pull was deleted, closed or replaced while the add was waiting for it.
    AddCancelled,
    /// There is no pull to be updated.
    NoSuchPull,
    /// A limit of this node.
    Overloaded(&'static str),
    /// `None`: there was no such pull.
    Deleted(Option<Closed>),
    Close(CloseOutcome),
    Stream(Option<Box<StreamView>>),
    Gaps(GapsView),
    Streams {
        page: Vec<StreamView>,
        /// Where the next page begins.
        next: Option<u32>,
    },
    /// The push is up, or is at work where it was not to be waited for.
    PushAdded {
        state: PushState,
        generation: Generation,
    },
    /// The stream that was to be pushed is not registered.
    NoSource,
    Push(Option<Box<PushView>>),
    Pushes {
        page: Vec<PushView>,
        /// The last of the page, where there may be more.
        next: Option<Generation>,
    },
    Players(Option<Vec<PlayerView>>),
    Sessions(Vec<SessionView>),
    Metrics(Vec<Metric>),
    Load(LoadView),
    Tcp(Option<TcpFacts>),
    /// The last events of a key, each a line of JSON, the oldest first; the keeper's.
    Recent(Vec<String>),
    /// Missing streams, and how many there are with those that are not shown.
    Absences(Vec<AbsenceView>, usize),
    Origins(Vec<OriginView>),
    /// So many.
    Forgotten(usize),
    /// Whether there was such a connection.
    Kicked(bool),
    /// Whether all that was acknowledged before is in the journal; it never crosses a core.
    Persisted(bool),
    /// What a look at an origin found; it never crosses a core.
    Probed(Box<ProbeView>),
    /// What the config file says now; it never crosses a core.
    Reread(Box<Result<Reread, ReloadError>>),
    Done,
}

/// What a close did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseOutcome {
    Closed(Closed),
    /// There is nothing under the key, or not of that generation.
    NotFound,
    /// It is pending, and pending ones were not to be closed.
    Pending(StreamState),
    /// It has players, and those were not to be disturbed.
    HasPlayers,
}

/// A finished close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    pub released: Released,
    /// Everything was confirmed within the bound.
    pub complete: bool,
}
