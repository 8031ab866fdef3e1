//! Every maximum, with the arithmetic behind it. Operators' limits are in `config.rs`; these are ours.

mod edge;

pub use edge::*;

/// Bytes of a stream key's parts (vhost, app, stream) together. Longest name seen in the field is
/// a 200-byte signed stream name; a key is also a file name in later exports, so it stays short.
pub const KEY_LEN_MAX: usize = 512;

/// Bytes of the query string that a player or publisher may send with a key.
pub const PARAMS_LEN_MAX: usize = 2048;

/// Bytes of one RTMP message or FLV tag. A 4K keyframe at 100 Mbit/s and 1 s GOP stays under 8 MiB;
/// FLV's own limit is 16 MiB - 1.
pub const MESSAGE_LEN_MAX: usize = 8 * 1024 * 1024;

/// Bytes of one AMF command or script message: `onMetaData` with a keyframe index of a one-hour
/// file is 40 KiB.
pub const SCRIPT_LEN_MAX: usize = 64 * 1024;

/// Nesting of AMF0 objects and arrays.
pub const AMF_DEPTH_MAX: usize = 16;

/// Values in one AMF0 message, counted over all levels.
pub const AMF_VALUES_MAX: usize = 8192;

/// Chunk streams that one RTMP connection may use at once. Encoders use under ten.
pub const CHUNK_STREAMS_MAX: usize = 64;

/// Largest chunk size that a peer may announce; the specification allows 31 bits, no message of
/// ours is larger than [`MESSAGE_LEN_MAX`].
pub const CHUNK_SIZE_MAX: u32 = 0x7fff_ffff;

/// Chunk size that we announce for what we send. Flash-era players take no more than 64 KiB.
pub const CHUNK_SIZE_OUT: usize = 65_536;

/// Bytes of a request head: line and headers.
pub const REQUEST_HEAD_LEN_MAX: usize = 16 * 1024;

/// Headers of one request or reply.
pub const HEADERS_MAX: usize = 64;

/// Bytes of an API request's body; ZLMediaKit's `http.maxReqSize` is 40,960.
pub const REQUEST_BODY_LEN_MAX: usize = 40_960;

/// Bytes of a WebSocket frame that a player may send us: only control frames and small texts.
pub const WEBSOCKET_FRAME_LEN_MAX: usize = 4096;

/// Redirects that a pull follows.
pub const REDIRECTS_MAX: usize = 5;

const _: () = assert!(SCRIPT_LEN_MAX < MESSAGE_LEN_MAX);
const _: () = assert!(MESSAGE_LEN_MAX < 1 << 24);

/// Bus messages under way between two shards, at most and at least. One tick of 1,000 streams with
/// players on the other shard is 1,000 of them. A queue takes its memory when it is made, 112 bytes
/// a message, and there are shards² of them: so each gets its part of [`BUS_MESSAGES_PER_SHARD`].
pub const BUS_QUEUE_MAX: usize = 4096;
pub const BUS_QUEUE_MIN: usize = 128;

/// Messages that the queues to one shard hold together: 1.8 MiB a shard, 115 MiB with 64 shards.
pub const BUS_MESSAGES_PER_SHARD: usize = 16_384;
// HTTP.

/// Bytes of a request line. RFC 9112 3 asks for 8,000; a key and its params are under 3 KiB.
pub const REQUEST_LINE_LEN_MAX: usize = 8 * 1024;

/// Bytes held of requests that came before the earlier one was answered: one more whole request.
pub const REQUEST_HELD_LEN_MAX: usize = REQUEST_HEAD_LEN_MAX + REQUEST_BODY_LEN_MAX;

/// Bytes of a reply's head, interim (1xx) replies before it included.
pub const REPLY_HEAD_LEN_MAX: usize = 16 * 1024;

/// Bytes of the line before an HTTP chunk: 16 hex digits and whatever extension a proxy adds.
pub const HTTP_CHUNK_LINE_LEN_MAX: usize = 256;

