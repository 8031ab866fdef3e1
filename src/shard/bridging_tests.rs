//! Players of the form that a stream's source does not bring: how much is made for them in one turn, and
//! that they are refused when their form can't carry the stream.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::bus_tests::NoPlayers;
use super::{Action, PlayRequest, Policy, Shard};
use crate::bus::view::PublisherView;
use crate::clock;
use crate::config::Config;
use crate::limits::BRIDGE_SLICE_LEN;
use crate::media::state::EndReason;
use crate::media::{Codec, ConnectionId, Form, MediaPart, ShardId, StreamKey, TagKind};
use crate::proto::rtp::{Gap, RtpHeader, RtpPacket, RtpPart};
use crate::proto::rtsp::SessionDescription;
use crate::stream::Packaging;

const HERE: ShardId = ShardId(0);
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

const AVC: &[u8] =
    b"\x17\0\0\0\0\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\
    \x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";
const SOUND: &[u8] = &[0x72, 1, 2, 3];

struct Scene {
    shard: Shard,
    now: Instant,
    admitted: Vec<ConnectionId>,
    refused: Vec<(ConnectionId, EndReason)>,
    ended: Vec<(ConnectionId, EndReason)>,
}

fn connection(serial: u32) -> ConnectionId {
    ConnectionId { serial, shard: HERE }
}

fn key(stream: &str) -> StreamKey {
    StreamKey::in_default_vhost("live", stream).unwrap()
}

impl Scene {
    fn new() -> Self {
        let shard = Shard::new(HERE, 1, 7, Policy::of(&Config::default(), 1));
        let (admitted, refused, ended) = Default::default();
        Self { shard, now: clock::now(), admitted, refused, ended }
    }

    fn publish(&mut self, stream: &str, serial: u32, form: Form) {
        let (local, peer, params) = (NOWHERE, NOWHERE, String::new());
        let view = PublisherView { connection: connection(serial), form, local, peer, params };
        self.shard.publish(self.now, &key(stream), view).unwrap();
    }

    fn tag(&mut self, stream: &str, kind: TagKind, timestamp_ms: u32, payload: &[u8]) {
        let handle = self.shard.tables.find(&key(stream)).unwrap();
        let (lane, len) = (kind as u32, payload.len() as u32);
        let begin = MediaPart::Begin { lane, kind, timestamp_ms, len };
        let data = MediaPart::Data { lane, bytes: Bytes::copy_from_slice(payload) };
        for part in [begin, data] {
            assert!(self.shard.media(self.now, handle, part));
        }
    }

    /// The publisher with that number breaks off.
    fn lose(&mut self, serial: u32) {
        self.shard.unpublish(self.now, connection(serial), false);
    }

    /// What a source of packets says of itself, and its pictures of one packet.
    fn packets(&mut self, stream: &str, sdp: &str, units: &[&[u8]]) {
        let handle = self.shard.tables.find(&key(stream)).unwrap();
        let sdp = SessionDescription::parse(sdp.as_bytes()).unwrap();
        assert!(self.shard.rtp(self.now, handle, RtpPart::Begin(sdp.into())));
        for (sequence, unit) in (1..).zip(units) {
            let timestamp = u32::from(sequence) * 3600;
            let header = RtpHeader { marker: true, payload_type: 96, sequence, timestamp, ssrc: 5 };
            let bytes = [&header.encode()[..], unit].concat();
            let packet = RtpPacket::parse(Bytes::from(bytes)).unwrap();
            let part = RtpPart::Packet { track: 0, packet, gap: Gap::None };
            assert!(self.shard.rtp(self.now, handle, part));
        }
        self.turn();
    }

    fn play(&mut self, stream: &str, serial: u32, packaging: Packaging) {
        let (local, peer, params) = (NOWHERE, NOWHERE, String::new());
        let connection = connection(serial);
        let request = PlayRequest { connection, key: key(stream), packaging, local, peer, params };
        self.shard.play(self.now, request);
    }

    /// What a turn of the driver does, later than any sound waits for a picture.
    fn turn(&mut self) {
        self.now += Duration::from_secs(1);
        self.shard.handle_timeout(self.now);
        self.shard.tick(self.now, &mut NoPlayers);
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Send { message, .. } => self.shard.handle_message(self.now, HERE, message),
                Action::Admit { connection } => self.admitted.push(connection),
                Action::Refuse { connection, reason } => {
                    self.refused.push((connection, reason));
                    self.shard.released(connection);
                }
                Action::End { connection, reason, .. } => {
                    self.ended.push((connection, reason));
                    self.shard.released(connection);
                }
                _ => {}
            }
        }
    }

    /// The next turn is due at once.
    fn is_due(&self) -> bool {
        self.shard.poll_timeout().is_some_and(|due| due <= self.now)
    }
}

