//! A source of tags: what becomes of its parts in the log.

use super::super::testing::{AUDIO_CONFIG, METADATA, VIDEO_CONFIG, Writer, payload};
use super::*;
use crate::limits::MESSAGE_LEN_MAX;

const AUDIO: u32 = 4;
const VIDEO: u32 = 6;

fn stamps(writer: &Writer) -> Vec<(TagKind, u32)> {
    let log = &writer.log;
    log.range(log.first_seq()..log.next_seq()).map(|of| (of.kind, of.timestamp_ms)).collect()
}

#[test]
fn each_byte_is_copied_once_however_it_comes() {
    let video = payload(&[0x17, 1, 0, 0, 0], 70_000);
    for piece in [1, 7, 4096, 70_000] {
        let mut writer = Writer::opened();
        writer.begin(0, TagKind::Video, 40, video.len());
        for bytes in video.chunks(piece) {
            writer.data(0, bytes);
        }
        let IngestBytes { received, copied, .. } = writer.ingest.bytes();
        let opening = METADATA.len() + VIDEO_CONFIG.len() + AUDIO_CONFIG.len();
        assert_eq!((received, copied), ((opening + video.len()) as u64, received));
        assert_eq!(writer.payloads()[3], video);
    }
}

#[test]
fn the_last_byte_tells_what_came() {
    let mut writer = Writer::opened();
    writer.begin(0, TagKind::Video, 0, 6);
    assert_eq!(writer.data(0, &[0x17, 1, 0, 0, 0]), Progress::default());
    let whole = Progress { committed: true, frame: true, video: true, ..Progress::default() };
    assert_eq!(writer.data(0, &[9]), whole);
    let config = writer.tag(TagKind::Audio, 0, AUDIO_CONFIG);
    assert_eq!(config, Progress { committed: true, ..Progress::default() });
}

#[test]
fn lanes_that_interleave_come_out_in_the_order_of_their_begins() {
    let video = payload(&[0x17, 1, 0, 0, 0], 50);
    let audio = payload(&[0xaf, 1], 20);
    for split in 1..video.len() {
        let mut writer = Writer::default();
        writer.begin(VIDEO, TagKind::Video, 0, video.len());
        writer.data(VIDEO, &video[..split]);
        writer.begin(AUDIO, TagKind::Audio, 5, audio.len());
        writer.data(AUDIO, &audio[..7]);
        assert!(!writer.data(AUDIO, &audio[7..]).committed, "it waits for the video");
        assert!(writer.data(VIDEO, &video[split..]).frame);
        assert_eq!(writer.payloads(), [video.clone(), audio.clone()]);
        let IngestBytes { received, copied, .. } = writer.ingest.bytes();
        assert_eq!(copied, received, "each byte once");
    }
}

/// A keyframe over some chunks of the arena, and audio between any two of its pieces.
#[test]
fn audio_between_the_chunks_of_a_keyframe_is_copied_once() {
    let video = payload(&[0x17, 1, 0, 0, 0], 100_000);
    let audio = payload(&[0xaf, 1], 300);
    let mut writer = Writer::opened();
    writer.begin(VIDEO, TagKind::Video, 0, video.len());
    let mut stamps_sent = vec![(TagKind::Video, 0)];
    for (number, piece) in (0..).zip(video.chunks(4096)) {
        writer.data(VIDEO, piece);
        let timestamp_ms = 20 * number;
        writer.begin(AUDIO, TagKind::Audio, timestamp_ms, audio.len());
        for half in audio.chunks(128) {
            writer.data(AUDIO, half);
        }
        stamps_sent.push((TagKind::Audio, timestamp_ms));
    }
    assert_eq!(stamps(&writer)[3..], stamps_sent);
    let payloads = writer.payloads();
    assert!(payloads[3] == video && payloads[4..].iter().all(|of| *of == audio));
    let IngestBytes { received, copied, config_copied } = writer.ingest.bytes();
    assert_eq!((copied, writer.ingest.dropped()), (received, 0));
    let configs = METADATA.len() + VIDEO_CONFIG.len() + AUDIO_CONFIG.len();
    assert_eq!(config_copied, (METADATA.len() + configs) as u64);
}

