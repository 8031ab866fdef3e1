//! The form of a stream that its source does not bring: a reader of the source's log that writes
//! another one.

mod packets;

use std::time::Duration;

use self::packets::Packets;
use super::ingest::Ingest;
use super::log::Log;
use super::tracks::Tracks;
use super::trail::Trail;
use crate::bridge::{BridgeCounts, FlvTag, InPacket, ToFlv, ToRtp};
use crate::media::{Codec, Form};
use crate::proto::rtp::{Gap, RtpPacket, TrackKind};
use crate::proto::rtsp::SessionDescription;

/// One stream in the form that is made of the other.
pub(super) struct Bridged {
    log: Log,
    /// Where it began in the source's log.
    begin_seq: u64,
    /// What was read of the source's log.
    next_seq: u64,
    direction: Direction,
    is_ready: bool,
    /// Another source has taken over since it was made.
    source_changed: bool,
}

enum Direction {
    ToFlv(Box<Tags>),
    ToRtp(Box<Packets>),
}

/// Tags made of packets.
#[derive(Default)]
struct Tags {
    converter: Option<ToFlv>,
    ingest: Ingest,
    /// The sequence number after that of the last packet, by track; unknown after a change.
    due: Vec<Option<u16>>,
    /// The sequence number in the log from which on the track's source has begun anew.
    restarts: Vec<Option<u64>>,
    /// Of converters for tracks that the source had before.
    counts: BridgeCounts,
}

impl Bridged {
    /// Begins at the newest keyframe of the source's log, of which these tracks are known. `seed` is random;
    /// the wall clock is in seconds since 1970.
    pub(super) fn new(
        form: Form,
        (source, tracks): (&Log, &Tracks),
        seed: u64,
        now_unix: u64,
    ) -> Self {
        let direction = match form {
            Form::Flv => Direction::ToFlv(Box::new(Tags::new(source))),
            Form::Rtp => Direction::ToRtp(Box::new(Packets::new((source, tracks), seed, now_unix))),
        };
        let begin_seq = source.start_seq();
        Self {
            log: Log::default(),
            begin_seq,
            next_seq: begin_seq,
            direction,
            is_ready: false,
            source_changed: false,
        }
    }

    /// Tags that a source brought until now, and that are to be made of another one's packets, which begin
    /// at `next_seq`: players go on, though no packet has come.
    pub(super) fn of_tags(mut log: Log, mut ingest: Ingest, next_seq: u64) -> Self {
        ingest.change_source(&mut log);
        ingest.count_anew();
        let tags = Tags { ingest, ..Tags::default() };
        Self {
            log,
            begin_seq: next_seq,
            next_seq,
            direction: Direction::ToFlv(Box::new(tags)),
            is_ready: true,
            source_changed: true,
        }
    }

    /// Packets that a source brought until now, or something else wrote, and that are to be made of another
    /// one's tags: those begin at `next_seq` and behind a time. `None` where tags can't be made what players
    /// were told.
    pub(super) fn of_packets(
        mut log: Log,
        trail: &Trail,
        (next_seq, behind_ms): (u64, u32),
        silence: Duration,
    ) -> Option<Self> {
        let packets = Packets::behind(log.description()?, trail, behind_ms, silence)?;
        log.forget_gop();
        Some(Self {
            log,
            begin_seq: next_seq,
            next_seq,
            direction: Direction::ToRtp(Box::new(packets)),
            is_ready: true,
            source_changed: true,
        })
    }

    /// The packets and where they end, for a source that brings packets itself. `None` where tags are made,
    /// or nobody has packets.
    pub(super) fn into_packets(self) -> Option<(Log, Trail)> {
        let Direction::ToRtp(packets) = self.direction else { return None };
        let trail = packets.trail(self.log.description().filter(|_| self.is_ready)?);
        Some((self.log, trail))
    }

    /// Whether players of packets that were described so can go on with what is made of tags.
    pub(super) fn can_go_behind(description: &SessionDescription) -> bool {
        ToRtp::can_go_behind(description)
    }