#[test]
fn a_large_gop_takes_several_turns_and_others_go_on() {
    let mut scene = Scene::new();
    let picture = |kind: u8| [&[kind, 1, 0, 0, 0, 0, 1, 0, 0, 0x65][..], &[7; 0xffff]].concat();
    scene.publish("large", 1, Form::Flv);
    scene.tag("large", TagKind::Video, 0, AVC);
    for at in 0..100 {
        scene.tag("large", TagKind::Video, 40 * at, &picture(if at == 0 { 0x17 } else { 0x27 }));
    }
    scene.publish("small", 2, Form::Flv);
    scene.tag("small", TagKind::Video, 0, AVC);
    scene.tag("small", TagKind::Video, 0, &picture(0x17));
    scene.tag("small", TagKind::Audio, 0, SOUND);
    (0..3).for_each(|_| scene.turn());
    scene.play("large", 3, Packaging::Rtsp);
    scene.play("small", 4, Packaging::Rtsp);
    let mut made = vec![scene.shard.totals().bridge.bytes_copied];
    let mut turns_until_all_play = 0;
    for turn in 0..100 {
        scene.turn();
        made.push(scene.shard.totals().bridge.bytes_copied);
        if scene.admitted.len() < 2 {
            turns_until_all_play = turn;
        }
        if turn > 3 && !scene.is_due() {
            break;
        }
    }
    // Not behind the whole of the other's GOP.
    assert_eq!(scene.admitted.len(), 2);
    assert!(turns_until_all_play < 6, "{turns_until_all_play} turns");
    let slices: Vec<u64> = made.windows(2).map(|two| two[1] - two[0]).collect();
    let len_max = BRIDGE_SLICE_LEN + 2 * 0x1_0000;
    assert!(slices.iter().all(|len| *len <= len_max), "{slices:?}");
    assert!(slices.iter().filter(|len| **len > 0).count() >= 6, "{slices:?}");
    assert!(slices.iter().sum::<u64>() > 6_500_000, "{slices:?}");
    // It stands still then, and goes on with what comes.
    scene.turn();
    assert!(!scene.is_due() && scene.shard.bridging.is_empty());
    let before = scene.shard.totals().bridge.bytes_copied;
    scene.tag("large", TagKind::Video, 4000, &picture(0x27));
    scene.turn();
    assert!(scene.shard.totals().bridge.bytes_copied > before);
}

#[test]
fn players_of_packets_come_again_for_a_track_that_is_late() {
    const AAC: &[&[u8]] = &[b"\xaf\0\x11\x90", b"\xaf\x01abc"];
    let mut scene = Scene::new();
    let picture = |at| -> &[u8] {
        let is_first = at == 0;
        if is_first {
            b"\x17\x01\0\0\0\0\0\0\x02\x65\x88"
        } else {
            b"\x27\x01\0\0\0\0\0\0\x02\x41\x88"
        }
    };
    scene.play("late", 3, Packaging::Rtsp);
    scene.publish("late", 1, Form::Flv);
    scene.tag("late", TagKind::Video, 0, AVC);
    for at in (0..560).step_by(40) {
        scene.tag("late", TagKind::Video, at, picture(at));
        scene.turn();
    }
    let tracks = |scene: &Scene, serial| {
        scene.shard.description(connection(serial)).map(|told| told.media.len())
    };
    assert_eq!((&scene.admitted[..], tracks(&scene, 3)), (&[connection(3)][..], Some(1)));
    AAC.iter().for_each(|tag| scene.tag("late", TagKind::Audio, 600, tag));
    (0..3).for_each(|_| scene.turn());
    assert_eq!(scene.ended, [(connection(3), EndReason::TracksChanged)]);
    scene.play("late", 4, Packaging::Rtsp);
    (0..3).for_each(|_| scene.turn());
    assert_eq!((&scene.admitted[1..], tracks(&scene, 4)), (&[connection(4)][..], Some(2)));
    for at in (640..3000).step_by(40) {
        scene.tag("late", TagKind::Video, at, picture(at));
        scene.tag("late", TagKind::Audio, at, AAC[1]);
        scene.turn();
    }
    assert_eq!(scene.ended.len(), 1, "once");
    scene.shard.leave(connection(4));
    scene.shard.unpublish(scene.now, connection(1), true);
    (0..3).for_each(|_| scene.turn());
    scene.shard.released(connection(1));
    (0..3).for_each(|_| scene.turn());
    assert!(scene.shard.ledger().is_zero(), "{:?}", scene.shard.ledger());
}

