//! Sources of packets on trial.

use std::sync::Arc;

use super::{Start, Tryout};
use crate::limits::{HELD_PART_COST, KEYFRAME_WAIT_MS, LEAD_PACKETS_MAX};
use crate::media::timeline::distance;
use crate::media::{Codec, TagKind};
use crate::proto::rtp::random_access::{for_each_nal, may_hold_sets};
use crate::proto::rtp::{Format, Gap, RandomAccess, RtpPacket, RtpPart, Step, TrackKind};
use crate::proto::rtsp::SessionDescription;
use crate::stream::video_wait::VideoWait;

/// The pictures of a track of packets, by their timestamps.
#[derive(Default)]
pub(super) struct Pictures {
    first: Option<u32>,
    newest: Option<u32>,
}

impl Pictures {
    /// Whether the packet begins a picture, and those before it have been waited for long enough.
    fn is_overdue(&mut self, timestamp: u32, rate: u32) -> bool {
        let first = *self.first.get_or_insert(timestamp);
        let begins = self.newest.replace(timestamp) != Some(timestamp);
        let waited_ms = distance(first, timestamp) * 1000 / i64::from(rate.max(1));
        begins && waited_ms >= KEYFRAME_WAIT_MS
    }
}

impl Tryout {
    /// As [`Tryout::handle`], of a source of packets.
    pub fn handle_rtp(&mut self, part: RtpPart) -> Option<Vec<RtpPart>> {
        match part {
            RtpPart::Begin(description) => {
                self.drop_packets();
                self.pictures = Pictures::default();
                (self.sound_first, self.video_wait) = (None, VideoWait::default());
                self.audio = description.main_track(TrackKind::Audio);
                let formats = description.media.iter().map(|media| &media.format);
                self.accesses = formats.map(RandomAccess::of).collect();
                self.told.clear();
                self.video = description.main_track(TrackKind::Video);
                let format = self.video.map(|video| &description.media[video].format);
                let format = format.filter(|of| matches!(of.codec(), Codec::H264 | Codec::H265));
                let format = format.filter(|of| !of.has_order_numbers());
                self.sets = format.map(Format::parameter_sets);
                self.description = Some(description);
                None
            }
            RtpPart::Announced { track, .. } => {
                self.tell(
                    |of| matches!(of, RtpPart::Announced { track: of, .. } if *of == track),
                    part,
                );
                None
            }
            RtpPart::Report { track, .. } => {
                self.tell(
                    |of| matches!(of, RtpPart::Report { track: of, .. } if *of == track),
                    part,
                );
                None
            }
            RtpPart::Packet { track, packet, gap } => self.packet(track, packet, gap),
        }
    }

    fn packet(&mut self, track: usize, packet: RtpPacket, gap: Gap) -> Option<Vec<RtpPart>> {
        if gap == Gap::Restart {
            self.forget_times(track);
        }
        self.note_sets(track, &packet);
        let Some(access) = self.accesses.get_mut(track) else {
            self.dropped.packets.no_track += 1;
            return None;
        };
        let step = access.step(&packet);
        if self.packets.is_some() {
            return self.follow_packets(track, &packet, gap, step);
        }
        let description = self.description.clone()?;
        if description.media[track].format.kind == TrackKind::Other {
            // Metadata and the like are no sign of what they go beside.
            self.dropped.packets.before_keyframe += 1;
            return None;
        }
        let video = self.video;
        let format_of = |track: usize| &description.media[track].format;
        // Of other codecs it is not known where their keyframes are.
        let known = |of: &&Format| matches!(of.codec(), Codec::H264 | Codec::H265);
        let has_known = video.map(format_of).filter(known).is_some();
        let format = video.filter(|&video| video == track).map(format_of).filter(known);
        let timestamp = packet.header().timestamp;
        let is_overdue =
            format.is_some_and(|of| self.pictures.is_overdue(timestamp, of.clock_rate));
        if format.is_some() && step.begins {
            self.drop_lead();
        }
        self.lacks_video = has_known && self.is_without_video(track, timestamp, format_of(track));
        if has_known && !self.lacks_video && !(format.is_some() && (step.is_start || is_overdue)) {
            self.passed_over = true;
            if format.is_some() && step.is_lead && self.lead.len() < LEAD_PACKETS_MAX {
                self.lead.push(RtpPart::Packet { track, packet: packet.into_copy(), gap });
            } else {
                self.dropped.packets.before_keyframe += 1;
            }
            return None;
        }
        let mut parts = vec![RtpPart::Begin(self.with_sets(description))];
        if !has_known || self.lacks_video {
            parts.push(RtpPart::Packet { track, packet, gap });
            self.drop_lead();
            return Some(self.with_told(parts));
        }
        parts.append(&mut self.lead);
        self.stands_in = !step.is_start;
        self.packets = Some(Start { parts, cost: 0, of: track as u32, left: 0 });
        self.follow_packets(track, &packet, gap, Step { begins: false, ..step })
    }

