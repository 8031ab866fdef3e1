//! The kit tested on itself, nginx-rtmp and ffmpeg: a kit that cannot fail proves nothing.

mod kit;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use kit::camera::{Camera, Habits};
use kit::compare::{AtLeast, assert_never_steps_back, assert_same_media};
use kit::fault::{Mode, Origin, Stage};
use kit::ffmpeg::{
    Modern, Publisher, Recorder, assert_same_packets, decode_first_frames, packets_of,
};
use kit::flv::{Kind, Role, Tag, encode, header, read};
use kit::player::End;
use kit::rtp_media::{Media, Plan};
use kit::rtsp::Lower;
use kit::rtsp_peers::{Clip, FilePlayer, Sound};
use kit::rtsp_player::RtspPlayer;
use kit::tshark::assert_plays_soundly;
use kit::units::{Unit, WithinMs, assert_part_of, assert_same, split_nals};
use kit::{Nginx, Player, TempDir, media};

/// About two seconds.
const SOME: AtLeast = AtLeast { video: 50, audio: 80 };

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn fails(work: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

#[test]
fn flv_reader_takes_any_split_and_refuses_wrong_sizes() {
    let tags = read(&media("av.flv"));
    let mut bytes = header(true, true);
    tags.iter().for_each(|tag| bytes.extend(encode(tag)));
    let mut reader = kit::flv::Reader::default();
    let mut got = Vec::new();
    for chunk in bytes.chunks(7) {
        got.extend(reader.push(chunk).unwrap());
    }
    assert_eq!(got, tags);
    bytes[12] = 1;
    assert!(kit::flv::Reader::default().push(&bytes).is_err());
}

#[test]
fn media_files_have_a_keyframe_each_second_and_configuration_for_each_track() {
    let files = [
        ("av.flv", 6, 2),
        ("video.flv", 6, 1),
        ("audio.flv", 0, 1),
        ("demo.flv", 5, 2),
        ("hevc_aac.flv", 6, 2),
        ("av1_opus.flv", 6, 2),
        // FLAC's configuration comes again at the end, with the checksum of the whole.
        ("vp9_flac.flv", 6, 3),
    ];
    for (file, keyframes, configurations) in files {
        let tags = read(&media(file));
        let count = |role: Role, kind: Kind| {
            tags.iter().filter(|tag| tag.kind == kind && tag.role() == role).count()
        };
        assert_eq!(count(Role::Keyframe, Kind::Video), keyframes, "{file}");
        let found = count(Role::Config, Kind::Video) + count(Role::Config, Kind::Audio);
        assert_eq!(found, configurations, "{file}");
        assert_eq!(
            count(Role::Keyframe, Kind::Video) + count(Role::Frame, Kind::Video),
            keyframes * 25,
            "{file}"
        );
    }
}

#[test]
fn comparison_finds_each_kind_of_difference() {
    let sent = read(&media("av.flv"));
    let start =
        sent.iter().position(|tag| tag.is_video_keyframe() && tag.timestamp_ms > 900).unwrap();
    let opening: Vec<Tag> = sent.iter().filter(|tag| !tag.is_coded()).cloned().collect();
    let good: Vec<Tag> = opening
        .iter()
        .chain(sent[start..sent.len() - 20].iter().filter(|tag| tag.is_coded()))
        .map(|tag| Tag { timestamp_ms: tag.timestamp_ms + 500, ..tag.clone() })
        .collect();
    assert_eq!(assert_same_media("good", &sent, &good, SOME), 500);
    let changed = |change: fn(&mut Vec<Tag>)| {
        let mut bad = good.clone();
        change(&mut bad);
        fails(|| assert!(assert_same_media("bad", &sent, &bad, SOME) >= 0))
    };
    assert!(changed(|tags| drop(tags.remove(40))), "a lost frame");
    assert!(changed(|tags| tags[40].timestamp_ms += 1), "a moved timestamp");
    assert!(changed(|tags| tags[40].payload[9] ^= 1), "a flipped bit");
    assert!(changed(|tags| tags.swap(40, 60)), "another order");
    assert!(changed(|tags| tags.insert(40, tags[39].clone())), "a frame twice");
    assert!(changed(|tags| tags.retain(Tag::is_coded)), "no configuration");
    assert!(changed(|tags| tags.truncate(30)), "too little");
    assert!(
        changed(|tags| {
            let audio = tags.iter_mut().filter(|tag| tag.kind == Kind::Audio);
            audio.for_each(|tag| tag.timestamp_ms += 1);
        }),
        "audio apart from video"
    );
}

/// Publishes to nginx-rtmp and compares what the kit's player and ffmpeg get from it.
fn through_nginx(file: &str, at_least: AtLeast) {
    let nginx = Nginx::start();
    let url = nginx.url("a");
    let mut publisher = Publisher::start(Modern::No, file, &url);
    let player = Player::rtmp(address(nginx.port), "live", "a");
    let mut recorder = Recorder::start(Modern::No, &url);
    let kind = if at_least.video > 0 { Kind::Video } else { Kind::Audio };
    player.wait_frames(kind, at_least.video.max(at_least.audio) + 10);
    recorder.wait_packets(100);
    let (got, packets) = (player.stop(), recorder.stop());
    publisher.stop();
    let tags = from_keyframe(got);
    assert_same_media(file, &publisher.sent(), &tags, at_least);
    assert_never_steps_back(file, &tags);
    assert!(!packets.is_empty());
}

/// nginx-rtmp has no GOP cache: its players begin anywhere.
fn from_keyframe(mut tags: Vec<Tag>) -> Vec<Tag> {
    let has_video = tags.iter().any(|tag| tag.kind == Kind::Video && tag.is_coded());
    if has_video {
        let mut seen = false;
        tags.retain(|tag| {
            seen |= tag.is_video_keyframe();
            seen || !tag.is_coded()
        });
    }
    tags
}

#[test]
fn nginx_rtmp_passes_what_ffmpeg_publishes() {
    through_nginx("av.flv", SOME);
}

#[test]
fn nginx_rtmp_passes_audio_alone() {
    through_nginx("audio.flv", AtLeast { video: 0, audio: 80 });
}

#[test]
fn packets_of_ffmpeg_are_those_published() {
    let origin = Origin::start(Mode::Healthy);
    for url in [origin.rtmp_url("a"), origin.flv_url("a")] {
        let mut recorder = Recorder::start(Modern::No, &url);
        recorder.wait_packets(150);
        let dir = TempDir::new("sent");
        let mut bytes = header(true, true);
        origin.sent().iter().for_each(|tag| bytes.extend(encode(tag)));
        std::fs::write(dir.file("sent.flv"), bytes).unwrap();
        let sent = packets_of(Modern::No, &dir.file("sent.flv"));
        let got = recorder.stop();
        assert_same_packets(&url, &sent, &got, 150);
        let mut bad = got;
        bad[100].dts += 1;
        assert!(fails(|| assert_same_packets(&url, &sent, &bad, 150)));
    }
}

#[test]
fn healthy_origin_serves_each_protocol_and_falls_silent() {
    let origin = Origin::start(Mode::Healthy);
    let at = address(origin.port());
    let players =
        [Player::http_flv(at, "/live/a.flv?token=1"), Player::rtmp(at, "live", "a?token=1")];
    for player in &players {
        player.wait_frames(Kind::Video, 60);
        assert_same_media(player.what(), &origin.sent(), &player.tags(), SOME);
    }
    origin.set(Mode::HealthyChunked);
    let chunked = Player::http_flv(at, "/live/a.flv");
    chunked.wait_frames(Kind::Video, 60);
    assert_same_media("chunked", &origin.sent(), &chunked.tags(), SOME);
    let requests: Vec<String> =
        origin.connections().iter().map(|connection| connection.request.clone()).collect();
    assert_eq!(requests, ["/live/a.flv?token=1", "live/a?token=1", "/live/a.flv"]);
    decode_first_frames(Modern::No, &origin.rtmp_url("a"), 5);
    origin.set(Mode::AcceptedSilent);
    let before = chunked.frame_count(Kind::Video);
    kit::pause(Duration::from_millis(300));
    assert!(chunked.frame_count(Kind::Video) <= before + 2, "silent");
    chunked.assert_open();
    origin.set(Mode::Refused);
    chunked.wait_end(kit::LIVENESS);
    assert!(fails(|| drop(Player::http_flv(at, "/live/a.flv"))), "refused");
    origin.set(Mode::Healthy);
    let again = Player::http_flv(at, "/live/a.flv");
    again.wait_frames(Kind::Video, 10);
}

#[test]
fn origin_hangs_where_it_is_told_and_sees_the_close() {
    let origin = Origin::start(Mode::AcceptedSilent);
    let at = address(origin.port());
    let stages = [
        (Mode::AcceptedSilent, Stage::Accepted),
        (Mode::AfterC0C1, Stage::Greeted),
        (Mode::AfterHandshake, Stage::HandshakeDone),
        (Mode::ConnectUnanswered, Stage::ConnectRead),
        (Mode::PlayUnanswered, Stage::PlayRead),
        (Mode::NoMedia, Stage::PlayRead),
        (Mode::MidFrame, Stage::PlayRead),
        (Mode::NotFound, Stage::PlayRead),
    ];
    for (index, (mode, stage)) in stages.into_iter().enumerate() {
        origin.set(mode.clone());
        let player = Player::rtmp(at, "live", "a");
        origin.wait_stage(index, stage);
        assert_eq!(origin.open_count(), 1, "{mode:?}");
        kit::pause(Duration::from_millis(100));
        assert_eq!(player.frame_count(Kind::Video), 0, "{mode:?}");
        assert_eq!(origin.connections()[index].stage, stage, "{mode:?}");
        player.stop();
        origin.wait_all_closed(kit::LIVENESS);
    }
    origin.set(Mode::Reset);
    let player = Player::http_flv(at, "/live/a.flv");
    assert_eq!(player.wait_end(kit::LIVENESS), End::Reset);
}

/// One unmasked frame.
fn ws_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let mut frame = vec![first];
    match len {
        0..126 => frame.push(u8::try_from(len).unwrap()),
        126..65_536 => {
            frame.push(126);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn websocket_player_reads_frames_of_any_shape() {
    let tags = read(&media("av.flv"));
    let mut flv = header(true, true);
    tags.iter().for_each(|tag| flv.extend(encode(tag)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let len = socket.read(&mut request).unwrap();
        assert!(request[..len].ends_with(b"\r\n\r\n"));
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        // Lengths of 7, 16 and 64 bits, a message in fragments with a ping inside, a close.
        let frames = [
            head.as_bytes(),
            &ws_frame(0x82, &flv[..100]),
            &ws_frame(0x82, &flv[100..1000]),
            &ws_frame(0x82, &flv[1000..80_000]),
            &ws_frame(0x02, &flv[80_000..80_001]),
            &ws_frame(0x89, b"hello"),
            &ws_frame(0x80, &flv[80_001..]),
            &ws_frame(0x88, b"\x11\x34gone"),
        ]
        .concat();
        for part in frames.chunks(1001) {
            socket.write_all(part).unwrap();
        }
        let mut pong = [0; 11];
        socket.read_exact(&mut pong).unwrap();
        assert_eq!(pong[..], *b"\x8a\x85\0\0\0\0hello");
    });
    let player = Player::ws_flv(at, "/live/a.live.flv");
    let end = player.wait_end(kit::LIVENESS);
    server.join().unwrap();
    assert_eq!(end, End::WebSocket(4404, "gone".to_owned()));
    assert_eq!(player.tags(), tags);
}

#[test]
fn full_listener_drops_the_syn() {
    let origin = Origin::start(Mode::SynDropped);
    assert_eq!(origin.half_open_count(), 0);
    let at = address(origin.port());
    let waiting = std::thread::spawn(move || {
        std::net::TcpStream::connect_timeout(&at, Duration::from_secs(2)).map(drop)
    });
    kit::wait_until(kit::LIVENESS, "a socket in SYN_SENT", || origin.half_open_count() == 1);
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(origin.half_open_count(), 0);
    origin.set(Mode::Healthy);
    Player::http_flv(at, "/live/a.flv").wait_frames(Kind::Video, 5);
}

#[test]
fn rtsp_players_of_the_kit_agree_on_a_camera() {
    let clip = Clip::of("av.flv").without_escapes();
    for lower in [Lower::Tcp, Lower::Udp] {
        let media = Media::of_file(&clip.path(), Plan { turns: 1, ..Plan::default() });
        let camera = Camera::start_of(Habits::default(), media);
        let url = camera.url();
        let players = [
            FilePlayer::ffmpeg(Modern::No, &url, lower),
            FilePlayer::ffmpeg(Modern::Yes, &url, lower),
            FilePlayer::gstreamer(&url, lower),
        ];
        let own = RtspPlayer::start(camera.address, &url, lower);
        own.wait_units(Kind::Audio, 100);
        let dir = TempDir::new("tape");
        let tape = dir.file("tape.pcap");
        own.write_tape(&tape);
        assert_plays_soundly("own", &tape, camera.address.port(), &camera.media.formats);
        let recording = own.stop();
        recording.assert_reported("own");
        let sent = &camera.media.units;
        assert_same("own", sent, &recording.units(), SOME, WithinMs(1.0));
        for (at, mut player) in players.into_iter().enumerate() {
            player.wait(SOME.video, SOME.audio);
            let what = player.what().to_owned();
            // GStreamer has all tracks begin with their first packets until it heeds a report.
            let within = WithinMs(if at == 2 { 100.0 } else { 2.0 });
            assert_same(&what, sent, &player.stop(), SOME, within);
        }
    }
}

#[test]
fn comparison_of_units_finds_what_differs() {
    let sent = Media::of("av.flv", Plan::default()).units;
    let first = sent.iter().position(|unit| unit.is_keyframe && unit.kind == Kind::Video);
    let got: Vec<Unit> = sent[first.unwrap()..300].to_vec();
    let same = |got: &[Unit]| assert_same("a", &sent, got, SOME, WithinMs(10.0));
    same(&got);
    let moved: Vec<Unit> =
        got.iter().map(|unit| Unit { pts_ms: unit.pts_ms + 1e9, ..unit.clone() }).collect();
    same(&moved);
    let spoiled = |spoil: &dyn Fn(&mut Vec<Unit>)| {
        let mut got = got.clone();
        spoil(&mut got);
        fails(|| same(&got))
    };
    let late = |kind: Kind| {
        move |got: &mut Vec<Unit>| {
            got.iter_mut().filter(|unit| unit.kind == kind).for_each(|unit| unit.pts_ms += 11.0);
        }
    };
    assert!(spoiled(&late(Kind::Audio)));
    assert!(spoiled(&late(Kind::Video)));
    assert!(spoiled(&|got| drop(got.remove(200))));
    assert!(spoiled(&|got| drop(got.remove(0))), "no keyframe at the start");
    assert!(spoiled(&|got| got[200].bytes[3] ^= 1));
    assert!(spoiled(&|got| got.truncate(20)));
    assert!(spoiled(&|got| got[100].pts_ms += 11.0));
    // The message of a picture, which stands at its beginning, is dropped or doubled.
    let message = |unit: &Unit| 4 + split_nals(&unit.bytes)[0].len();
    let picture = got.iter().rposition(|unit| unit.kind == Kind::Video).expect("pictures");
    assert!(spoiled(&|got| {
        let len = message(&got[picture]);
        got[picture].bytes.drain(..len);
    }));
    assert!(spoiled(&|got| {
        let message = got[picture].bytes[..message(&got[picture])].to_vec();
        got[picture].bytes.splice(..0, message);
    }));
    let lost = assert_part_of("a", &sent, &got, Kind::Video);
    assert_eq!(lost, 0);
    let without: Vec<Unit> = got.iter().filter(|unit| unit.pts_ms != 1200.0).cloned().collect();
    assert_eq!(assert_part_of("a", &sent, &without, Kind::Video), 1);
}

/// The Opus of the clip is a tone: its sounds 44 and 49 are alike, 45 and 50, and no more. What begins
/// with the 49th was taken to begin with the 44th where times may be 100 ms off, and to lack five.
#[test]
fn comparison_of_units_finds_the_right_one_of_equal_sounds() {
    let sent = Clip::with_sound("av.flv", Sound::Opus).units;
    let (video, audio): (Vec<Unit>, Vec<Unit>) =
        sent.iter().cloned().partition(|unit| unit.kind == Kind::Video);
    let alike = |at: usize| audio[at].bytes == audio[at + 5].bytes;
    let start = (0..audio.len() - 100).find(|&at| alike(at) && alike(at + 1) && !alike(at + 2));
    let start = start.expect("sounds that are alike") + 5;
    let after = |unit: &&Unit| unit.is_keyframe && unit.pts_ms >= audio[start].pts_ms;
    let keyframe = video.iter().find(after).expect("another GOP").pts_ms;
    let pictures = video.iter().skip_while(|unit| unit.pts_ms < keyframe).take(60);
    let got: Vec<Unit> = pictures.chain(audio[start..].iter().take(80)).cloned().collect();
    let same = |got: &[Unit]| assert_same("a", &sent, got, SOME, WithinMs(100.0));
    same(&got);
    let mut lacking = got;
    lacking.drain(62..67);
    assert!(fails(|| same(&lacking)), "five sounds are missing");
}

#[test]
fn clips_have_the_sound_that_is_asked_for() {
    for (sound, is_pcm) in
        [(Sound::Same, false), (Sound::Opus, false), (Sound::PcmA, true), (Sound::PcmU, true)]
    {
        let clip = Clip::with_sound("av.flv", sound);
        let of = |kind: Kind| clip.units.iter().filter(move |unit| unit.kind == kind);
        assert_eq!(of(Kind::Video).count(), 600, "{sound:?}");
        assert!(of(Kind::Audio).all(|unit| unit.is_pcm == is_pcm), "{sound:?}");
        let last_ms = of(Kind::Audio).next_back().map_or(0.0, |unit| unit.pts_ms);
        assert!(last_ms > 23_000.0, "{sound:?}: {last_ms}");
    }
}
