//! The media of a stream on its owner: what its source brings, and the other form of it while somebody
//! wants that.

use std::time::{Duration, Instant};

use super::bridged::Bridged;
use super::ingest::{Ingest, IngestBytes, Progress};
use super::log::Log;
use super::rtp_ingest::{RtpDropped, RtpIngest, RtpProgress};
use super::tracks::Tracks;
use crate::bridge::BridgeCounts;
use crate::limits::BRIDGE_SLICE_LEN;
use crate::media::{Form, MediaPart};
use crate::proto::rtp::{Gap, RtpPart};
use crate::ring::prefetch;

/// The media of one stream.
pub struct Media {
    /// In the form that the source brings.
    log: Log,
    ingest: Intake,
    bridged: Option<Box<Bridged>>,
    /// Where what was made last began in the log, and is void.
    void_seq: Option<u64>,
    /// Of packets: tags can be made of them, by the last description.
    can_be_tags: bool,
    /// Of bridges that are gone.
    bridge_counts: BridgeCounts,
}

enum Intake {
    Flv(Box<Ingest>),
    Rtp(Box<RtpIngest>),
}

/// What a step of a source led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaProgress {
    Went(Progress),
    /// What others know of the tracks of tags holds no more. Players of both forms go on.
    NewTags,
    /// Players of RTP can't go on: the tracks are others now.
    NewTracks,
}

impl Default for Media {
    fn default() -> Self {
        Self::new(Form::Flv)
    }
}

impl Media {
    /// No media yet, of a source that brings this form.
    pub fn new(form: Form) -> Self {
        let ingest = match form {
            Form::Flv => Intake::Flv(Box::default()),
            Form::Rtp => Intake::Rtp(Box::default()),
        };
        let bridge_counts = BridgeCounts::default();
        let (bridged, void_seq, can_be_tags) = (None, None, false);
        Self { log: Log::default(), ingest, bridged, void_seq, can_be_tags, bridge_counts }
    }

    /// The form that the source brings.
    pub fn form(&self) -> Form {
        match self.ingest {
            Intake::Flv(_) => Form::Flv,
            Intake::Rtp(_) => Form::Rtp,
        }
    }

    /// Has the CPU fetch what the next `len` bytes of a source need, `depth` pointers from here.
    pub fn prefetch(&self, depth: u32, len: usize) {
        match (depth, &self.ingest) {
            (1, Intake::Flv(ingest)) => prefetch(&**ingest),
            (1, Intake::Rtp(ingest)) => prefetch(&**ingest),
            (2, Intake::Flv(ingest)) => ingest.prefetch(),
            _ => {}
        }
        self.log.prefetch(depth, len);
    }

    /// Takes the next part of a source of tags; one of another form is passed over.
    pub fn handle(&mut self, part: MediaPart) -> Progress {
        match &mut self.ingest {
            Intake::Flv(ingest) => ingest.handle(&mut self.log, part),
            Intake::Rtp(_) => Progress::default(),
        }
    }

    /// Takes the next step of a source of packets; `now` and the wall clock in seconds since 1970.
    pub fn handle_rtp(&mut self, now: (Instant, u64), part: RtpPart) -> MediaProgress {
        let Intake::Rtp(ingest) = &mut self.ingest else {
            return MediaProgress::Went(Progress::default());
        };
        if let RtpPart::Packet { track, gap: Gap::Restart, .. } = part
            && let Some(bridged) = &mut self.bridged
        {
            bridged.restart(track, self.log.next_seq());
        }
        let begins = matches!(part, RtpPart::Begin(_));
        if let RtpPart::Begin(description) = &part {
            self.can_be_tags = Bridged::can_be_tags(description);
        }
        let progress = ingest.handle(&mut self.log, now, part);
        if let RtpProgress::Media(progress) = progress
            && !begins
        {
            if progress.lost_video
                && let Some(bridged) = &mut self.bridged
            {
                bridged.give_up_video();
            }
            return MediaProgress::Went(progress);
        }
        let has_new_tracks = progress == RtpProgress::NewTracks;
        // Also where tags were those of a source until now.
        let is_barren = self.other_is_barren();
        match &mut self.bridged {
            Some(bridged) if has_new_tracks || is_barren => bridged.change_tracks(&self.log),
            Some(bridged) if progress == RtpProgress::NewSets => bridged.change_sets(&self.log),
            _ => {}
        }
        match (has_new_tracks, is_barren) {
            (true, _) => MediaProgress::NewTracks,
            (false, true) => MediaProgress::NewTags,
            (false, false) => MediaProgress::Went(Progress::default()),
        }
    }

