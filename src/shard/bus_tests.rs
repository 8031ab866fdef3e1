//! What a shard tells another one whose queue is full: each thing once, and the latest.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Action, Admitted, PlayRequest, Policy, Shard};
use crate::bus::message::{LocalId, Message};
use crate::bus::view::PublisherView;
use crate::clock;
use crate::config::Config;
use crate::egress::{Batch, Shortfall, Socket, Wire};
use crate::media::{ConnectionId, Form, MediaPart, ShardId, StreamKey, TagKind};
use crate::proto::rtp::{Gap, RtpPacket, RtpPart};
use crate::proto::rtsp::SessionDescription;
use crate::stream::Packaging;

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

pub(super) struct NoPlayers;

impl Wire for NoPlayers {
    fn send(&mut self, _: &Batch<'_>, _: &mut Vec<Shortfall>) {}
}

struct Scene {
    shard: Shard,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        let shard = Shard::new(HERE, 2, 7, Policy::of(&Config::default(), 2));
        Self { shard, now: clock::now() }
    }

    /// The first key that this shard owns.
    fn key_of(&self, owner: ShardId) -> StreamKey {
        let mut keys =
            (0..).map(|n| StreamKey::in_default_vhost("live", &format!("s{n}")).unwrap());
        keys.find(|key| self.shard.owner_of(key) == owner).unwrap()
    }

    fn play(&mut self, serial: u32, key: &StreamKey) {
        let connection = ConnectionId { serial, shard: HERE };
        let (key, packaging) = (key.clone(), Packaging::Flv);
        let (local, peer, params) = (NOWHERE, NOWHERE, String::new());
        let request = PlayRequest { connection, key, packaging, local, peer, params };
        self.shard.play(self.now, request);
    }

    fn leave(&mut self, serial: u32) {
        self.shard.leave(ConnectionId { serial, shard: HERE });
    }

    fn publish(&mut self, key: &StreamKey) {
        self.publish_as(key, Form::Flv);
    }

    fn publish_as(&mut self, key: &StreamKey, form: Form) {
        let connection = ConnectionId { serial: 99, shard: HERE };
        let view = PublisherView {
            connection,
            form,
            local: NOWHERE,
            peer: NOWHERE,
            params: String::new(),
        };
        self.shard.publish(self.now, key, view).unwrap();
    }

    fn keyframe(&mut self, key: &StreamKey) {
        self.video(key, 0, &[0x17, 1, 0, 0, 0, 9]);
    }

    fn video(&mut self, key: &StreamKey, timestamp_ms: u32, payload: &[u8]) {
        let handle = self.shard.tables.find(key).unwrap();
        let len = payload.len() as u32;
        let begin = MediaPart::Begin { lane: 0, kind: TagKind::Video, timestamp_ms, len };
        let data = MediaPart::Data { lane: 0, bytes: Bytes::copy_from_slice(payload) };
        for part in [begin, data] {
            assert!(self.shard.media(self.now, handle, part));
        }
    }

    /// A source of packets of one static payload type begins, and brings its first one.
    fn begin_rtp(&mut self, key: &StreamKey, payload_type: u8) {
        self.publish_as(key, Form::Rtp);
        let handle = self.shard.tables.find(key).unwrap();
        let sdp = format!("v=0\r\nm=audio 0 RTP/AVP {payload_type}\r\n");
        let description = SessionDescription::parse(sdp.as_bytes()).unwrap();
        let packet = [0x80, payload_type, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 7, 7];
        let packet = RtpPacket::parse(Bytes::copy_from_slice(&packet)).unwrap();
        for part in [
            RtpPart::Begin(description.into()),
            RtpPart::Packet { track: 0, packet, gap: Gap::None },
        ] {
            assert!(self.shard.rtp(self.now, handle, part));
        }
    }

    fn interest(&mut self, key: &StreamKey, counts: (u32, u32)) {
        self.interest_in(Form::Flv, key, counts);
    }

    fn interest_in(&mut self, form: Form, key: &StreamKey, (players, waiters): (u32, u32)) {
        let local = LocalId { shard: THERE, form, slot: 0, serial: 1 };
        let message =
            Message::Interest { key: key.clone(), local, players, waiters, askings: vec![] };
        self.shard.handle_message(self.now, THERE, message);
    }

