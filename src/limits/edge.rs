//! Maxima of what a node does between origins and players: its journal, who may, what it tells, where it
//! pulls from and pushes to.

use super::*;

// Journal.

/// Bytes of a record's content: a key, 8 URLs and a login are 18.5 KiB, and six times that where all
/// of them are control characters, which JSON has as `\u0001`.
pub const JOURNAL_RECORD_LEN_MAX: usize = 128 * 1024;

/// Bytes of a journal that are of no use any longer before it is written anew, if it is short: 5,000
/// adds and removes, read in 10 ms at a start.
pub const JOURNAL_WASTE_LEN_MAX: usize = 1024 * 1024;

/// Records that are written with one sync. Most have 300 bytes, the longest 17 KiB without what JSON
/// escapes: 18 MiB at most.
pub const JOURNAL_BATCH_MAX: usize = 1024;

/// Records that wait to be written before adds are refused: one each of 1,000 added a second for a
/// minute in which the disk stands still.
pub const JOURNAL_QUEUE_MAX: usize = 65_536;

/// Pulls that a shard begins in a second after a restart, as far as their origins' budgets let it.
pub const RESTORES_PER_SECOND: u32 = 2_000;

// Access.

/// Parts of the table of addresses, each with a lock of its own: with 64 shards that let a thousand
/// connections in a second each, for 100 ns, one in 10,000 meets another.
pub const ADDRESS_STRIPES: usize = 64;

/// Addresses of one part whose connections and joins are counted: 64 B each, 4 MiB in all.
pub const ADDRESSES_PER_STRIPE_MAX: usize = 1024;

// Probes.

/// Looks at origins that are under way at once: a thread and a GOP of 16 MiB at most each.
pub const PROBES_MAX: usize = 8;

/// Time that a look may be given.
pub const PROBE_TIMEOUT_MS_MAX: u64 = 60_000;
// Events.

/// Events that the shards have told and the keeper has not taken: 3,000 players that leave at once
/// are 3,000. At some 300 bytes each, 5 MiB.
pub const EVENTS_UNDER_WAY_MAX: usize = 16_384;

/// Events that wait on a shard for room under way, where the next is dropped that is of a player: 5 MiB.
pub const PLAYER_EVENTS_WAITING_MAX: usize = 16_384;

/// The same for one of a stream: three times as many as a shard has pending by default may change at once,
/// at a start or a shut-down. With what `registered` tells some 600 bytes each, 40 MiB.
pub const STREAM_EVENTS_WAITING_MAX: usize = 65_536;

/// Events that the log keeps, for followers that come back: with 10 a second half an hour.
pub const EVENTS_KEPT: usize = 16_384;

/// Bytes of text of those. 512 each; most are 300, with the longest URL 3 KiB.
pub const EVENTS_KEPT_LEN_MAX: usize = 8 * 1024 * 1024;

/// Bytes that wait for a follower's shard to take them, and as many again for its socket: a replay
/// of all that is kept, and as much that happens meanwhile.
pub const FOLLOWER_QUEUE_LEN_MAX: usize = 2 * EVENTS_KEPT_LEN_MAX;

/// Connections that follow the event log at once, on each shard.
pub const FOLLOWERS_MAX: usize = 64;

// Web hooks.

/// Calls at once of a server that hooks tell something: one after the other for a stream, so that
/// this many streams change side by side.
pub const HOOK_POSTS_MAX: usize = 8;

/// Calls at once of all servers that hooks tell something, a thread each, beside those about absent streams:
/// there are eight such hooks, and of two of them a call goes beside the slots of its server. Those of servers that had a URL before
/// count too.
pub const HOOK_POSTS_ALL_MAX: usize = 8 * HOOK_POSTS_MAX + 2;

/// Calls at once of a hook whose answer somebody waits for, that the operator may ask for: a thread with 256 KiB
/// of address space and a connection each. With the default of 128 a server that thinks for 100 ms answers 1,280
/// players a second, 5,000 within 4 s.
pub const HOOK_QUESTIONS_MAX: usize = 1024;