    /// The next media is of another source: continue its timeline, start at its keyframe.
    pub fn change_source(&mut self) {
        match &mut self.ingest {
            Intake::Flv(ingest) => ingest.change_source(&mut self.log),
            Intake::Rtp(ingest) => ingest.change_source(&mut self.log),
        }
        if let Some(bridged) = &mut self.bridged {
            bridged.change_source(&self.log);
        }
    }

    /// The first picture of the source to come stands in for a keyframe.
    pub fn start_at_next(&mut self) {
        match &mut self.ingest {
            Intake::Flv(ingest) => ingest.start_at_next(),
            Intake::Rtp(ingest) => ingest.start_at_next(),
        }
    }

    /// The source to come brings no video: its sound waits for none.
    pub fn start_without_video(&mut self) {
        match &mut self.ingest {
            Intake::Flv(ingest) => ingest.start_without_video(),
            Intake::Rtp(ingest) => ingest.start_without_video(),
        }
    }

    /// Whether players of packets go on when the next source brings the other form, as far as that is
    /// known: packets go on as they were described, and who writes them can make such.
    pub fn packets_can_go_on(&self) -> bool {
        match self.form() {
            Form::Flv => self.log(Form::Rtp).is_some(),
            Form::Rtp => {
                let described = self.log.description();
                described.is_some_and(|described| Bridged::can_go_behind(described))
            }
        }
    }

    /// The next source brings this form, when nothing has come for so long; what was counted is counted
    /// anew. Players of tags go on: their log is written by the bridge from now on, or no more. So do those
    /// of packets where [`Self::packets_can_go_on`].
    pub fn take_form(&mut self, form: Form, now: Instant, silence: Duration) {
        if form == self.form() {
            return;
        }
        let mut old = std::mem::replace(self, Self::new(form));
        match old.ingest {
            Intake::Flv(ingest) => {
                if let Some((mut log, trail)) = old.bridged.and_then(|of| of.into_packets())
                    && let Some(ingest) = RtpIngest::behind(&mut log, &trail, (now, silence))
                {
                    (self.log, self.ingest) = (log, Intake::Rtp(Box::new(ingest)));
                }
                if old.log.next_seq() > 0 {
                    let tags = Bridged::of_tags(old.log, *ingest, self.log.next_seq());
                    self.bridged = Some(Box::new(tags));
                }
            }
            Intake::Rtp(packets) => {
                let tags = old.bridged.and_then(|bridged| bridged.into_tags());
                let tags = tags.filter(|(_, tags)| tags.timestamp_ms().is_some());
                let behind = packets.timestamp_ms().unwrap_or(0);
                let (log, mut tags) =
                    tags.unwrap_or_else(|| (Log::default(), Ingest::behind(behind)));
                let begin = (log.next_seq(), tags.timestamp_ms().unwrap_or(behind));
                let bridged = packets.trail().and_then(|trail| {
                    Bridged::of_packets(std::mem::take(&mut old.log), &trail, begin, silence)
                });
                if bridged.is_some() {
                    // Those of which players of packets were told.
                    tags.expect(packets.tracks());
                }
                (self.log, self.ingest) = (log, Intake::Flv(Box::new(tags)));
                self.bridged = bridged.map(Box::new);
            }
        }
    }

