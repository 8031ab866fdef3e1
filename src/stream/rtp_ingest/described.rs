//! The tracks that a source describes: as ours, and beside those that players were told.

use crate::proto::rtp::{Format, TrackKind};
use crate::proto::rtsp::SessionDescription;
use crate::stream::rtp_lane::Lane;

/// The tracks of a description, in its order.
pub(super) fn lanes_of(description: &SessionDescription) -> impl Iterator<Item = Lane> {
    let main = [TrackKind::Video, TrackKind::Audio].map(|kind| description.main_track(kind));
    let formats = description.media.iter().map(|media| &media.format);
    let is_media = |format: &Format| format.kind != TrackKind::Other;
    let has_media = formats.clone().any(is_media);
    formats.enumerate().map(move |(track, format)| {
        let mut lane = Lane::new(format, main.contains(&Some(track)));
        lane.is_beside = has_media && !is_media(format);
        lane
    })
}

/// Whether a source can go on with the tracks that players were told: they are the same, and parameter sets
/// of which players must be told in band are no longer than those that are repeated.
pub(super) fn can_go_on(
    lanes: &[Lane],
    known: &SessionDescription,
    source: &SessionDescription,
) -> bool {
    let tracks = known.media.iter().zip(&source.media);
    let mut tracks = lanes.iter().zip(tracks);
    has_same_tracks(known, source)
        && tracks.all(|(lane, (known, of_source))| {
            let sets = of_source.format.parameter_sets();
            let is_told = !lane.repeats_sets() && known.format.parameter_sets() == sets;
            is_told || sets.nals_len() <= lane.repeated_len_max()
        })
}

/// Whether packets of a description can go on where those of another one ended.
fn has_same_tracks(one: &SessionDescription, other: &SessionDescription) -> bool {
    let mut tracks = one.media.iter().zip(&other.media);
    one.media.len() == other.media.len()
        && tracks.all(|(one, other)| other.format.continues(&one.format))
}

/// What players are told of tracks from now on that a source goes on with; `None` where it is the same as
/// before. Payload types and addresses stay.
pub(super) fn with_sets_of(
    known: &SessionDescription,
    source: &SessionDescription,
) -> Option<SessionDescription> {
    let mut told = known.clone();
    let mut is_other = false;
    for (media, of_source) in told.media.iter_mut().zip(&source.media) {
        let (format, of_source) = (&mut media.format, &of_source.format);
        let sets = of_source.parameter_sets();
        // Those that come in band are told when they have come.
        if sets.nals().next().is_some() && format.parameter_sets() != sets {
            format.parameters.clone_from(&of_source.parameters);
            is_other = true;
        }
    }
    is_other.then_some(told)
}