/// What is made from the newest keyframe on is void as soon as it is there: nobody is let in for that.
#[test]
fn players_of_packets_wait_for_tracks_that_last() {
    const SOUND: &[u8] = b"\xaf\x01abc";
    let mut scene = Scene::new();
    let bring = |scene: &mut Scene, config: Option<&[u8]>, is_keyframe: bool, at: u32| {
        let picture = if is_keyframe { KEYFRAME } else { b"\x27\x01\0\0\0\0\0\0\x02\x41\x88" };
        scene.tag("a", TagKind::Video, at, picture);
        config.into_iter().for_each(|of| scene.tag("a", TagKind::Audio, at, of));
        scene.tag("a", TagKind::Audio, at, SOUND);
        scene.turn();
    };
    scene.publish("a", 1, Form::Flv);
    scene.tag("a", TagKind::Video, 0, AVC);
    let (stereo, mono): (&[u8], &[u8]) = (b"\xaf\0\x11\x90", b"\xaf\0\x11\x88");
    scene.tag("a", TagKind::Audio, 0, stereo);
    bring(&mut scene, None, true, 0);
    bring(&mut scene, None, false, 40);
    bring(&mut scene, Some(mono), false, 80);
    scene.play("a", 9, Packaging::Rtsp);
    (3..6).for_each(|picture| bring(&mut scene, None, false, 40 * picture));
    assert_eq!((&scene.admitted[..], &scene.ended[..]), (&[][..], &[][..]));
    bring(&mut scene, None, true, 240);
    (7..12).for_each(|picture| bring(&mut scene, None, false, 40 * picture));
    assert_eq!((&scene.admitted[..], &scene.ended[..]), (&[connection(9)][..], &[][..]));
    let told = scene.shard.description(connection(9)).expect("it plays");
    assert!(told.media[1].format.parameters.ends_with("config=1188"), "{told:?}");
    end(scene, 1);
}

/// Where sound is of another codec, which needs no configuration, that of before says nothing of it.
#[test]
fn players_of_packets_come_where_sound_has_become_another_codec() {
    let mut scene = Scene::new();
    scene.publish("a", 1, Form::Flv);
    scene.tag("a", TagKind::Video, 0, AVC);
    scene.tag("a", TagKind::Audio, 0, b"\xaf\0\x11\x90");
    for (at, sound) in [(0, &b"\xaf\x01abc"[..]), (40, &[0x72, 1, 2, 3])] {
        scene.tag("a", TagKind::Video, at, KEYFRAME);
        scene.tag("a", TagKind::Audio, at, sound);
        scene.turn();
    }
    scene.play("a", 9, Packaging::Rtsp);
    (2..5).for_each(|picture| {
        scene.tag("a", TagKind::Video, 40 * picture, KEYFRAME);
        scene.tag("a", TagKind::Audio, 40 * picture, &[0x72, 1, 2, 3]);
        scene.turn();
    });
    assert_eq!((&scene.admitted[..], &scene.ended[..]), (&[connection(9)][..], &[][..]));
    let told = scene.shard.description(connection(9)).expect("it plays");
    assert_eq!(told.media[1].format.codec(), Codec::PcmA);
    end(scene, 1);
}

#[test]
fn players_of_a_stream_that_their_form_cannot_carry_are_refused_with_its_tracks() {
    let mut scene = Scene::new();
    let refused = |serial| (connection(serial), EndReason::NotCarried);
    scene.play("tags", 3, Packaging::Rtsp);
    scene.publish("tags", 1, Form::Flv);
    scene.tag("tags", TagKind::Video, 0, b"\x91vp09\0\0");
    scene.turn();
    assert_eq!(scene.refused, []);
    scene.tag("tags", TagKind::Audio, 10, b"\x2f\xff\xfb");
    scene.play("tags", 4, Packaging::Flv);
    for _ in 0..3 {
        scene.turn();
    }
    assert_eq!(
        (&scene.refused[..], &scene.admitted[..]),
        (&[refused(3)][..], &[connection(4)][..])
    );
    // Who comes later, too.
    scene.play("tags", 5, Packaging::Rtsp);
    (0..3).for_each(|_| scene.turn());
    assert_eq!(scene.refused[1..], [refused(5)]);

    // The other way.
    scene.play("packets", 6, Packaging::Rtmp);
    scene.publish("packets", 2, Form::Rtp);
    let handle = scene.shard.tables.find(&key("packets")).unwrap();
    let sdp = SessionDescription::parse(b"v=0\r\nm=video 0 RTP/AVP 26\r\n").unwrap();
    let packet = [0x80, 26, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 7, 7];
    let packet = RtpPacket::parse(Bytes::copy_from_slice(&packet)).unwrap();
    let gap = Gap::None;
    for part in [RtpPart::Begin(sdp.into()), RtpPart::Packet { track: 0, packet, gap }] {
        assert!(scene.shard.rtp(scene.now, handle, part));
    }
    (0..3).for_each(|_| scene.turn());
    assert_eq!(scene.refused[2..], [refused(6)]);

    scene.shard.leave(connection(4));
    scene.shard.unpublish(scene.now, connection(1), true);
    scene.shard.unpublish(scene.now, connection(2), true);
    (0..3).for_each(|_| scene.turn());
    scene.shard.released(connection(1));
    scene.shard.released(connection(2));
    (0..3).for_each(|_| scene.turn());
    assert!(scene.shard.ledger().is_zero(), "{:?}", scene.shard.ledger());
}