    /// The tags and what writes them, for a source that brings tags itself. `None` where packets are
    /// made.
    pub(super) fn into_tags(mut self) -> Option<(Log, Ingest)> {
        let Direction::ToFlv(tags) = self.direction else { return None };
        let mut ingest = tags.ingest;
        ingest.change_source(&mut self.log);
        ingest.count_anew();
        Some((self.log, ingest))
    }

    /// Whether packets can be made of tags of these tracks, as far as they are known.
    pub(super) fn can_be_packets(tracks: &Tracks) -> bool {
        let mut tracks = [&tracks.video, &tracks.audio].into_iter().flatten();
        tracks.any(|track| is_packetized(track.codec))
    }

    /// Whether tags can be made of packets that are described so.
    pub(super) fn can_be_tags(description: &SessionDescription) -> bool {
        ToFlv::new(description).is_some()
    }

    /// Whether what players were told of the tracks still holds: each is of its codec, AAC of its record,
    /// and a source that took over brings no other one.
    pub(super) fn fits(&self, tracks: &Tracks) -> bool {
        let Some(description) = self.log.description().filter(|_| self.is_ready) else {
            return true;
        };
        if matches!(&self.direction, Direction::ToRtp(packets) if packets.is_void()) {
            return false;
        }
        let told = |kind| description.media.iter().find(|media| media.format.kind == kind);
        let kinds = [(TrackKind::Video, &tracks.video), (TrackKind::Audio, &tracks.audio)];
        kinds.into_iter().all(|(kind, track)| match (told(kind), track) {
            // Those that are known stay known, but for video of a source that brings none.
            (told, None) => told.is_none(),
            (None, Some(track)) => !self.source_changed || !is_packetized(track.codec),
            (Some(media), Some(track)) => track.codec == media.format.codec(),
        })
    }

    /// Makes what was flushed and not read yet, and lets players have it: entries until `len_max` bytes
    /// of the source's log are read, one at the least.
    pub(super) fn follow(&mut self, source: &Log, len_max: u64) {
        let mut len = 0;
        while len < len_max && self.is_behind(source) {
            let seq = self.next_seq;
            let entry = *source.entry(seq).expect("what is flushed is held until it was read");
            match &mut self.direction {
                Direction::ToFlv(tags) => tags.handle(&mut self.log, source, seq),
                Direction::ToRtp(packets) => packets.handle(&mut self.log, source, &entry),
            }
            self.next_seq = seq + 1;
            len += u64::from(entry.len);
        }
        self.is_ready |= match &mut self.direction {
            Direction::ToFlv(tags) => tags.is_ready(),
            Direction::ToRtp(packets) => packets.is_ready(&mut self.log, source.has_video()),
        };
        if self.is_ready {
            self.log.flush();
        }
    }

    /// Whether something that was flushed is still to be read.
    pub(super) fn is_behind(&self, source: &Log) -> bool {
        self.next_seq < source.flushed_seq()
    }

    /// The sequence number in the source's log at which it began.
    pub(super) fn begin_seq(&self) -> u64 {
        self.begin_seq
    }

