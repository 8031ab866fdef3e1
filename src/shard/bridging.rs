//! The form that a stream's source does not bring, while somebody wants it: made in slices, one a turn for
//! all streams that are behind, so that a large GOP holds nobody up; and refused as soon as it is known that
//! the stream's codecs can't be carried in it.

use std::time::Instant;

use super::Shard;
use super::tables::StreamHandle;
use crate::media::Form;
use crate::media::state::EndReason;

impl Shard {
    /// Somebody wants a stream in this form.
    pub(super) fn want_form(&mut self, handle: StreamHandle, form: Form) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        if form != stream.media.form() {
            stream.media.want_other(self.rng.u64(..), self.now_unix);
            self.look_at_other(handle);
        }
    }

    /// Some of a stream may be left to be made in its other form, or that can't be made any more.
    pub(super) fn look_at_other(&mut self, handle: StreamHandle) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        let other = stream.media.form().other();
        if stream.media.other_lost_video() {
            self.renew_replicas(handle, other);
        }
        let Some(stream) = self.tables.get_mut(handle) else { return };
        let media = &stream.media;
        if media.other_is_barren() {
            self.end_presences(handle, |form, _| form == other, EndReason::NotCarried);
        } else if media.other_is_void() {
            self.end_attached(handle, |form| form == other, EndReason::TracksChanged);
            // Who waits for it gets another one, with the first flush behind the next keyframe.
            if let Some(stream) = self.tables.get_mut(handle) {
                stream.media.drop_void_other();
            }
        } else if media.other_is_behind() && !self.bridging.contains(&handle) {
            self.bridging.push_back(handle);
        }
    }

    /// Somebody may wait for the other form, of which there is none any more.
    pub(super) fn want_other_again(&mut self, handle: StreamHandle) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        let other = stream.media.form().other();
        if stream.media.lacks_other() && stream.subscribers.keys().any(|(_, form)| *form == other) {
            self.want_form(handle, other);
        }
    }

    /// Makes the next slice of the stream whose turn it is. Its players get it in the next turn, which is
    /// due at once where more is left.
    pub(super) fn bridge_one(&mut self, now: Instant) {
        if let Some(handle) = self.bridging.pop_front()
            && let Some(stream) = self.tables.get_mut(handle)
            && stream.media.other_is_behind()
        {
            let other = stream.media.form().other();
            stream.media.make_other();
            self.look_at_other(handle);
            self.send_flush(handle, other, None);
        }
        let is_left = !self.bridging.is_empty() || !self.dirty_locals.is_empty();
        self.bridging_due = is_left.then_some(now);
    }
}
