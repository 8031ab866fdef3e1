//! What the API tells of streams of RTSP: schemas, and tracks with codec, size, rate and GOP, of what
//! ffmpeg and GStreamer publish and of what is pulled.

mod kit;

use kit::ffmpeg::Modern;
use kit::process::Process;
use kit::rtsp::Lower;
use kit::rtsp_peers::{Clip, Sound, ffmpeg_publish, gstreamer_publish};
use kit::{LIVENESS, Relay, wait_until};
use serde_json::{Value, json};

/// A stream that is published, and what is told of its tracks.
struct Case {
    name: &'static str,
    clip: Clip,
    lower: Lower,
    tracks: [Value; 2],
}

impl Case {
    /// GStreamer sends AAC as LATM.
    #[track_caller]
    fn publish(&self, origin: &Relay) -> Process {
        let url = origin.rtsp_url(self.name);
        match self.name {
            "latm" => gstreamer_publish(&self.clip, &url, self.lower),
            _ => ffmpeg_publish(Modern::Yes, &self.clip, &url, self.lower),
        }
    }
}

fn video(codec_id: u32, name: &str) -> Value {
    json!({
        "codec_id": codec_id, "codec_id_name": name, "codec_type": 0, "ready": true,
        "width": 640, "height": 360, "gop_interval_ms": 1000,
    })
}

fn audio(codec_id: u32, name: &str, sample_rate: u32, channels: u32) -> Value {
    json!({
        "codec_id": codec_id, "codec_id_name": name, "codec_type": 1, "ready": true,
        "sample_rate": sample_rate, "channels": channels, "sample_bit": 16,
    })
}

fn cases() -> [Case; 5] {
    let hevc_opus = Clip::with_sound("hevc_aac.flv", Sound::Opus).into_matroska();
    let [h264, h265] = [video(0, "H264"), video(1, "H265")];
    let aac = audio(2, "mpeg4-generic", 44_100, 1);
    // Whatever it is, RTP calls it two (RFC 7587, 7).
    let opus = audio(5, "opus", 48_000, 2);
    let [pcma, pcmu] = [audio(3, "PCMA", 8000, 1), audio(4, "PCMU", 8000, 1)];
    let g711 = |sound| Clip::with_sound("av.flv", sound);
    let case = |name, clip, lower, tracks| Case { name, clip, lower, tracks };
    [
        case("aac", Clip::of("av.flv"), Lower::Tcp, [h264.clone(), aac.clone()]),
        case("latm", Clip::of("av.flv"), Lower::Tcp, [h264.clone(), aac]),
        case("opus", hevc_opus, Lower::Udp, [h265, opus]),
        case("pcma", g711(Sound::PcmA), Lower::Udp, [h264.clone(), pcma]),
        case("pcmu", g711(Sound::PcmU), Lower::Tcp, [h264, pcmu]),
    ]
}

/// The rows of a stream, by the order of their schemas, once two GOPs are known.
#[track_caller]
fn rows(relay: &Relay, stream: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    wait_until(LIVENESS, &format!("{stream}: both schemas know a GOP"), || {
        let list = relay.api("getMediaList", &[("stream", stream)]);
        rows = list["data"].as_array().cloned().unwrap_or_default();
        let has_gop = |row: &Value| row["tracks"][0]["gop_size"].as_u64() > Some(0);
        rows.len() == 2 && rows.iter().all(has_gop)
    });
    rows.sort_by_key(|row| row["schema"].to_string());
    rows
}

/// Both schemas tell the tracks as expected, and where they come from.
#[track_caller]
fn assert_told(relay: &Relay, case: &Case, origin: (u32, &str)) {
    let rows = rows(relay, case.name);
    assert_eq!([&rows[0]["schema"], &rows[1]["schema"]], ["rtmp", "rtsp"]);
    for row in &rows {
        assert_eq!(
            (&row["originType"], &row["originTypeStr"]),
            (&json!(origin.0), &json!(origin.1))
        );
        let tracks = row["tracks"].as_array().unwrap_or_else(|| panic!("{row}"));
        assert_eq!(tracks.len(), 2, "{row}");
        for (told, expected) in tracks.iter().zip(&case.tracks) {
            for (member, value) in expected.as_object().expect("made here") {
                assert_eq!(&told[member], value, "{}: {member} of {row}", case.name);
            }
            for member in ["frames", "duration"] {
                assert!(told[member].as_u64() > Some(0), "{}: {member} of {row}", case.name);
            }
        }
        assert!(tracks[0]["key_frames"].as_u64() >= Some(2), "{row}");
        // Of H.265 the last B-frames of a GOP are sent behind the next keyframe, and counted there.
        let off_max = if tracks[0]["codec_id_name"] == "H265" { 1.0 } else { 0.0 };
        for member in ["fps", "gop_size"] {
            let told = tracks[0][member].as_f64().unwrap_or_else(|| panic!("{member} of {row}"));
            assert!((told - 25.0).abs() <= off_max, "{}: {member} of {row}", case.name);
        }
    }
}

#[test]
fn tracks_of_published_and_pulled_streams_are_told() {
    let (origin, relay) = (Relay::start(2), Relay::start(2));
    let cases = cases();
    let publishers = cases.each_ref().map(|case| case.publish(&origin));
    for case in &cases {
        origin.wait_online(case.name);
        let rtp_type = if case.lower == Lower::Tcp { "1" } else { "0" };
        let url = origin.rtsp_url(case.name);
        let added = relay.add(case.name, &url, &[("rtp_type", rtp_type)]);
        assert_eq!(added["code"], 0, "{added}");
    }
    for case in &cases {
        assert_told(&origin, case, (2, "rtsp_push"));
        assert_told(&relay, case, (4, "pull"));
    }
    for mut publisher in publishers {
        publisher.terminate(LIVENESS);
    }
    relay.stop();
    origin.stop();
}