    /// Media of a source that is to go on has come, and nothing yet with which it can.
    pub fn has_passed_over(&self) -> bool {
        match &self.ingest {
            Intake::Flv(ingest) => ingest.has_passed_over(),
            Intake::Rtp(ingest) => ingest.passed_over,
        }
    }

    /// Some of the source's first tag of audio or video has come, and not all.
    pub fn is_within_frame(&self) -> bool {
        matches!(&self.ingest, Intake::Flv(ingest) if ingest.is_within_frame())
            && !self.has_passed_over()
    }

    /// The source is gone: what it has not finished will not come.
    pub fn drop_unfinished(&mut self) {
        if let Intake::Flv(ingest) = &mut self.ingest {
            ingest.drop_unfinished(&mut self.log);
        }
    }

    /// Nobody has anything of it any more: begin anew. What was counted stays counted.
    pub fn start_over(&mut self) {
        self.drop_other();
        self.can_be_tags = false;
        match &mut self.ingest {
            Intake::Flv(ingest) => ingest.start_over(&mut self.log),
            Intake::Rtp(ingest) => ingest.start_over(&mut self.log),
        }
    }

    /// The form that the source does not bring is wanted, from the newest keyframe on: what there is of
    /// that is made by [`Self::make_other`]. The caller tells when nobody wants it any more.
    pub fn want_other(&mut self, seed: u64, now_unix: u64) {
        if self.bridged.is_none() {
            let source = (&self.log, self.tracks());
            let bridged = Bridged::new(self.form().other(), source, seed, now_unix);
            self.bridged = Some(Box::new(bridged));
        }
    }

    /// Makes the next slice of the form that the source does not bring.
    pub fn make_other(&mut self) {
        if let Some(bridged) = &mut self.bridged {
            bridged.follow(&self.log, BRIDGE_SLICE_LEN);
        }
    }

    /// Whether some of what players may have is still to be made in the form that the source does not
    /// bring.
    pub fn other_is_behind(&self) -> bool {
        self.bridged.as_ref().is_some_and(|bridged| bridged.is_behind(&self.log))
    }

    /// Nobody wants the form that the source does not bring.
    pub fn drop_other(&mut self) {
        if let Some(bridged) = self.bridged.take() {
            self.bridge_counts += bridged.counts();
        }
    }

    /// As [`Self::drop_other`], of what is void: begun anew at the same keyframe it would be again.
    pub fn drop_void_other(&mut self) {
        self.void_seq = self.bridged.as_ref().map(|bridged| bridged.begin_seq());
        self.drop_other();
    }

    /// Whether the form that the source does not bring is not made, and can be.
    pub fn lacks_other(&self) -> bool {
        self.bridged.is_none() && self.void_seq != Some(self.log.start_seq())
    }

    /// Lets players have everything that has come, in both forms. Of the one that the source does not
    /// bring no more is made than a slice, and none while it is behind.
    pub fn flush(&mut self) {
        let was_behind = self.other_is_behind();
        self.log.flush();
        if !was_behind {
            self.make_other();
        }
    }

    /// Drops what nobody needs of a form, as [`Log::trim`] does. Where the source's GOP is given up, a
    /// picture is to stand in for its keyframe.
    pub fn trim(&mut self, form: Form, slowest: Option<u64>, gop_bytes_max: u64) {
        let is_own = form == self.form();
        let bridged = self.bridged.as_ref().filter(|_| is_own);
        let read = bridged.map(|bridged| bridged.next_seq());
        let slowest = slowest.into_iter().chain(read).min();
        let Some(log) = self.log_mut(form) else { return };
        let dropped = log.gops_dropped();
        log.trim(slowest, gop_bytes_max);
        // Where players of the other form start follows from where those of this one do.
        if is_own && log.gops_dropped() > dropped {
            match &mut self.ingest {
                Intake::Flv(ingest) => ingest.forget_keyframe(),
                Intake::Rtp(ingest) => ingest.forget_keyframe(),
            }
        }
    }

