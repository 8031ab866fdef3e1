//! The append-only log of a stream: FLV tags, or RTP packets, one behind the other in an arena, and an
//! index.
//!
//! ```text
//! entry 7            entry 8                       entry 9
//! ┌────┬─────────┬──┐┌────┬───────────────────┬──┐┌────┬──────┬──┐
//! │head│ payload │sz││head│ payload           │sz││head│ ...  │sz│
//! └────┴─────────┴──┘└────┴───────────────────┴──┘└────┴──────┴──┘
//!  11              4  keyframe: the GOP starts here   ▲ flushed: players may have all before it
//! ```
//!
//! A packet lies there as RTSP interleaves it (RFC 2326, 10.12): `$`, channel, length, packet. Track n
//! has channel 2n, and 2n + 1 for its sender reports.
//!
//! The GOP cache is a position in the log, not a copy of it. Sequence numbers and positions only
//! grow, and are the same on the owner and on every replica. Where a tag was dropped while others
//! came in behind it there is a hole between two entries (`arena.rs`).

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::arena::Tape;
pub(super) use super::entry::PacketEntry;
pub use super::entry::{Delta, Entry, MediaKinds, Prelude, Snapshot};
use crate::limits::LEAD_ENTRIES_KEPT;
use crate::media::TagKind;
use crate::proto::rtsp::SessionDescription;
use crate::proto::rtsp::message::{INTERLEAVED_HEADER_LEN, interleaved_header};
use crate::ring::prefetch;

/// The log of one stream on one shard.
pub struct Log {
    tape: Tape,
    entries: VecDeque<Entry>,
    first_seq: u64,
    /// Where the newest keyframe begins, unless its GOP has outgrown its bound.
    gop_seq: Option<u64>,
    /// Entries from there to the one that is told to be the keyframe.
    gop_lead: u64,
    flushed_seq: u64,
    has_video: bool,
    has_audio: bool,
    /// Of the newest tag.
    timestamp_ms: u32,
    /// What is in force behind the last flushed tag.
    prelude: Arc<Prelude>,
    /// The same behind the last committed one.
    next_prelude: Arc<Prelude>,
    /// What was in force at the newest keyframe.
    gop_prelude: Arc<Prelude>,
    /// The tracks whose packets are here; none of a log of tags.
    description: Option<Arc<SessionDescription>>,
    /// GOPs given up because they outgrew their bound.
    gops_dropped: u64,
    /// Bytes of configurations copied out of the arena since they were asked for.
    config_bytes_copied: u64,
}

impl Default for Log {
    fn default() -> Self {
        // Thousands of pulls have nothing yet.
        let prelude = Arc::<Prelude>::default();
        Self {
            tape: Tape::default(),
            entries: VecDeque::new(),
            first_seq: 0,
            gop_seq: None,
            gop_lead: 0,
            flushed_seq: 0,
            has_video: false,
            has_audio: false,
            timestamp_ms: 0,
            next_prelude: prelude.clone(),
            gop_prelude: prelude.clone(),
            prelude,
            description: None,
            gops_dropped: 0,
            config_bytes_copied: 0,
        }
    }
}