/// Bytes of the trailer section after the last HTTP chunk.
pub const HTTP_TRAILERS_LEN_MAX: usize = 4096;

const _: () = assert!(REQUEST_LINE_LEN_MAX < REQUEST_HEAD_LEN_MAX);
const _: () = assert!(KEY_LEN_MAX + PARAMS_LEN_MAX < REQUEST_LINE_LEN_MAX);
/// Entries of a media ring's submission queue: what one tick arms without a second system call.
pub const RING_SUBMISSIONS: u32 = 1024;

/// Entries of a media ring's completion queue, four times the submissions, so that a tick in which
/// every publisher of a full shard sends stays inside it (16 B each: 64 KiB).
pub const RING_COMPLETIONS: u32 = 4 * RING_SUBMISSIONS;

/// Receive buffers of a shard: 512 x 16 KiB = 8 MiB mapped, resident as far as used. At 1 Gbit/s
/// in, that is 64 ms without a tick.
pub const RECEIVE_BUFFERS: u16 = 512;

/// Bytes of a receive buffer. A 1 Mbit/s stream brings 5 KiB per frame; larger bursts take several.
pub const RECEIVE_BUFFER_LEN: u32 = 16 * 1024;

/// Sends that the egress ring takes at once; batches beyond are submitted in turns.
pub const EGRESS_CHUNK: u32 = 512;

/// Slices of one span of an egress batch, the kernel's `UIO_MAXIOV`.
pub const SPAN_SLICES_MAX: usize = 1024;

/// Threads that look names up: a hanging name server takes 5 s per try, and pulls of other origins
/// should not wait for it. Half of them leave names alone that were slow before.
pub const RESOLVER_THREADS: usize = 8;

/// Answers that may be awaited from the resolver: 10,000 pending pulls, and room for pushes.
pub const RESOLVER_WAITERS_MAX: usize = 16_384;

/// Names that the resolver remembers; 1024 x (253 B + 8 addresses x 20 B) stays under 512 KiB.
pub const RESOLVER_CACHE_MAX: usize = 1024;

/// Bytes of a host name (RFC 1035, section 2.3.4: 255 on the wire).
pub const HOST_LEN_MAX: usize = 253;

const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && RECEIVE_BUFFERS <= 1 << 15);
const _: () = assert!(RING_COMPLETIONS >= 2 * RING_SUBMISSIONS);
/// Bytes that a publisher may send between `publish` and our answer; they are kept until then. A
/// hook answers within a second or two, in which 4 Mbit/s are 1 MB.
pub const HELD_INPUT_LEN_MAX: usize = 1024 * 1024;

// API.

/// Questions that one API call has under way at the shards. A `close_streams` of 10,000 pending
/// pulls would else fill the bus queues of 4,096 and end all of them in one tick.
pub const API_ASKS_MAX: usize = 64;

/// Rows of a list that are rendered before the shard gets a turn: a row of `listStreamProxy` takes
/// 3.3 µs without optimization, so that 64 are about 0.2 ms.
pub const API_ROWS_PER_TURN: usize = 64;

/// Time that a pull may be given for one attempt or for silence: an hour.
pub const PULL_TIMEOUT_MS_MAX: u64 = 3_600_000;

const _: () = assert!(API_ASKS_MAX < BUS_QUEUE_MAX);

/// Streams that a shard describes to the API in one turn: at 2 µs each, 0.5 ms. 10,000 at once kept
/// the players of a live stream waiting for 20 ms.
pub const STREAMS_PER_PAGE: usize = 256;

/// Places in its table that a shard looks at for that: at a cache miss each, 0.4 ms.
pub const SLOTS_PER_PAGE: usize = 4096;

/// Bytes of protocol replies that a player may leave unread before it is evicted. Pings and
/// acknowledgements are under 20 bytes and answered one by one; a prelude may come on top.
pub const DETOUR_LEN_MAX: usize = 16 * 1024;