    /// Whether players of the form that the source does not bring can't go on: packets are made of tags
    /// by a description that holds no more, or no tags can be made of the tracks that there are now.
    pub fn other_is_void(&self) -> bool {
        let bridged = self.bridged.as_ref();
        bridged.is_some_and(|bridged| match self.form() {
            Form::Flv => !bridged.fits(self.tracks()),
            // Before a source has told its tracks, nothing is known.
            Form::Rtp => bridged.is_barren() && self.log.description().is_some(),
        })
    }

    /// Whether it has just shown that the form that the source does not bring has no video after all: who has
    /// a copy of its log is to get another one.
    pub fn other_lost_video(&mut self) -> bool {
        self.bridged.as_mut().is_some_and(|bridged| bridged.take_lost_video())
    }

    /// Whether it is known that the form that the source does not bring can't be made of its tracks.
    pub fn other_is_barren(&self) -> bool {
        self.bridged.as_ref().is_some_and(|bridged| bridged.is_barren())
    }

    /// The stream in a form: its own log, or the bridged one when that can be played.
    pub fn log(&self, form: Form) -> Option<&Log> {
        if form == self.form() {
            return Some(&self.log);
        }
        self.bridged.as_ref().filter(|bridged| bridged.is_ready()).map(|bridged| bridged.log())
    }

    pub fn log_mut(&mut self, form: Form) -> Option<&mut Log> {
        if form == self.form() {
            return Some(&mut self.log);
        }
        self.bridged.as_mut().filter(|bridged| bridged.is_ready()).map(|bridged| bridged.log_mut())
    }

    /// The form can be made, as far as the tracks that are known tell.
    pub fn can_be(&self, form: Form) -> bool {
        match self.form() {
            own if own == form => true,
            Form::Flv => Bridged::can_be_packets(self.tracks()),
            Form::Rtp => self.can_be_tags,
        }
    }

    pub fn bytes(&self) -> IngestBytes {
        match &self.ingest {
            Intake::Flv(ingest) => ingest.bytes(),
            Intake::Rtp(ingest) => ingest.bytes(),
        }
    }

    /// Tags of the source that were not taken.
    pub fn tags_dropped(&self) -> u64 {
        match &self.ingest {
            Intake::Flv(ingest) => ingest.dropped(),
            Intake::Rtp(_) => 0,
        }
    }

    /// Packets of the source that were not taken.
    pub fn packets_dropped(&self) -> RtpDropped {
        match &self.ingest {
            Intake::Flv(_) => RtpDropped::default(),
            Intake::Rtp(ingest) => ingest.dropped(),
        }
    }

    /// What making the other form took, and what was no use for it.
    pub fn bridge_counts(&self) -> BridgeCounts {
        let mut counts = self.bridge_counts;
        counts += self.bridged.as_ref().map(|bridged| bridged.counts()).unwrap_or_default();
        counts
    }

    pub fn tracks(&self) -> &Tracks {
        match &self.ingest {
            Intake::Flv(ingest) => ingest.tracks(),
            Intake::Rtp(ingest) => ingest.tracks(),
        }
    }

    /// The newest timestamp of the stream.
    pub fn timestamp_ms(&self) -> Option<u32> {
        match &self.ingest {
            Intake::Flv(ingest) => ingest.timestamp_ms(),
            Intake::Rtp(ingest) => ingest.timestamp_ms(),
        }
    }

    /// Bytes of memory held for media.
    pub fn held_bytes(&self) -> u64 {
        self.log.held_bytes()
            + self.bridged.as_ref().map_or(0, |bridged| bridged.log().held_bytes())
    }

    /// Takes a form's log out, for players who are to get the rest of it.
    pub fn take_log(&mut self, form: Form) -> Log {
        self.log_mut(form).map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