/// Times those, of each of the two: what is under way at the server that a hook had before counts too.
pub const HOOK_SERVERS_MAX: usize = 2;

/// Players and publishers that wait for an answer of a hook; those beyond are treated as without one.
pub const HOOK_WAITERS_MAX: usize = 20_000;

/// Calls about absent streams that wait to be told, where the operator allows as many: each has players that
/// wait. Some 1.5 KiB each, 30 MiB.
pub const HOOK_ABSENT_WAITING_MAX: usize = HOOK_WAITERS_MAX;

/// Answers of hooks that are remembered: who may, some 150 B each, 10 MiB.
pub const HOOK_ALLOWED_KEPT_MAX: usize = 65_536;

/// The same of who may not, with a text of up to [`HOOK_TEXT_LEN_MAX`] each, 8 MiB. Anybody can cause such.
pub const HOOK_DENIED_KEPT_MAX: usize = 8_192;

/// Bytes that a peer is told of why a hook does not let it.
pub const HOOK_TEXT_LEN_MAX: usize = 1024;

/// Time for which a thread that calls hooks, and its connection, are kept without work: what a crowd needed
/// does not stay, and servers close connections after 5 s to 75 s themselves.
pub const HOOK_THREAD_IDLE: std::time::Duration = std::time::Duration::from_secs(20);

/// Bytes of the reply of a hook. ZLMediaKit's longest has some 30 options.
pub const HOOK_REPLY_LEN_MAX: usize = 64 * 1024;

/// Events of one stream that `why` shows.
pub const RECENT_EVENTS_MAX: usize = 50;

// Sources of a pull.

/// URLs of one pull, of [`SOURCE_URL_LEN_MAX`] bytes each.
pub const SOURCES_MAX: usize = 8;

/// Configurations that are held of a source that has not taken over yet: metadata and one of each
/// track, some times.
pub const HELD_CONFIGS_MAX: usize = 8;

/// Bytes of each of those, 512 KiB of a source: parameter sets have some 100, metadata some 1,000.
pub const HELD_CONFIG_LEN_MAX: usize = 64 * 1024;

/// Bytes of its first keyframe that are held until that is whole: 200 KB is one of 1080p at 8 Mbit/s.
/// A larger one takes over with its beginning.
pub const HELD_START_LEN_MAX: usize = 512 * 1024;

/// What a part that is held counts for beside its bytes.
pub const HELD_PART_COST: usize = 64;

/// Time from a source's first media to its first keyframe, or what stands in for it, after which it is
/// given up: [`KEYFRAME_WAIT_MS`] and two seconds.
pub const KEYFRAME_PATIENCE: std::time::Duration =
    std::time::Duration::from_millis(KEYFRAME_WAIT_MS as u64 + 2_000);

// Pushes.

/// Pushes of one stream: each is a player of it, and is looked for among the others by its URL.
pub const PUSHES_PER_STREAM_MAX: usize = 64;

/// Pushes of a shard: some 600 bytes with its URL each, 6 MiB.
pub const PUSHES_PER_SHARD_MAX: usize = 10_000;

/// Pushes that a shard tells of in one answer, at some 300 bytes each.
pub const PUSHES_PER_PAGE: usize = 256;

// Reading.

/// Bytes from which on a source's socket is read whatever it waits for: a receive buffer. A
/// connection begins with room for eight (`tcp_rmem`).
pub const READ_MARK_MAX: usize = RECEIVE_BUFFER_LEN as usize;

// Origins.

/// Origins of the config; each is looked at for each absent key.
pub const ORIGINS_MAX: usize = 64;

/// Bytes of a pattern of names.
pub const PATTERN_LEN_MAX: usize = 256;

/// Bytes of the list of nodes that a request has come through: 16 names of 60 bytes.
pub const HOPS_LEN_MAX: usize = 1024;

/// Missing streams that a shard remembers: under 1 KiB each with a long name and text, 8 MiB.
pub const ABSENCES_MAX: usize = 8192;

/// Of those, how many a shard shows at once.
pub const ABSENCES_SHOWN_MAX: usize = 512;