    /// Whether there was sound alone for too long, where the source has told of video.
    fn is_without_video(&mut self, track: usize, timestamp: u32, format: &Format) -> bool {
        if self.video == Some(track) {
            return self.video_wait.is_over(TagKind::Video, 0);
        }
        if self.audio != Some(track) {
            return false;
        }
        let first = *self.sound_first.get_or_insert(timestamp);
        let at_ms = distance(first, timestamp) * 1000 / i64::from(format.clock_rate.max(1));
        self.video_wait.is_over(TagKind::Audio, at_ms)
    }

    /// The source of the track began anew: timestamps of before tell nothing of those that come.
    fn forget_times(&mut self, track: usize) {
        let Some(access) = self.accesses.get_mut(track) else { return };
        access.restart();
        self.pictures = Pictures::default();
        (self.sound_first, self.video_wait) = (None, VideoWait::default());
        self.drop_lead();
    }

    /// Takes the parameter sets that a packet of the main track brings: who begins at its keyframe may get
    /// none but these.
    fn note_sets(&mut self, track: usize, packet: &RtpPacket) {
        let Some(sets) = self.sets.as_mut().filter(|_| self.video == Some(track)) else { return };
        if may_hold_sets(sets.codec(), packet.payload_head()) {
            for_each_nal(sets.codec(), &packet.payload(), |nal| {
                sets.insert(nal);
            });
        }
    }

    /// The description with the parameter sets that have come in band.
    fn with_sets(&self, description: Arc<SessionDescription>) -> Arc<SessionDescription> {
        let (Some(sets), Some(video)) = (&self.sets, self.video) else { return description };
        if *sets == description.media[video].format.parameter_sets() {
            return description;
        }
        let mut told = SessionDescription::clone(&description);
        told.media[video].format.set_parameter_sets(sets);
        told.into()
    }

    /// Holds packets until the picture is whole.
    fn follow_packets(
        &mut self,
        track: usize,
        packet: &RtpPacket,
        gap: Gap,
        step: Step,
    ) -> Option<Vec<RtpPart>> {
        let start = self.packets.as_mut()?;
        start.cost += packet.len() + HELD_PART_COST;
        // A message before the picture may have a marker or a timestamp of its own.
        let ends = step.begins || packet.header().marker && !step.is_lead;
        let is_whole = start.of == track as u32 && ends;
        let packet = packet.clone().into_copy();
        start.parts.push(RtpPart::Packet { track, packet, gap });
        let can_go = is_whole || start.is_large();
        let start = can_go.then(|| self.packets.take()).flatten()?;
        Some(self.with_told(start.parts))
    }

    /// Puts what was said of the clocks behind the description: it also comes while a keyframe does.
    fn with_told(&self, mut parts: Vec<RtpPart>) -> Vec<RtpPart> {
        parts.splice(1..1, self.told.iter().cloned());
        parts
    }

    /// As [`Self::drop_start`], of packets.
    fn drop_packets(&mut self) {
        let parts = self.packets.take().map(|start| start.parts).unwrap_or_default();
        let lost = parts.iter().filter(|part| matches!(part, RtpPart::Packet { .. })).count();
        self.dropped.packets.before_keyframe += lost as u64;
        self.drop_lead();
    }

    /// Packets that may have belonged to a keyframe do not.
    fn drop_lead(&mut self) {
        self.dropped.packets.before_keyframe += self.lead.len() as u64;
        self.lead.clear();
    }

    /// Keeps what is said of a track, in place of what was said before.
    fn tell(&mut self, is_before: impl Fn(&RtpPart) -> bool, part: RtpPart) {
        self.told.retain(|told| !is_before(told));
        if self.told.len() < 2 * self.accesses.len() {
            self.told.push(part);
        }
    }
}