    /// The sequence number from which on the source's log is to be held.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether it can be played.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The source is another one from now on. What is still to be read of the old one is passed over: it
    /// would be taken for the new one's.
    pub(super) fn change_source(&mut self, source: &Log) {
        self.source_changed = true;
        self.next_seq = source.flushed_seq();
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.ingest.change_source(&mut self.log);
            tags.due.fill(None);
            tags.restarts.fill(None);
        }
        self.log.forget_gop();
    }

    /// The source's packets are of other tracks from now on; as for [`Self::change_source`].
    pub(super) fn change_tracks(&mut self, source: &Log) {
        self.next_seq = source.flushed_seq();
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.begin(source);
            tags.ingest.change_source(&mut self.log);
            self.log.forget_tracks();
            if tags.has_no_video() {
                tags.ingest.give_up_video(&mut self.log);
            }
        }
    }

    /// The source that takes over has other parameter sets; as for [`Self::change_source`].
    pub(super) fn change_sets(&mut self, source: &Log) {
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.begin(source);
        }
    }

    /// The source brings no video after all: players of tags wait for none.
    pub(super) fn give_up_video(&mut self) {
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.converter.iter_mut().for_each(ToFlv::silence_video);
            tags.ingest.give_up_video(&mut self.log);
        }
    }

    /// Whether it has shown since the last call that no pictures are made packets: replicas are to be told.
    pub(super) fn take_lost_video(&mut self) -> bool {
        match &mut self.direction {
            Direction::ToFlv(_) => false,
            Direction::ToRtp(packets) => packets.take_lost_video(),
        }
    }

    /// The source of a track began anew before the packet that will have this number in its log.
    pub(super) fn restart(&mut self, track: usize, seq: u64) {
        if let Direction::ToFlv(tags) = &mut self.direction
            && let Some(restart) = tags.restarts.get_mut(track)
        {
            *restart = Some(seq);
        }
    }

    /// Whether it is known that nothing can be made of the source's tracks.
    pub(super) fn is_barren(&self) -> bool {
        match &self.direction {
            Direction::ToFlv(tags) => tags.converter.is_none(),
            Direction::ToRtp(packets) => packets.is_barren(),
        }
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    pub(super) fn counts(&self) -> BridgeCounts {
        match &self.direction {
            Direction::ToFlv(tags) => tags.counts(),
            Direction::ToRtp(packets) => packets.counts(),
        }
    }
}

impl Tags {
    fn new(source: &Log) -> Self {
        let mut tags = Self::default();
        tags.begin(source);
        tags
    }

    /// Takes the tracks that the source has now.
    fn begin(&mut self, source: &Log) {
        let description = source.description();
        let count = description.map_or(0, |description| description.media.len());
        self.counts += self.converter.as_ref().map(ToFlv::counts).unwrap_or_default();
        self.converter = description.and_then(|description| ToFlv::new(description));
        if !source.has_video() {
            self.converter.iter_mut().for_each(ToFlv::silence_video);
        }
        self.due = vec![None; count];
        self.restarts = vec![None; count];
    }

    /// The source has told its tracks, and none of them is made video.
    fn has_no_video(&self) -> bool {
        self.converter.as_ref().is_some_and(|converter| !converter.has_video())
    }

    fn counts(&self) -> BridgeCounts {
        let mut counts = self.counts;
        counts += self.converter.as_ref().map(ToFlv::counts).unwrap_or_default();
        counts.bytes_copied += self.ingest.bytes().copied;
        counts
    }

    fn is_ready(&self) -> bool {
        let tracks = self.ingest.tracks();
        [&tracks.video, &tracks.audio].into_iter().flatten().any(|track| track.frames > 0)
    }

    fn handle(&mut self, log: &mut Log, source: &Log, seq: u64) {
        let entry = source.entry(seq).expect("callers look");
        let Some(converter) = self.converter.as_mut().filter(|_| !entry.is_rtcp()) else { return };
        let Ok(packet) = RtpPacket::parse(source.bytes(entry.packet())) else { return };
        let Some(due) = self.due.get_mut(entry.track()) else { return };
        if self.restarts[entry.track()].take_if(|restart| *restart <= seq).is_some() {
            *due = None;
        }
        let sequence = packet.header().sequence;
        let gap = match due.replace(sequence.wrapping_add(1)) {
            None => Gap::Restart,
            Some(due) if due == sequence => Gap::None,
            Some(due) => Gap::Lost(u32::from(sequence.wrapping_sub(due))),
        };
        let ingest = &mut self.ingest;
        // Of a source without keyframes only its log knows where players may start.
        let (time_ms, is_start) = (entry.timestamp_ms, entry.keyframe);
        let incoming = InPacket { track: entry.track(), packet: &packet, gap, time_ms, is_start };
        converter.handle_packet(incoming, &mut |tag| {
            let FlvTag { kind, timestamp_ms, payload } = tag;
            ingest.handle_tag(log, kind, timestamp_ms, &payload);
        });
    }
}

/// Whether frames of the codec are made packets, and the other way.
fn is_packetized(codec: Codec) -> bool {
    use Codec::{Aac, H264, H265, Opus, PcmA, PcmU};
    matches!(codec, H264 | H265 | Aac | Opus | PcmA | PcmU)
}