/// Bytes that are remembered of why a stream is missing.
pub const ABSENCE_TEXT_LEN_MAX: usize = 256;

// Idle close.

/// Longest time that a pull may be given to be without players: a day, as of all times in the config.
pub const IDLE_CLOSE_MS_MAX: u64 = 86_400_000;

// Explanations.

/// Time without media of a source that is called a gap: longer than a frame of two a second takes.
pub const SOURCE_GAP_MS_MIN: u64 = 1_000;

/// Gaps of a stream that are kept: 24 B each, and nothing of a stream without any.
pub const SOURCE_GAPS_KEPT: usize = 16;

// Logins.

/// Bytes of a URL of a pull or push.
pub const SOURCE_URL_LEN_MAX: usize = 2048;

/// Bytes of a user, and of a password, that is given beside a URL: cameras take 32, a token as a
/// password has up to 1,000.
pub const LOGIN_LEN_MAX: usize = 1024;

const _: () = assert!(
    6 * (KEY_LEN_MAX + SOURCES_MAX * SOURCE_URL_LEN_MAX + 2 * LOGIN_LEN_MAX) + 1024
        < JOURNAL_RECORD_LEN_MAX
);

// Health of origins.

/// Tries in a row that an origin has not answered after which its equals are asked before it: one can be
/// chance, and each costs a stream's first player up to the origin's `timeout_ms`.
pub const AVOIDED_AFTER: u32 = 3;

/// Hosts that a shard remembers with nothing under way, beside those of the config: under 1 KiB each with
/// its last error, 1 MiB.
pub const IDLE_HOSTS_MAX: usize = 1024;

/// Bytes that are remembered of why a try at a host failed.
pub const HOST_TEXT_LEN_MAX: usize = 256;

/// Hosts that a shard shows at once: those of the config (`ORIGINS_MAX`, and as many of ZLMediaKit's list),
/// and as many others as fit.
pub const ORIGINS_SHOWN_MAX: usize = 512;
const _: () = assert!(ORIGINS_SHOWN_MAX >= 2 * ORIGINS_MAX);

// Streams that nobody plays.

/// Of those whose time is over, how many a shard tells of in one turn, between which media goes out: each is
/// a line of the event log and at most one close.
pub const IDLE_TOLD_PER_TURN: usize = 64;

/// Times `hook.timeout_ms` after which a hook's word on a stream that nobody plays is awaited no more: it
/// may miss two calls.
pub const HOOK_ANSWER_TIMEOUTS: u32 = 3;

// Tries at origins.

/// Addresses of a stream's waiters on a shard, in one form, whose shares of the pending pulls are looked at
/// before all who wait are refused. A word of each goes to the owner with each count: 128 bytes and two
/// texts that are shared.
pub const ASKINGS_MAX: usize = 16;

/// Time below which a try is not made that could have had more: a lost packet is sent again after 1 s, so that
/// its end would say nothing of the origin.
pub const TRY_TIME_MIN: std::time::Duration = std::time::Duration::from_secs(1);

// Addresses of one host.

/// What an address may take to answer a connect when others of its host are left: the kernel asks a second
/// time after 1 s, so that one lost packet is no reason to leave it.
pub const CONNECT_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(2);

// Calls of hooks that are refused.

/// Times that a call is told which its server refuses each time (404, a redirect): some 40 s with the waits
/// between, in which a server may be replaced. What is told of the same stream waits meanwhile.
pub const HOOK_REFUSALS_MAX: u32 = 12;

/// Times that a call is told at which its server fails (500): ten minutes with 5 s between. One at which it
/// fails each time by its own fault is not to keep back for ever what else is told of its stream.
pub const HOOK_FAILURES_MAX: u32 = 120;

// Calls of hooks that are not answered.

/// Of the calls at once of a server, those of streams whose last call it did not take: the others keep as
/// many for themselves, however many such streams there are.
pub const HOOK_POSTS_AGAIN_MAX: usize = HOOK_POSTS_MAX / 2;
const _: () = assert!(0 < HOOK_POSTS_AGAIN_MAX && HOOK_POSTS_AGAIN_MAX < HOOK_POSTS_MAX);