/// Three lanes, of which one is aborted after each number of its bytes while the others are
/// under way.
#[test]
fn an_abort_between_two_others_leaves_them_whole() {
    const TEXT: u32 = 7;
    let tag = payload(&[0x17, 1, 0, 0, 0], 40);
    for aborted in [VIDEO, AUDIO, TEXT] {
        for split in 0..tag.len() {
            let mut writer = Writer::default();
            for lane in [VIDEO, AUDIO, TEXT] {
                writer.begin(lane, TagKind::Video, lane * 40, tag.len());
                writer.data(lane, &tag[..split]);
            }
            writer.part(MediaPart::Abort { lane: aborted });
            for lane in [TEXT, AUDIO, VIDEO] {
                writer.data(lane, &tag[split..]);
            }
            writer.keyframe(400, 40);
            assert_eq!(writer.payloads(), [&tag[..]; 3], "{aborted} after {split}");
            let holes = writer.log.range(0..2).zip(writer.log.range(1..3));
            let hole_len: u64 = holes.map(|(of, next)| next.position - of.end()).sum();
            assert_eq!(hole_len, if aborted == AUDIO { 55 } else { 0 });
            assert_eq!(writer.ingest.dropped(), 1);
            let IngestBytes { received, copied, .. } = writer.ingest.bytes();
            assert!(copied <= received);
        }
    }
}

#[test]
fn a_frame_dropped_with_another_behind_it_leaves_a_hole() {
    let mut writer = Writer::opened();
    writer.keyframe(0, 10);
    writer.ingest.change_source(&mut writer.log);
    let frame = payload(&[0x27, 1, 0, 0, 0], 10);
    writer.begin(VIDEO, TagKind::Video, 0, frame.len());
    writer.begin(7, TagKind::Video, 40, 30);
    writer.data(VIDEO, &frame);
    writer.data(7, &payload(&[0x17, 1, 0, 0, 0], 30));
    assert_eq!((writer.log.next_seq(), writer.ingest.dropped()), (5, 1));
    let [before, behind] = [3, 4].map(|seq| *writer.log.entry(seq).unwrap());
    assert_eq!(behind.position - before.end(), 25);
    assert_eq!(writer.payloads()[4].len(), 30);
}

#[test]
fn what_waits_for_an_incomplete_tag_is_bounded() {
    let mut writer = Writer::default();
    writer.begin(VIDEO, TagKind::Video, 0, 6);
    for number in 0..DRAFTS_MAX as u32 {
        writer.audio(20 * number, 10);
    }
    writer.script(METADATA);
    assert_eq!(writer.ingest.dropped(), 2);
    writer.data(VIDEO, &[0x17, 1, 0, 0, 0, 1]);
    assert_eq!(writer.log.next_seq(), DRAFTS_MAX as u64);
    let largest = [20, 21, 22, 23].map(|lane| {
        writer.begin(lane, TagKind::Video, 0, MESSAGE_LEN_MAX);
        writer.log.tape_mut().reserved_len()
    });
    assert!(largest[3] == largest[1] && largest[3] <= DRAFTS_LEN_MAX, "{largest:?}");
    assert!(writer.log.held_bytes() < 1_000_000, "no memory by a peer's word");
    writer.ingest.drop_unfinished(&mut writer.log);
    assert_eq!(writer.log.tape_mut().reserved_len(), 0);
}

#[test]
fn a_tag_that_waits_half_goes_on_in_the_log() {
    let audio = payload(&[0xaf, 1], 20);
    let mut writer = Writer::default();
    writer.begin(VIDEO, TagKind::Video, 0, 6);
    writer.begin(AUDIO, TagKind::Audio, 5, audio.len());
    writer.data(AUDIO, &audio[..7]);
    writer.data(VIDEO, &[0x17, 1, 0, 0, 0, 1]);
    writer.data(AUDIO, &audio[7..]);
    assert_eq!(writer.payloads()[1], audio);
}

#[test]
fn an_aborted_tag_sets_free_those_that_waited_for_it() {
    let audio = payload(&[0xaf, 1], 20);
    let mut writer = Writer::default();
    writer.begin(VIDEO, TagKind::Video, 0, 100);
    writer.data(VIDEO, &[0x17, 1]);
    for timestamp_ms in [5, 25] {
        writer.begin(AUDIO, TagKind::Audio, timestamp_ms, audio.len());
        writer.data(AUDIO, &audio);
    }
    assert!(writer.part(MediaPart::Abort { lane: VIDEO }).frame);
    assert_eq!(stamps(&writer), [(TagKind::Audio, 5), (TagKind::Audio, 25)]);
    writer.begin(AUDIO, TagKind::Audio, 45, audio.len());
    writer.data(AUDIO, &audio);
    assert_eq!(writer.payloads(), [audio.clone(), audio.clone(), audio]);
}

#[test]
fn a_tag_that_brings_too_much_is_dropped() {
    let mut writer = Writer::default();
    writer.begin(VIDEO, TagKind::Video, 0, 6);
    writer.data(VIDEO, &[0x17, 1, 0, 0, 0, 1, 2]);
    writer.data(VIDEO, &[3]);
    writer.begin(AUDIO, TagKind::Audio, 0, 0);
    assert_eq!((writer.log.next_seq(), writer.ingest.dropped()), (0, 2));
    writer.audio(0, 20);
    assert_eq!(writer.log.next_seq(), 1);
}