    /// What the other shard is sent, after a tick.
    fn sent(&mut self) -> Vec<String> {
        self.shard.tick(self.now, &mut NoPlayers);
        let actions = std::iter::from_fn(|| self.shard.poll_action());
        let sent = actions.filter_map(|action| match action {
            Action::Send { to: THERE, message } => Some(match message {
                Message::Interest { players, waiters, .. } => {
                    format!("interest {players} {waiters}")
                }
                Message::Attached { .. } => "attached".to_owned(),
                Message::Flushed { .. } => "flushed".to_owned(),
                Message::Suspended { .. } => "suspended".to_owned(),
                Message::Resumed { .. } => "resumed".to_owned(),
                _ => "else".to_owned(),
            }),
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn an_owner_with_a_full_queue_is_told_the_latest_count_when_it_has_room() {
    let mut scene = Scene::new();
    let key = scene.key_of(THERE);
    scene.play(1, &key);
    assert_eq!(scene.sent(), ["interest 0 1"]);
    scene.shard.set_backed_up(THERE, true);
    for serial in 2..50 {
        scene.play(serial, &key);
        assert!(scene.sent().is_empty());
    }
    scene.leave(2);
    assert!(scene.sent().is_empty());
    scene.shard.set_backed_up(THERE, false);
    assert_eq!(scene.sent(), ["interest 0 48"]);
    (3..50).chain([1]).for_each(|serial| scene.leave(serial));
    assert_eq!(scene.sent(), ["interest 0 0"]);
    assert!(scene.shard.ledger().is_zero());
}

#[test]
fn who_comes_and_goes_while_the_queue_is_full_leaves_nothing() {
    let mut scene = Scene::new();
    let key = scene.key_of(THERE);
    scene.shard.set_backed_up(THERE, true);
    for serial in 0..10 {
        scene.play(serial, &key);
        assert!(scene.sent().is_empty());
        scene.leave(serial);
        assert!(scene.sent().is_empty());
        assert!(scene.shard.ledger().is_zero());
    }
    scene.shard.set_backed_up(THERE, false);
    assert!(scene.sent().is_empty());
}

#[test]
fn snapshots_wait_for_room() {
    let mut scene = Scene::new();
    let key = scene.key_of(HERE);
    scene.interest(&key, (0, 1));
    scene.publish(&key);
    scene.shard.set_backed_up(THERE, true);
    for _ in 0..10 {
        scene.keyframe(&key);
        assert!(scene.sent().is_empty());
    }
    scene.shard.set_backed_up(THERE, false);
    scene.keyframe(&key);
    assert_eq!(scene.sent(), ["attached"]);
    scene.keyframe(&key);
    assert_eq!(scene.sent(), ["flushed"]);
}

#[test]
fn a_source_that_comes_and_goes_is_told_of_once_while_the_queue_is_full() {
    let mut scene = Scene::new();
    let key = scene.key_of(HERE);
    scene.interest(&key, (1, 0));
    scene.publish(&key);
    scene.keyframe(&key);
    assert_eq!(scene.sent(), ["attached", "flushed"]);
    scene.shard.set_backed_up(THERE, true);
    let mut sent = Vec::new();
    for _ in 0..10 {
        scene.shard.unpublish(scene.now, ConnectionId { serial: 99, shard: HERE }, false);
        scene.publish(&key);
        scene.keyframe(&key);
        let flushes = scene.sent();
        if flushes.iter().any(|message| message == "flushed") {
            // As the mesh does.
            scene.shard.flush_was_dropped(THERE, &key, Form::Flv);
        }
        sent.extend(flushes);
    }
    assert_eq!(sent, ["suspended", "resumed", "flushed", "suspended"]);
    scene.shard.set_backed_up(THERE, false);
    scene.keyframe(&key);
    assert_eq!(scene.sent(), ["attached"]);
}

#[test]
fn a_source_with_other_tracks_is_told_with_a_new_snapshot() {
    let mut scene = Scene::new();
    let key = scene.key_of(HERE);
    scene.interest(&key, (1, 0));
    let mut told = Vec::new();
    // The same tracks again, then others.
    for payload_type in [8, 8, 0] {
        scene.begin_rtp(&key, payload_type);
        scene.now += Duration::from_secs(1);
        told.push(scene.sent());
        scene.shard.unpublish(scene.now, ConnectionId { serial: 99, shard: HERE }, false);
        assert_eq!(scene.sent(), ["suspended"]);
    }
    assert_eq!(told, [&["attached"][..], &["resumed", "flushed"], &["attached", "flushed"]]);
}

#[test]
fn packets_that_are_described_anew_need_no_new_snapshot() {
    const AVC: &[u8] =
        b"\x17\0\0\0\0\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\
        \x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";
    const KEYFRAME: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65\x88";
    let mut scene = Scene::new();
    let key = scene.key_of(HERE);
    scene.interest_in(Form::Rtp, &key, (1, 0));
    scene.publish(&key);
    let other = [&AVC[..AVC.len() - 1], b"\xc9"].concat();
    let mut told = Vec::new();
    // Without a word of sound it is waited for.
    for (timestamp_ms, record) in
        [(0, AVC), (600, AVC), (640, AVC), (680, &other[..]), (720, &other[..])]
    {
        scene.video(&key, timestamp_ms, record);
        scene.video(&key, timestamp_ms, KEYFRAME);
        told.push(scene.sent());
    }
    let none: &[&str] = &[];
    // What is flushed has the description with it.
    assert_eq!(told, [none, &["attached"], &["flushed"], &["flushed"], &["flushed"]]);
}

#[test]
fn a_flush_knows_when_its_oldest_video_came() {
    let mut scene = Scene::new();
    let key = scene.key_of(HERE);
    let connection = ConnectionId { serial: 1, shard: HERE };
    scene.interest(&key, (1, 0));
    scene.play(1, &key);
    scene.publish(&key);
    scene.keyframe(&key);
    let mut seen = Vec::new();
    for turn in 0..5 {
        scene.now += Duration::from_millis(40);
        let came = scene.now;
        if turn < 4 {
            scene.keyframe(&key);
            scene.now += Duration::from_millis(1);
            scene.keyframe(&key);
        }
        scene.shard.tick(scene.now, &mut NoPlayers);
        let sent_here = scene.shard.sent_video().contains(&came);
        let mut sent_there = false;
        while let Some(action) = scene.shard.poll_action() {
            match action {
                Action::Send { to: THERE, message: Message::Flushed { video_since, .. } } => {
                    sent_there |= video_since == Some(came);
                }
                Action::Send { to: HERE, message } => {
                    scene.shard.handle_message(scene.now, HERE, message);
                }
                Action::Admit { .. } => {
                    let admitted =
                        Admitted { connection, socket: Socket(1), unsent: Bytes::new(), rtp: None };
                    scene.shard.admitted(scene.now, admitted, &mut NoPlayers);
                }
                _ => {}
            }
        }
        seen.push((sent_here, sent_there));
    }
    // The player here came with the second turn; the last turn brought nothing.
    assert_eq!(seen[2..], [(true, true), (true, true), (false, false)]);
    assert!(scene.shard.sent_video().is_empty());
}