impl Log {
    /// A log that starts where the owner's snapshot does; everything in it counts as flushed.
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        let mut log = Self {
            first_seq: snapshot.first_seq,
            flushed_seq: snapshot.first_seq + snapshot.entries.len() as u64,
            entries: snapshot.entries.into(),
            gop_seq: snapshot.gop_seq,
            gop_lead: snapshot.gop_lead,
            has_video: snapshot.has_video,
            has_audio: snapshot.has_audio,
            timestamp_ms: snapshot.timestamp_ms,
            next_prelude: snapshot.prelude.clone(),
            prelude: snapshot.prelude,
            gop_prelude: snapshot.gop_prelude,
            description: snapshot.description,
            ..Self::default()
        };
        log.tape.adopt(snapshot.chunk_first, snapshot.chunks, snapshot.committed);
        log
    }

    /// What a new replica starts from: the newest GOP as far as it is flushed, or what may come before
    /// the next one.
    pub fn snapshot(&self) -> Snapshot {
        let first_seq = self.needed_seq();
        let start = self.position_of(first_seq);
        let committed = self.position_of(self.flushed_seq);
        let (chunk_first, chunks) = self.tape.share(start);
        Snapshot {
            first_seq,
            entries: self.range(first_seq..self.flushed_seq).copied().collect(),
            gop_seq: self.gop_seq.filter(|&seq| seq + self.gop_lead < self.flushed_seq),
            gop_lead: self.gop_lead,
            has_video: self.has_video,
            has_audio: self.has_audio,
            timestamp_ms: self.timestamp_ms,
            chunk_first,
            chunks,
            committed,
            prelude: self.prelude.clone(),
            gop_prelude: self.gop_prelude.clone(),
            description: self.description.clone(),
        }
    }

    /// The flushed entries from `from_seq` on.
    pub fn delta(&self, from_seq: u64) -> Delta {
        let (chunk_first, chunks) = self.tape.share(self.position_of(from_seq));
        Delta {
            first_seq: from_seq,
            entries: self.range(from_seq..self.flushed_seq).copied().collect(),
            chunk_first,
            chunks,
            committed: self.position_of(self.flushed_seq),
            description: self.description.clone(),
        }
    }

    /// Takes over what the owner flushed. `false` when something is missing before it: then only a
    /// new snapshot helps.
    #[must_use]
    pub fn follow(&mut self, delta: Delta) -> bool {
        if delta.first_seq != self.next_seq() {
            return false;
        }
        self.tape.adopt(delta.chunk_first, delta.chunks, delta.committed);
        self.description = delta.description;
        for entry in delta.entries {
            self.index(entry);
        }
        self.flush();
        true
    }

    /// The arena, for whoever writes the stream's next tag.
    pub(super) fn tape_mut(&mut self) -> &mut Tape {
        &mut self.tape
    }

    /// Enters the tag in the tape's first open range.
    pub(super) fn commit(&mut self, entry: Entry) {
        self.tape.commit_first();
        debug_assert_eq!(entry.end(), self.tape.committed());
        self.index(entry);
    }

    /// Writes and enters a packet of `len` bytes in pieces, behind its interleaved header.
    ///
    /// # Panics
    /// When it is longer than an interleaved packet can be.
    pub(super) fn push_packet<'a>(
        &mut self,
        packet: PacketEntry,
        len: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Entry {
        let PacketEntry { channel, kind, timestamp_ms, keyframe, lead, is_report } = packet;
        let packet_len = u16::try_from(len).expect("callers look");
        let len = (INTERLEAVED_HEADER_LEN + len) as u32;
        let position = self.tape.reserve(u64::from(len));
        self.tape.append(0, &interleaved_header(channel, packet_len));
        for piece in pieces {
            self.tape.append(0, piece);
        }
        let config = is_report;
        let entry = Entry { position, len, timestamp_ms, kind, keyframe, config, channel, lead };
        self.commit(entry);
        entry
    }

    fn index(&mut self, entry: Entry) {
        if entry.config && entry.is_rtcp() {
            self.note_report(&entry);
        } else if entry.config {
            self.note_config(&entry);
        }
        match entry.kind {
            TagKind::Video => self.has_video = true,
            TagKind::Audio => self.has_audio = true,
            TagKind::Script => {}
        }
        if entry.keyframe {
            let begins = self.next_seq() - u64::from(entry.lead);
            self.gop_seq = Some(begins.max(self.first_seq));
            self.gop_lead = self.next_seq() - begins.max(self.first_seq);
            self.gop_prelude = self.next_prelude.clone();
        }
        self.timestamp_ms = entry.timestamp_ms;
        self.entries.push_back(entry);
    }

    /// Keeps a configuration that is not the one in force. It outlives its place in the arena, of
    /// which it would else hold a whole chunk: a copy of its own, on each shard.
    fn note_config(&mut self, entry: &Entry) {
        if self.latest_config(entry.kind).is_some_and(|old| self.holds(entry.payload(), old)) {
            return;
        }
        let slices = self.tape.slices(entry.payload());
        let payload: Bytes = slices.flat_map(|slice| slice.to_vec()).collect::<Vec<_>>().into();
        self.config_bytes_copied += payload.len() as u64;
        let mut tags = self.next_prelude.tags.clone();
        match tags.iter_mut().find(|(of, _)| *of == entry.kind) {
            Some((_, old)) => *old = payload,
            None => tags.push((entry.kind, payload)),
        }
        let version = self.next_prelude.version + 1;
        self.next_prelude = Arc::new(Prelude { version, tags, reports: Vec::new() });
    }

    /// Keeps the latest report of a track, for players to come.
    fn note_report(&mut self, entry: &Entry) {
        let report = self.tape.bytes(entry.position..entry.end());
        let report = Bytes::copy_from_slice(&report);
        self.config_bytes_copied += report.len() as u64;
        let mut reports = self.next_prelude.reports.clone();
        match reports.iter_mut().find(|(of, _)| *of == entry.channel) {
            Some((_, old)) => *old = report,
            None => reports.push((entry.channel, report)),
        }
        let version = self.next_prelude.version + 1;
        self.next_prelude = Arc::new(Prelude { version, tags: Vec::new(), reports });
    }

    /// The tracks whose packets are here.
    pub fn description(&self) -> Option<&Arc<SessionDescription>> {
        self.description.as_ref()
    }

    /// The tracks to come are others: nobody waits for a keyframe of video that may not come, and what
    /// was to be told of the old ones is void.
    pub(super) fn forget_tracks(&mut self) {
        (self.has_video, self.has_audio) = (false, false);
        self.gop_seq = None;
        let version = self.next_prelude.version + 1;
        self.next_prelude = Arc::new(Prelude { version, ..Prelude::default() });
        self.gop_prelude = self.next_prelude.clone();
    }

    /// The source says that it has video: who comes waits for a keyframe, whatever comes before.
    pub(super) fn expect_video(&mut self) {
        self.has_video = true;
    }

    /// The next source has no video: nobody waits for a keyframe, and gets its configuration.
    pub(super) fn forget_video(&mut self) {
        self.has_video = false;
        self.gop_seq = None;
        let mut prelude = Prelude::clone(&self.next_prelude);
        prelude.version += 1;
        prelude.tags.retain(|(kind, _)| *kind != TagKind::Video);
        self.next_prelude = Arc::new(prelude);
    }

    pub(super) fn set_description(&mut self, description: Arc<SessionDescription>) {
        self.description = Some(description);
    }

    /// Whether the bytes at these positions are the same as those.
    fn holds(&self, positions: Range<u64>, mut bytes: &[u8]) -> bool {
        positions.end - positions.start == bytes.len() as u64
            && self.tape.slices(positions).all(|slice| {
                let (head, rest) = bytes.split_at(slice.len());
                bytes = rest;
                *slice == *head
            })
    }

    /// The payload of the last committed configuration of a kind.
    pub(super) fn latest_config(&self, kind: TagKind) -> Option<&Bytes> {
        let mut tags = self.next_prelude.tags.iter();
        tags.find(|(of, _)| *of == kind).map(|(_, payload)| payload)
    }

    /// Takes the count of configuration bytes copied since the last call.
    pub fn take_config_bytes_copied(&mut self) -> u64 {
        std::mem::take(&mut self.config_bytes_copied)
    }

    /// Lets players have everything that is committed.
    pub fn flush(&mut self) {
        self.flushed_seq = self.next_seq();
        if !Arc::ptr_eq(&self.prelude, &self.next_prelude) {
            self.prelude = self.next_prelude.clone();
        }
    }

    /// Makes the next player wait for the next keyframe: what is held belongs to a lost source.
    pub fn forget_gop(&mut self) {
        self.gop_seq = None;
    }

    /// Drops what nobody needs: tags before the newest GOP and before the `slowest` cursor. A GOP
    /// larger than `gop_bytes_max` is given up; new players then wait for the next keyframe, or what
    /// stands in for it. Holes count, so that they are bounded as well.
    pub fn trim(&mut self, slowest: Option<u64>, gop_bytes_max: u64) {
        if let Some(gop) = self.gop_seq
            && self.tape.committed() - self.position_of(gop) > gop_bytes_max
        {
            self.gop_seq = None;
            self.gops_dropped += 1;
        }
        let mut keep = self.needed_seq();
        if let Some(slowest) = slowest {
            keep = keep.min(slowest);
        }
        while self.first_seq < keep && self.entries.pop_front().is_some() {
            self.first_seq += 1;
        }
        let position = self.position_of(self.first_seq);
        self.tape.trim(position);
    }

    /// From where on players to come may need it: the newest keyframe, or where one begins whose own
    /// packets have not come. Of tags none comes before a keyframe's.
    fn needed_seq(&self) -> u64 {
        let lead = if self.description.is_some() { LEAD_ENTRIES_KEPT } else { 0 };
        let lead_seq = self.flushed_seq.saturating_sub(lead).max(self.first_seq);
        self.gop_seq.unwrap_or(lead_seq).min(self.flushed_seq)
    }

    /// Where a new player starts: the newest keyframe, or behind the last flushed tag.
    pub fn start_seq(&self) -> u64 {
        self.gop_seq.unwrap_or(self.flushed_seq).min(self.flushed_seq)
    }

    /// Whether a new player must wait for a keyframe that has not come yet.
    pub fn awaits_keyframe(&self) -> bool {
        let is_held = |seq| seq + self.gop_lead < self.flushed_seq;
        self.has_video && !self.gop_seq.is_some_and(is_held)
    }

    /// Where a player that lacks something before `seq` can go on: the newest keyframe at or behind
    /// it, if that is flushed, from its beginning on, which may be before `seq`; without video, behind
    /// the last flushed tag.
    pub fn resume_from(&self, seq: u64) -> Option<u64> {
        if !self.has_video {
            return Some(self.flushed_seq);
        }
        self.gop_seq.filter(|&gop| {
            let keyframe = gop + self.gop_lead;
            keyframe >= seq && keyframe < self.flushed_seq
        })
    }

    /// The prelude for a player that starts at [`Self::start_seq`].
    pub fn prelude_at_start(&self) -> &Arc<Prelude> {
        if self.gop_seq.is_some_and(|seq| seq + self.gop_lead < self.flushed_seq) {
            &self.gop_prelude
        } else {
            &self.prelude
        }
    }

    /// The prelude as the newest flushed configuration made it.
    pub fn prelude(&self) -> &Arc<Prelude> {
        &self.prelude
    }

    pub fn has_video(&self) -> bool {
        self.has_video
    }

    /// The kinds of media that have come so far.
    pub fn kinds(&self) -> MediaKinds {
        MediaKinds { video: self.has_video, audio: self.has_audio }
    }

    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.entries.len() as u64
    }

    pub fn flushed_seq(&self) -> u64 {
        self.flushed_seq
    }

    pub fn gops_dropped(&self) -> u64 {
        self.gops_dropped
    }

    pub fn entry(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(seq.checked_sub(self.first_seq)? as usize)
    }

    /// The timestamp of a tag, or of the newest one where it has not come yet.
    pub fn timestamp_at(&self, seq: u64) -> u32 {
        self.entry(seq).map_or(self.timestamp_ms, |entry| entry.timestamp_ms)
    }

    pub fn range(&self, seqs: Range<u64>) -> impl Iterator<Item = &Entry> {
        let start = (seqs.start - self.first_seq) as usize;
        let end = (seqs.end - self.first_seq) as usize;
        self.entries.range(start..end)
    }

    /// The position where the tag of a sequence number begins, or would if no hole came before it.
    pub fn position_of(&self, seq: u64) -> u64 {
        match self.entry(seq) {
            Some(entry) => entry.position,
            None => self.entries.back().map_or_else(|| self.tape.committed(), Entry::end),
        }
    }

    pub fn slices(&self, positions: Range<u64>) -> impl Iterator<Item = IoSlice<'_>> {
        self.tape.slices(positions)
    }

    /// Bytes at positions that may outlive their place in the log: a view, or a copy where they lie
    /// in more than one chunk.
    pub fn bytes(&self, positions: Range<u64>) -> Bytes {
        self.tape.bytes(positions)
    }

    /// As [`Self::bytes`], a view for each chunk.
    pub fn views(&self, positions: Range<u64>) -> impl Iterator<Item = Bytes> {
        self.tape.views(positions)
    }

    /// A log of one tag only, by reference: what is left of this one when the tag is cut out.
    ///
    /// # Panics
    /// When the tag is not held.
    pub fn single(&self, seq: u64) -> Self {
        let entry = *self.entry(seq).expect("the tag is held");
        let (chunk_first, chunks) = self.tape.share_range(entry.position..entry.end());
        let mut log = Self { first_seq: seq, flushed_seq: seq + 1, ..Self::default() };
        log.tape.adopt(chunk_first, chunks, entry.end());
        log.entries.push_back(entry);
        log
    }

    /// Has the CPU fetch what the next `len` bytes need, `depth` pointers from here.
    pub(super) fn prefetch(&self, depth: u32, len: usize) {
        if depth == 1 {
            self.entries.front().into_iter().chain(self.entries.back()).for_each(prefetch);
            prefetch(&*self.next_prelude);
        }
        self.tape.prefetch(depth, len);
    }

    /// Bytes of memory held for media.
    pub fn held_bytes(&self) -> u64 {
        self.tape.held_bytes()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A packet of so many bytes.
    pub(crate) fn push(log: &mut Log, channel: u8, kind: TagKind, keyframe: bool, len: usize) {
        let packet = PacketEntry {
            channel,
            kind,
            timestamp_ms: 0,
            keyframe,
            lead: 0,
            is_report: channel % 2 == 1,
        };
        log.push_packet(packet, len, [&vec![channel; len][..]]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{VIDEO_CONFIG, Writer, payload_of};
    use super::*;
    use crate::media::MediaPart;
    use crate::stream::arena::CHUNK_LEN;

    fn flushed(mut writer: Writer) -> Writer {
        writer.log.flush();
        writer
    }

    /// Configurations at 0 to 2, a keyframe at 3 and one at 6.
    fn two_gops() -> Writer {
        let mut writer = Writer::opened();
        for gop in 0..2 {
            writer.keyframe(gop * 80, 500);
            writer.audio(gop * 80 + 20, 50);
            writer.frame(gop * 80 + 40, 100);
        }
        writer
    }

    #[test]
    fn a_new_player_starts_at_the_newest_flushed_keyframe() {
        let mut writer = two_gops();
        assert!(writer.log.awaits_keyframe(), "nothing is flushed");
        writer.log.flush();
        assert_eq!(writer.log.start_seq(), 6);
        writer.keyframe(160, 500);
        assert!(writer.log.awaits_keyframe(), "the newest keyframe is not flushed");
        assert_eq!(writer.log.resume_from(0), None);
        writer.log.flush();
        assert_eq!((writer.log.start_seq(), writer.log.resume_from(9)), (9, Some(9)));
        assert_eq!(writer.log.resume_from(10), None);
    }

    #[test]
    fn without_video_a_player_starts_behind_the_last_flushed_tag() {
        let mut writer = Writer::default();
        writer.audio(0, 50);
        writer.log.flush();
        writer.audio(20, 50);
        assert!(!writer.log.awaits_keyframe());
        assert_eq!((writer.log.start_seq(), writer.log.resume_from(0)), (1, Some(1)));
        assert_eq!(writer.log.timestamp_at(2), 20);
    }

    #[test]
    fn trimming_keeps_the_gop_and_what_the_slowest_needs() {
        let mut writer = flushed(two_gops());
        writer.log.trim(Some(4), u64::MAX);
        assert_eq!(writer.log.first_seq(), 4);
        writer.log.trim(None, u64::MAX);
        assert_eq!((writer.log.first_seq(), writer.log.next_seq()), (6, 9));
        assert_eq!(payload_of(&writer.log, 6).len(), 500);
    }

    #[test]
    fn a_gop_over_its_bound_is_given_up() {
        let mut writer = flushed(two_gops());
        writer.log.trim(None, 300);
        assert_eq!((writer.log.first_seq(), writer.log.gops_dropped()), (9, 1));
        assert!(writer.log.awaits_keyframe());
        assert!(writer.log.entry(8).is_none());
    }

    #[test]
    fn what_is_not_flushed_is_not_trimmed() {
        let mut writer = flushed(Writer::opened());
        writer.audio(0, 50);
        writer.log.trim(None, u64::MAX);
        assert_eq!(writer.log.first_seq(), 3);
        assert_eq!(payload_of(&writer.log, 3).len(), 50);
    }

    #[test]
    fn a_replica_follows_its_owner_byte_by_byte() {
        let mut writer = flushed(two_gops());
        let mut replica = Log::from_snapshot(writer.log.snapshot());
        let mut sent = writer.log.flushed_seq();
        for round in 2..40 {
            if round % 5 == 0 {
                writer.keyframe(round * 80, 30_000);
            }
            writer.frame(round * 80 + 40, 7_000);
            writer.log.flush();
            assert!(replica.follow(writer.log.delta(sent)));
            sent = writer.log.flushed_seq();
            writer.log.trim(None, u64::MAX);
            replica.trim(None, u64::MAX);
            assert_eq!(replica.start_seq(), writer.log.start_seq());
            for seq in replica.first_seq()..replica.next_seq() {
                assert_eq!(replica.entry(seq), writer.log.entry(seq));
                assert_eq!(payload_of(&replica, seq), payload_of(&writer.log, seq));
            }
        }
    }

    /// Each round leaves a hole of another length, some longer than a chunk.
    #[test]
    fn a_replica_follows_its_owner_over_holes() {
        let mut writer = flushed(two_gops());
        let mut replica = Log::from_snapshot(writer.log.snapshot());
        let mut sent = writer.log.flushed_seq();
        for round in 2..40 {
            if round % 5 == 0 {
                writer.keyframe(round * 80, 30_000);
                writer.log.flush();
            }
            writer.begin(1, TagKind::Video, round * 80, round as usize * 3_000);
            writer.data(1, &[0x27; 2000]);
            writer.begin(2, TagKind::Audio, round * 80, 700);
            writer.part(MediaPart::Abort { lane: 1 });
            writer.data(2, &[0xaf; 700]);
            if round % 3 != 0 {
                writer.log.flush();
                assert!(replica.follow(writer.log.delta(sent)));
                sent = writer.log.flushed_seq();
                let mut late = Log::from_snapshot(writer.log.snapshot());
                late.trim(None, u64::MAX);
                writer.log.trim(None, u64::MAX);
                replica.trim(None, u64::MAX);
                assert_eq!(late.next_seq(), replica.next_seq());
                assert_eq!(late.first_seq(), replica.first_seq());
            }
            for seq in replica.first_seq()..replica.next_seq() {
                assert_eq!(replica.entry(seq), writer.log.entry(seq));
                assert_eq!(payload_of(&replica, seq), payload_of(&writer.log, seq));
            }
        }
        // A keyframe and five tags, each in two chunks at most; the holes are 555,000 long.
        assert!(replica.held_bytes() <= 12 * CHUNK_LEN as u64, "a hole has no memory");
    }

    #[test]
    fn a_replica_takes_no_delta_behind_a_gap() {
        let mut writer = flushed(two_gops());
        let mut replica = Log::from_snapshot(writer.log.snapshot());
        writer.audio(200, 10);
        writer.log.flush();
        let lost = writer.log.delta(9);
        writer.audio(220, 10);
        writer.log.flush();
        assert!(!replica.follow(writer.log.delta(10)));
        assert_eq!(replica.next_seq(), 9);
        assert!(replica.follow(lost));
    }

    #[test]
    fn the_prelude_is_the_one_of_the_place() {
        let mut writer = flushed(two_gops());
        let of_gop = writer.log.prelude_at_start().clone();
        assert_eq!(of_gop.tags.len(), 3);
        let mut changed = VIDEO_CONFIG.to_vec();
        changed.push(9);
        writer.tag(TagKind::Video, 160, &changed);
        assert_eq!(**writer.log.prelude(), *of_gop, "not flushed yet");
        writer.log.flush();
        assert_ne!(writer.log.prelude().version, of_gop.version);
        assert_eq!(writer.log.prelude_at_start().version, of_gop.version);
        writer.keyframe(160, 10);
        writer.log.flush();
        assert_eq!(writer.log.prelude_at_start().tags[1].1, changed);
    }

    #[test]
    fn a_configuration_that_repeats_is_no_new_one() {
        let mut writer = flushed(Writer::opened());
        let version = writer.log.prelude().version;
        let copied = writer.ingest.bytes().config_copied;
        writer.tag(TagKind::Video, 40, VIDEO_CONFIG);
        writer.log.flush();
        assert_eq!(writer.log.prelude().version, version);
        assert_eq!(writer.ingest.bytes().config_copied, copied);
    }

    #[test]
    fn one_tag_outlives_the_log_that_it_was_cut_from() {
        let mut writer = flushed(two_gops());
        let single = writer.log.single(3);
        writer.log.trim(None, 0);
        assert_eq!((single.first_seq(), single.flushed_seq()), (3, 4));
        assert_eq!(payload_of(&single, 3).len(), 500);
    }
}
