//! Streams as RTP: packets of a source in, and what a player over RTSP is told before it gets any.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Shard;
use super::replica::Role;
use super::tables::{Source, StreamHandle};
use crate::media::state::EndReason;
use crate::media::{ConnectionId, Form};
use crate::proto::rtp::{RtpPacket, RtpPart};
use crate::proto::rtsp::SessionDescription;
use crate::proto::rtsp::server::FirstPacket;
use crate::stream::{Log, MediaProgress};

impl Shard {
    /// The next step of a source that brings RTP. `false` when the source is not that of the stream
    /// any more.
    pub fn rtp(&mut self, now: Instant, handle: StreamHandle, part: RtpPart) -> bool {
        let stream = self.tables.get_mut(handle);
        let stream = stream.filter(|stream| !matches!(stream.source, Source::None { .. }));
        let Some(stream) = stream else {
            self.totals.late_messages += 1;
            return false;
        };
        if let Some(held) = stream.held() {
            let is_media = matches!(part, RtpPart::Packet { .. });
            let (parts, dropped) = (held.handle_rtp(part), held.take_dropped());
            self.totals.add_trial(dropped);
            stream.note_held(now, is_media);
            if let Some(parts) = parts {
                self.publisher_takes_over(now, handle);
                for part in parts {
                    self.rtp(now, handle, part);
                }
                self.tell_forms(now, handle);
            }
            return true;
        }
        let received = stream.media.bytes().received;
        match stream.media.handle_rtp((now, self.now_unix), part) {
            MediaProgress::Went(progress) => self.media_came(now, handle, received, progress),
            MediaProgress::NewTags => self.tags_are_new(now, handle),
            MediaProgress::NewTracks => {
                // Their descriptions are void. Players of tags go on with new configurations.
                self.end_attached(handle, |form| form == Form::Rtp, EndReason::TracksChanged);
                self.tags_are_new(now, handle);
            }
        }
        true
    }

    fn tags_are_new(&mut self, now: Instant, handle: StreamHandle) {
        self.renew_replicas(handle, Form::Flv);
        self.tell_forms(now, handle);
    }

    /// Has other shards get a form's log anew with the next flush: what theirs knows of the tracks holds
    /// no more.
    pub(super) fn renew_replicas(&mut self, handle: StreamHandle, form: Form) {
        let own = self.id;
        let Some(stream) = self.tables.get_mut(handle) else { return };
        for (&(shard, of), subscriber) in &mut stream.subscribers {
            subscriber.lacks_flush |= of == form && shard != own && subscriber.attached;
        }
    }

    /// What the stream has, for a player over RTSP that was admitted: the answer to its DESCRIBE.
    /// `None` for whoever is no such player.
    pub fn description(&self, connection: ConnectionId) -> Option<Arc<SessionDescription>> {
        self.rtp_log(connection)?.description().cloned()
    }

    /// The first packet of each track that [`Self::admitted`] would send now: for the answer to
    /// PLAY. A track that has none yet is left out.
    pub fn first_packets(&self, connection: ConnectionId) -> Vec<FirstPacket> {
        let Some(log) = self.rtp_log(connection).filter(|log| !log.awaits_keyframe()) else {
            return Vec::new();
        };
        let tracks = log.description().map_or(0, |description| description.media.len());
        let mut first: Vec<FirstPacket> = Vec::with_capacity(tracks);
        for entry in log.range(log.start_seq()..log.flushed_seq()) {
            let track = entry.track();
            if entry.is_rtcp() || first.iter().any(|known| known.track == track) {
                continue;
            }
            if let Ok(packet) = RtpPacket::parse(log.bytes(entry.packet())) {
                let header = packet.header();
                let (sequence, timestamp) = (header.sequence, header.timestamp);
                first.push(FirstPacket { track, sequence, timestamp });
            }
            if first.len() == tracks {
                break;
            }
        }
        first
    }

    /// The player wants nothing until the next [`Self::admitted`]. In the answer: how many bytes it has
    /// got, and the rest of the packet where these end within one.
    pub fn pause(&mut self, connection: ConnectionId) -> Option<(u64, Bytes)> {
        let member = self.members.get_mut(&connection)?;
        if member.role != Role::Player {
            return None;
        }
        member.role = Role::Admitting;
        let (key, form) = (member.key.clone(), member.form());
        let here = self.locals.get_mut(&key, form).expect("a member's key is here");
        here.admitting += 1;
        let log = here.log.get(form, &self.tables);
        let rest = log.map(|log| here.crowd.rest_of(connection, log)).unwrap_or_default();
        here.crowd.remove(connection).map(|player| (player.sent_bytes, rest))
    }

    /// The log that a player of RTP reads, or is about to.
    fn rtp_log(&self, connection: ConnectionId) -> Option<&Log> {
        let member = self.members.get(&connection).filter(|member| member.form() == Form::Rtp)?;
        let here = self.locals.get(&member.key, Form::Rtp)?;
        here.log.get(Form::Rtp, &self.tables)
    }
}