#[test]
fn a_script_waits_for_the_tag_that_is_under_way() {
    let mut writer = Writer::default();
    writer.begin(VIDEO, TagKind::Video, 0, 6);
    writer.script(METADATA);
    writer.data(VIDEO, &[0x17, 1, 0, 0, 0, 1]);
    assert_eq!(writer.payloads()[1], METADATA);
    assert!(writer.log.entry(1).unwrap().config);
}

#[test]
fn a_new_source_begins_at_its_keyframe_one_step_later() {
    let mut writer = Writer::opened();
    writer.keyframe(1000, 10);
    writer.audio(1010, 10);
    writer.frame(1040, 10);
    writer.begin(VIDEO, TagKind::Video, 1080, 50);
    writer.data(VIDEO, &[0x27]);
    writer.ingest.change_source(&mut writer.log);
    writer.tag(TagKind::Video, 0, VIDEO_CONFIG);
    writer.audio(0, 10);
    writer.frame(7, 10);
    writer.keyframe(47, 10);
    writer.audio(7, 10);
    writer.audio(50, 10);
    // Its audio at 7 would be at 1040, where players are already.
    let spliced = [(TagKind::Video, 1040), (TagKind::Video, 1080), (TagKind::Audio, 1083)];
    assert_eq!(stamps(&writer)[6..], spliced);
    // The unfinished tag, audio and a frame before the keyframe, and audio behind it.
    assert_eq!(writer.ingest.dropped(), 4);
}

#[test]
fn a_new_source_without_keyframes_begins_after_a_while() {
    let mut writer = Writer::opened();
    writer.keyframe(1000, 10);
    writer.log.flush();
    writer.ingest.change_source(&mut writer.log);
    for frame in 0..252 {
        writer.frame(40 * frame, 10);
    }
    writer.log.flush();
    assert_eq!(stamps(&writer)[4..], [(TagKind::Video, 1040), (TagKind::Video, 1080)]);
    assert!(!writer.log.awaits_keyframe());
    assert_eq!(writer.log.start_seq(), 4);
}

#[test]
fn a_new_source_without_video_begins_with_its_audio() {
    let mut writer = Writer::default();
    writer.audio(1000, 10);
    writer.audio(1020, 10);
    writer.ingest.change_source(&mut writer.log);
    writer.audio(0, 10);
    assert_eq!(stamps(&writer)[2], (TagKind::Audio, 1040));
}

#[test]
fn a_new_source_that_brings_no_video_leaves_nobody_waiting_for_it() {
    let mut writer = Writer::opened();
    writer.keyframe(1000, 10);
    writer.log.flush();
    writer.ingest.change_source(&mut writer.log);
    let lost: Vec<bool> =
        (0..200).map(|at| writer.tag(TagKind::Audio, 20 * at, b"\xaf\x01xy").lost_video).collect();
    assert_eq!(lost.iter().filter(|lost| **lost).count(), 1);
    writer.log.flush();
    assert!(!writer.log.awaits_keyframe() && !writer.ingest.tracks().has_video());
    assert_eq!(writer.log.start_seq(), writer.log.flushed_seq());
    let kinds = writer.log.prelude_at_start().tags.iter().map(|(kind, _)| *kind);
    assert_eq!(kinds.collect::<Vec<_>>(), [TagKind::Script, TagKind::Audio]);
    let frame = writer.tag(TagKind::Video, 4000, b"\x27\x01\0\0\0");
    assert!(!frame.committed, "nobody has its keyframe");
    writer.keyframe(4040, 10);
    writer.log.flush();
    assert!(writer.log.has_video() && writer.log.start_seq() == writer.log.flushed_seq() - 1);
}

#[test]
fn frames_that_need_a_dropped_one_are_dropped_with_it() {
    let mut writer = Writer::default();
    writer.audio(1000, 10);
    writer.audio(1020, 10);
    writer.ingest.change_source(&mut writer.log);
    writer.audio(500, 10);
    writer.keyframe(400, 10);
    writer.frame(440, 10);
    writer.frame(540, 10);
    writer.keyframe(580, 10);
    assert_eq!(stamps(&writer)[3..], [(TagKind::Video, 1120)]);
}

#[test]
fn starting_over_keeps_the_counts_alone() {
    let mut writer = Writer::opened();
    writer.keyframe(1000, 100);
    writer.begin(VIDEO, TagKind::Video, 1040, 50);
    let bytes = writer.ingest.bytes();
    writer.ingest.start_over(&mut writer.log);
    assert_eq!((writer.ingest.bytes(), writer.ingest.dropped()), (bytes, 1));
    assert_eq!((writer.log.held_bytes(), writer.ingest.timestamp_ms()), (0, None));
    writer.keyframe(7, 10);
    assert_eq!(stamps(&writer), [(TagKind::Video, 7)]);
}
