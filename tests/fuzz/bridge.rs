//! What the targets of the bridge share: tags and packets out of a fuzzer's bytes, and what must hold
//! of what is made of them.

use bytes::Bytes;
use rillcast::bridge::{FlvTag, InPacket, OutPacket, ToFlv, ToRtp};
use rillcast::media::{Payload, TagKind};
use rillcast::proto::flv::classify::classify;
use rillcast::proto::rtp::rtcp::NtpTime;
use rillcast::proto::rtp::{Gap, RtpHeader, RtpPacket};
use rillcast::proto::rtsp::SessionDescription;

/// Makes packets of tags that the input describes, and tags of those.
///
/// Each tag: its length (8 bits; times 8 with the highest flag), flags (2 bits of kind, where 3 is one
/// of [`KNOWN_TAGS`] that the length chooses; seconds instead of milliseconds; players may start there),
/// milliseconds since the one before, with a sign, and payload.
pub fn to_rtp(data: &[u8]) {
    let mut converter = ToRtp::new(1);
    let mut packets = Vec::new();
    let (mut rest, mut time_ms) = (data, 0_u32);
    while let [len, flags, step, ref behind @ ..] = *rest {
        let len = usize::from(len) * if flags & 0x80 == 0 { 1 } else { 8 };
        let unit = if flags & 0x40 == 0 { 1 } else { 1000 };
        time_ms = time_ms.wrapping_add_signed(unit * i32::from(step.cast_signed()));
        let (kind, payload) = if flags & 3 == 3 {
            rest = behind;
            KNOWN_TAGS[len % KNOWN_TAGS.len()]
        } else {
            let (payload, behind) = behind.split_at(len.min(behind.len()));
            rest = behind;
            let kinds = [TagKind::Video, TagKind::Audio, TagKind::Script];
            (kinds[usize::from(flags & 3)], payload)
        };
        let payload: Payload = payload.chunks(50).map(Bytes::copy_from_slice).collect();
        let tag = FlvTag { kind, timestamp_ms: time_ms, payload };
        converter.handle_tag(tag, flags & 0x20 != 0, &mut |packet| packets.push(packet));
    }
    let description = converter.description();
    assert!(packets.is_empty() || converter.is_complete());
    if let Some(description) = description {
        give_back(&converter, &description, &packets);
    }
}

fn give_back(converter: &ToRtp, description: &SessionDescription, packets: &[OutPacket]) {
    // As text, as a player has it.
    let text = description.encode();
    let read = SessionDescription::parse(text.as_bytes()).expect("a description of ours");
    let Some(mut to_flv) = ToFlv::new(&read) else { return };
    let mut seen = Seen::default();
    for &OutPacket { track, time_ms, keyframe: is_start, ref packet, .. } in packets {
        assert!(track < description.media.len());
        assert!(converter.sender_report(track, time_ms, NtpTime(0)).is_some());
        let Some(bytes) = packet.clone().interleaved(0) else { continue };
        let bytes = Bytes::from(bytes.to_vec()).slice(4..);
        let packet = RtpPacket::parse(bytes).expect("a packet of ours");
        let sink = &mut |tag: FlvTag| seen.check(&tag);
        let gap = Gap::None;
        to_flv.handle_packet(InPacket { track, packet: &packet, gap, time_ms, is_start }, sink);
    }
}

/// Makes tags of packets that the input describes, of the tracks that its first byte chooses.
///
/// Each packet: its length (8 bits; times 8 with the highest flag), flags (marker, 2 bits of gap, same
/// timestamp, second track, a jump in time, players may start there), payload.
pub fn to_flv(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let text = DESCRIPTIONS[usize::from(choice) % DESCRIPTIONS.len()];
    let description = SessionDescription::parse(text.as_bytes()).expect("it is sound");
    let mut converter = ToFlv::new(&description).expect("codecs of ours");
    let mut seen = Seen::default();
    let (mut sequence, mut timestamp, mut shift_ms) = (0_u16, 0_u32, 0_u32);
    while let [len, flags, ref behind @ ..] = *rest {
        let len = usize::from(len) * if flags & 0x80 == 0 { 1 } else { 8 };
        let (payload, behind) = behind.split_at(len.min(behind.len()));
        rest = behind;
        if flags & 8 == 0 {
            timestamp = timestamp.wrapping_add(3600);
        }
        if flags & 0x20 != 0 {
            shift_ms = shift_ms.wrapping_add(0x1000_0001_u32.wrapping_mul(len as u32));
        }
        let marker = flags & 1 != 0;
        let header = RtpHeader { marker, payload_type: 96, sequence, timestamp, ssrc: 1 };
        sequence = sequence.wrapping_add(1);
        let packet = RtpPacket::parse([&header.encode()[..], payload].concat().into());
        let packet = packet.expect("a packet of ours");
        let gap = match flags >> 1 & 3 {
            0 | 3 => Gap::None,
            1 => Gap::Lost(1),
            _ => Gap::Restart,
        };
        let time_ms = (timestamp / 90).wrapping_add(shift_ms);
        let track = usize::from(flags >> 4 & 1);
        let sink = &mut |tag: FlvTag| seen.check(&tag);
        let is_start = flags & 0x40 != 0;
        converter.handle_packet(InPacket { track, packet: &packet, gap, time_ms, is_start }, sink);
    }
}

/// What has come out so far.
#[derive(Default)]
struct Seen {
    metadata: bool,
    keyframe: bool,
    config: bool,
}

impl Seen {
    fn check(&mut self, tag: &FlvTag) {
        if tag.kind == TagKind::Script {
            self.metadata = true;
            return;
        }
        assert!(self.metadata, "it comes first");
        let class = classify(tag.kind, &tag.payload.to_vec()).expect("a tag of ours");
        assert!(class.composition_ms >= 0);
        if tag.kind == TagKind::Video {
            self.config |= class.config;
            self.keyframe |= class.keyframe;
            assert!(self.config && (class.config || self.keyframe));
        }
    }
}

/// A configuration of each codec, frames, metadata.
pub const KNOWN_TAGS: [(TagKind, &[u8]); 6] = [
    (
        TagKind::Video,
        b"\x17\0\0\0\0\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\
          \x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8",
    ),
    (TagKind::Video, b"\x17\x01\0\0\0\0\0\0\x02\x65\x88"),
    (TagKind::Audio, b"\xaf\0\x11\x90"),
    (TagKind::Audio, b"\x90OpusOpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0"),
    (TagKind::Audio, b"\x72abcdefgh"),
    (
        TagKind::Script,
        b"\x02\0\x0aonMetaData\x08\0\0\0\x02\0\x0cvideocodecid\0\x40\x1c\0\0\0\0\0\0\
          \0\x0caudiocodecid\0\x40\x24\0\0\0\0\0\0\0\0\x09",
    ),
];

const DESCRIPTIONS: [&str; 4] = [
    "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n\
     m=audio 0 RTP/AVP 97\na=rtpmap:97 mpeg4-generic/48000/2\n\
     a=fmtp:97 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1190\n",
    "m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\n\
     m=audio 0 RTP/AVP 97\na=rtpmap:97 opus/48000/2\n",
    "m=audio 0 RTP/AVP 96\na=rtpmap:96 MP4A-LATM/48000/2\na=fmtp:96 cpresent=1\n\
     m=video 0 RTP/AVP 97\na=rtpmap:97 H264/90000\n",
    "m=audio 0 RTP/AVP 8\nm=video 0 RTP/AVP 97\na=rtpmap:97 H265/90000\n",
];