/// Descriptors for which the process's table has room from the start: 20,000 connections on each of
/// three shards. 8 B each: 512 KiB of kernel memory.
pub const DESCRIPTORS_AT_START_MAX: u64 = 65_536;

// Doctor.

/// Bytes that are read of a file of the host. The longest has a line of 150 bytes for each CPU
/// (`/proc/net/softnet_stat`): 150 KiB with 1,024.
pub const HOST_FILE_LEN_MAX: u64 = 256 * 1024;

/// Names that are read of a folder of the host, processes of `/proc` among them.
pub const HOST_ENTRIES_MAX: usize = 65_536;
// Ingest.

/// Tags of one source that are incomplete, or whole behind one that is. A keyframe of 500 KB at
/// 4 Mbit/s takes 1 s, in which 50 audio tags come between its chunks; 256 are 5 s of audio.
pub const DRAFTS_MAX: usize = 256;

/// Positions reserved for them in the log; memory follows the bytes that come. Two of the longest
/// tags, and room for the others between their chunks: 256 tags of 32 KiB.
pub const DRAFTS_LEN_MAX: u64 = 3 * MESSAGE_LEN_MAX as u64;

const _: () = assert!(DRAFTS_LEN_MAX >= 2 * MESSAGE_LEN_MAX as u64 + DRAFTS_MAX as u64 * 32 * 1024);
/// Bytes that a connection of the load generator holds for a server that does not read: 4 s of a
/// stream of 8 Mbit/s. A publisher beyond that is too late to mean anything.
pub const LOAD_BACKLOG_LEN_MAX: usize = 4 * 1024 * 1024;

/// Bytes that the load generator receives at once: 12 frames of 5 KB in each of its sockets'
/// turns, and a buffer for each thread, not for each connection.
pub const LOAD_RECEIVE_LEN: usize = 256 * 1024;

/// Bytes of a player's request that the bare sender of `load limit` reads; ours has 200.
pub const LOAD_REQUEST_LEN_MAX: usize = 4096;

/// Bytes that a UDP socket of the load generator's players may hold: a GOP of 10 s at 2 Mbit/s comes
/// as 1,800 datagrams at once, for each of which the kernel counts 2.3 KB. It doubles what it is told.
pub const LOAD_UDP_BUFFER_LEN: usize = 4 * 1024 * 1024;

/// Bytes of one answer of a server's API to the load generator: 20,000 pulls at 1 KB each, thrice.
pub const LOAD_REPLY_LEN_MAX: usize = 64 * 1024 * 1024;

/// Connections that fill the queue of a listener without one; Linux takes one or two.
pub const LOAD_BLACK_HOLE_MAX: usize = 64;

/// Calls to the API that the load generator has under way at once: a thread of 2 MiB address space
/// each. ZLMediaKit answers an add after 10 s when the origin is silent.
pub const LOAD_CALLS_AT_ONCE_MAX: usize = 512;

// Arena.

/// Chunks that a thread keeps for its next ones: 8 MiB, what 1,000 streams of 2 Mbit/s use up and
/// free in 30 ms.
pub const SPARE_CHUNKS_MAX: usize = 256;
// RTP and RTSP.

/// Sequence numbers that may be under way while a missing packet is waited for: at 20 Mbit/s in
/// packets of 1,200 bytes, 2,000 a second, that is a quarter of a second.
pub const REORDER_PACKETS_MAX: usize = 512;

/// Report blocks and sources of one RTCP packet: its count has five bits (RFC 3550, 6.4.1).
pub const RTCP_BLOCKS_MAX: usize = 31;

/// Bytes of an RTCP canonical name (RFC 3550, 6.5): its length has eight bits.
pub const CNAME_LEN_MAX: usize = 255;

/// Parameter sets of one kind that a track may have at once. Encoders use one, switching ones a few.
pub const PARAMETER_SETS_MAX: usize = 16;