const KEYFRAME: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65\x88";
const H264: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
const H265: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n";

/// A stream of pictures alone, with a player of packets, whose publisher is gone.
fn lost_publisher() -> Scene {
    let mut scene = Scene::new();
    scene.publish("a", 1, Form::Flv);
    scene.play("a", 9, Packaging::Rtsp);
    for at in 0..3 {
        scene.tag("a", TagKind::Video, 600 * at, AVC);
        scene.tag("a", TagKind::Video, 600 * at, KEYFRAME);
        scene.turn();
    }
    scene.turn();
    assert_eq!(scene.admitted, [connection(9)]);
    scene.lose(1);
    scene.turn();
    scene
}

fn end(mut scene: Scene, publisher: u32) {
    scene.shard.leave(connection(9));
    scene.shard.unpublish(scene.now, connection(publisher), true);
    (0..3).for_each(|_| scene.turn());
    scene.shard.released(connection(publisher));
    (0..3).for_each(|_| scene.turn());
    assert!(scene.shard.ledger().is_zero(), "{:?}", scene.shard.ledger());
}

#[test]
fn publisher_that_comes_back_ends_nobody_before_its_keyframe() {
    let ended = (connection(9), EndReason::TracksChanged);
    let h264: [&[u8]; 2] = [b"\x65\x88\x84", b"\x41\x9a\x84"];
    let h265: [&[u8]; 2] = [b"\x26\x01\xaf", b"\x02\x01\xd0"];
    for (sdp, [keyframe, picture], is_ended) in [(H264, h264, false), (H265, h265, true)] {
        let mut scene = lost_publisher();
        // It goes again without a keyframe, and so nothing is of other tracks.
        scene.publish("a", 2, Form::Rtp);
        scene.packets("a", sdp, &[picture]);
        scene.lose(2);
        scene.turn();
        assert!(scene.ended.is_empty(), "{sdp}");
        scene.publish("a", 3, Form::Rtp);
        scene.packets("a", sdp, &[]);
        assert!(scene.ended.is_empty(), "{sdp}");
        scene.packets("a", sdp, &[keyframe, picture, picture]);
        assert_eq!(scene.ended, vec![ended; usize::from(is_ended)]);
        end(scene, 3);
    }
}

#[test]
fn publisher_of_tags_ends_nobody_before_its_keyframe() {
    for (config, keyframe, is_ended) in
        [(AVC, KEYFRAME, false), (&b"\x90vp09\x01\0\0\0"[..], &b"\x91vp09\0\0"[..], true)]
    {
        let mut scene = lost_publisher();
        scene.publish("a", 2, Form::Flv);
        scene.tag("a", TagKind::Video, 0, config);
        scene.turn();
        assert!(scene.ended.is_empty());
        scene.tag("a", TagKind::Video, 40, keyframe);
        scene.turn();
        assert_eq!(scene.ended.len(), usize::from(is_ended), "{:?}", scene.ended);
        end(scene, 2);
    }
}

/// Who is held back and brings nothing more is silent as any other one.
#[test]
fn publisher_that_is_held_back_is_ended_when_it_is_silent() {
    let mut scene = lost_publisher();
    scene.publish("a", 2, Form::Rtp);
    scene.packets("a", H264, &[b"\x41\x9a"]);
    for _ in 0..60 {
        scene.turn();
    }
    let of_publisher = |of: &&(ConnectionId, EndReason)| of.0 == connection(2);
    assert_eq!(scene.ended.iter().filter(of_publisher).count(), 1);
    (0..60).for_each(|_| scene.turn());
    assert!(scene.shard.ledger().is_zero(), "{:?}", scene.shard.ledger());
}