/// Bytes of a parameter set: the longest in use, with scaling lists, are under 300.
pub const PARAMETER_SET_LEN_MAX: usize = 2048;

/// Bytes of the parameter sets that go before each keyframe where some players were told others, and of
/// those in band that descriptions tell: those of three kinds are under 900. A source of tiny keyframes
/// has players sent no more than this for each.
pub const REPEATED_SETS_LEN_MAX: usize = 2048;

/// Bytes of a frame that is put together from packets: with its FLV head it is still a message.
pub const FRAME_LEN_MAX: usize = MESSAGE_LEN_MAX - 64;

/// Pieces of such a frame: one a packet, and a length for each NAL unit. 8 MiB in packets of 1,200
/// bytes are 7,000; at 40 bytes each that is 640 KiB.
pub const FRAME_PIECES_MAX: usize = 16_384;

/// Bytes of an AAC frame with what surrounds it: six channels of 768 bytes are under 5 KiB.
pub const AUDIO_FRAME_LEN_MAX: usize = 64 * 1024;

/// Bytes of an RTP packet that we make, with its header: an Ethernet frame of 1,500 bytes without
/// the headers of IPv6 (40) and UDP (8), and room for a tunnel's.
pub const RTP_PACKET_LEN_OUT: usize = 1400;

/// Bytes of an RTSP head: line and headers. Digest credentials and long signed addresses included,
/// under 4 KiB are in use.
pub const RTSP_HEAD_LEN_MAX: usize = 16 * 1024;

/// Bytes of an RTSP body: a session description, under 4 KiB in use.
pub const RTSP_BODY_LEN_MAX: usize = 64 * 1024;

/// Alternatives of a `Transport` header; GStreamer sends three.
pub const TRANSPORTS_MAX: usize = 8;

/// Bytes of an RTSP session's name: RFC 2326, 3.4 asks for 8 at least; ZLMediaKit's has 12.
pub const SESSION_ID_LEN_MAX: usize = 256;

/// Lines of a session description.
pub const SDP_LINES_MAX: usize = 1024;

/// Media sections of a session description. A camera has three or four.
pub const SDP_MEDIA_MAX: usize = 16;

/// Challenges of one 401 that are looked at; servers send two or three.
pub const CHALLENGES_MAX: usize = 8;

/// Tracks of a stream that is published or played by RTSP. Encoders have two, cameras up to four; the
/// channels of eight are 0 to 15.
pub const RTSP_TRACKS_MAX: usize = 8;

/// Wrong credentials that one connection may try.
pub const RTSP_AUTH_ATTEMPTS_MAX: u32 = 5;

const _: () = assert!(RTSP_TRACKS_MAX <= SDP_MEDIA_MAX);

/// Datagrams that the kernel cuts out of one send: `UDP_MAX_SEGMENTS` of older kernels.
pub const DATAGRAMS_PER_SEND_MAX: usize = 64;

/// Bytes of one such send: what an IPv4 packet carries behind its header and UDP's.
pub const DATAGRAMS_LEN_MAX: u32 = 65_535 - 20 - 8;

/// Bytes of RTP that a player over UDP who is behind gets at once: a fifth of a socket's receive buffer
/// where nobody set it (212,992 bytes, of which each packet takes twice its length).
pub const CATCH_UP_LEN: u64 = 24 * 1024;

const _: () = assert!(DATAGRAMS_LEN_MAX as usize > RTP_PACKET_LEN_OUT);

// Bridge.

/// Frames that wait until it is known which tracks a stream has: half a second of 100 pictures and
/// 100 units of audio a second, five times over.
pub const BRIDGE_HELD_FRAMES_MAX: usize = 512;

/// Bytes of such frames: the longest keyframe. They are views of what the stream holds anyway.
pub const BRIDGE_HELD_LEN_MAX: usize = MESSAGE_LEN_MAX;

/// Milliseconds of media of one kind after which the other kind is taken to be absent.
pub const BRIDGE_WAIT_MS: i64 = 500;

// RTP over UDP.

/// Bytes that the kernel may hold of a track that we receive: 400 ms of 20 Mbit/s. The kernel cuts it to
/// `net.core.rmem_max`.
pub const UDP_RECEIVE_BUFFER_LEN: usize = 1024 * 1024;

/// Bytes that the kernel may hold of a track that we send: a burst of the largest keyframes in use, 500 KB.
/// The kernel cuts it to `net.core.wmem_max`.
pub const UDP_SEND_BUFFER_LEN: usize = 512 * 1024;

/// Bytes of the buffers of a track's reports, which are under 200 bytes and come every few seconds.
pub const UDP_REPORT_BUFFER_LEN: usize = 16 * 1024;

/// Pairs of ports that are tried for one track before there is none. Other processes rarely have ports in
/// our range; two system calls each.
pub const UDP_PORT_TRIES_MAX: usize = 64;

/// A datagram that fills a receive buffer may have been cut off: it is dropped. None that is in use is half
/// as long.
pub const DATAGRAM_LEN_MAX: usize = RECEIVE_BUFFER_LEN as usize - 1;
// Players over UDP.

/// Runs of packets whose memory a shard keeps for its next flush: a keyframe of 500 KB in packets of
/// 1,400 bytes is 8 runs, or 360 where the kernel does not cut them. At 64 packets each, 256 KiB.
pub const DATAGRAM_RUNS_KEPT_MAX: usize = 512;

/// Milliseconds of video without a keyframe after which a picture stands in for one. GOPs in use are
/// shorter; a camera's of 10 s is met by its own keyframe.
pub const KEYFRAME_WAIT_MS: i64 = 10_000;

/// Datagrams that are dropped when a socket is connected. The kernel counts 768 bytes at the least for each
/// (an `sk_buff` and its data), and holds twice [`UDP_RECEIVE_BUFFER_LEN`].
pub const DATAGRAMS_DROPPED_MAX: usize = 2 * UDP_RECEIVE_BUFFER_LEN / 768;

// Addresses of connections.

/// Time in which a full part of the table of addresses is looked through once at the most, while other
/// shards wait for it: not once for each connection of a flood.
pub const ADDRESS_SWEEP_MS: u64 = 100;

// Bridge, in slices.

/// Bytes of a source's log that a shard makes of the other form at once, for one stream that is behind a
/// turn: 1 ms, where a GOP of 16 MB took 9 to 25 ms.
pub const BRIDGE_SLICE_LEN: u64 = 1024 * 1024;

// Requests of RTSP in one piece.

/// Requests that a session reads in one receive, with what it kept before: a client asks for twice
/// [`RTSP_TRACKS_MAX`] tracks and a few things more. Their answers are at most 64 KiB each, so 4 MiB.
pub const RTSP_REQUESTS_AT_ONCE_MAX: u32 = 64;

/// Pairs of UDP sockets of one connection: one for each track, and as many that are being closed.
pub const UDP_PAIRS_PER_CONNECTION_MAX: usize = 2 * RTSP_TRACKS_MAX;

// Events of players that are not let in.

/// Refusals by rules and hooks that a shard tells in a second: [`EVENTS_KEPT`] are pushed out by them
/// in no less than two minutes.
pub const REFUSALS_TOLD_MAX: u32 = 100;

// What comes before a keyframe, over RTP.

/// Packets that are held of a picture of which nothing but a lead has come, while a keyframe is waited for:
/// a delimiter, messages, and a few parameter sets. Of 64 KiB each at most that is 1 MiB.
pub const LEAD_PACKETS_MAX: usize = 16;

/// Entries that a log without a GOP keeps because the next keyframe may begin there: the lead, and packets and
/// reports of other tracks that came between.
pub const LEAD_ENTRIES_KEPT: u64 = 2 * LEAD_PACKETS_MAX as u64;
