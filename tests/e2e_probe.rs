//! A look at an origin, through the API and from the command line: nothing is registered.

mod kit;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use kit::camera::{Access, Camera, Habits};
use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher};
use kit::relay::{SECRET, run};
use kit::rtp_media::{Media, Plan};
use kit::{LIVENESS, Relay, pause, wait_until};
use serde_json::{Value, json};

fn probe(relay: &Relay, url: &str, timeout_sec: &str) -> Value {
    relay.api("probeStream", &[("url", url), ("timeout_sec", timeout_sec)])
}

#[test]
fn healthy_origin_shows_its_steps_and_tracks() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Healthy);
    let start = relay.holdings();
    for url in [origin.rtmp_url("a"), origin.flv_url("a")] {
        let reply = probe(&relay, &url, "10");
        assert_eq!(reply["code"], 0, "{reply}");
        let data = &reply["data"];
        let names = [
            "resolvedMs",
            "connectedMs",
            "handshakeMs",
            "firstMediaMs",
            "tracksMs",
            "firstKeyframeMs",
        ];
        let times: Vec<u64> =
            names.iter().map(|name| data[name].as_u64().expect("a time")).collect();
        assert!(times.is_sorted(), "{reply}");
        assert_tracks(&reply);
        assert_eq!(data["errorClass"], Value::Null);
    }
    assert_eq!(relay.api("listStreamProxy", &[])["data"], serde_json::json!([]));
    relay.assert_back_to(&start, "looks at an origin");
    relay.stop();
}

#[test]
fn origin_of_packets_shows_the_same() {
    let relay = Relay::start(1);
    let origin = Relay::start_with(1, "[stream]\nmax_stream_wait_ms = 1000\n");
    let _publisher = Publisher::start(Modern::No, "av.flv", &origin.rtmp_url("a"));
    origin.wait_online("a");
    let reply = probe(&relay, &origin.rtsp_url("a"), "10");
    assert_eq!(reply["code"], 0, "{reply}");
    assert_tracks(&reply);
    let is_time = |name: &str| reply["data"][name].is_u64();
    assert!(["handshakeMs", "firstMediaMs", "firstKeyframeMs"].into_iter().all(is_time), "{reply}");
    let reply = probe(&relay, &origin.rtsp_url("absent"), "20");
    assert_eq!((&reply["code"], &reply["data"]["errorClass"]), (&json!(-1), &json!("not_found")));
    origin.stop();
    relay.stop();
}

/// Codec, size and rate of what `av.flv` has.
#[track_caller]
fn assert_tracks(reply: &Value) {
    let tracks = reply["data"]["tracks"].as_array().expect("tracks");
    let [video, audio] = &tracks[..] else { panic!("two tracks: {reply}") };
    let size = (&video["width"], &video["height"], &video["fps"]);
    assert_eq!(video["codec_id_name"], "H264", "{reply}");
    assert_eq!(size, (&json!(640), &json!(360), &json!(25.0)), "{reply}");
    assert_eq!(audio["codec_id_name"], "mpeg4-generic", "{reply}");
    assert_eq!((&audio["sample_rate"], &audio["channels"]), (&json!(44_100), &json!(1)));
}

/// A pull takes them as they come, and so does a look; where the keyframes are is not known.
#[test]
fn other_codecs_and_transports_show_their_tracks() {
    let relay = Relay::start(1);
    let start = relay.holdings();
    for (name, codec) in [("VP8", "VP8"), ("JPEG", "unknown"), ("AV1", "AV1")] {
        let camera = Camera::start_of(Habits::default(), Media::of_unknown([name, "X-NOISE"]));
        for rtp_type in ["0", "1"] {
            let params = [("url", camera.url()), ("timeout_sec", "10".to_owned())];
            let params = params.each_ref().map(|(name, value)| (*name, value.as_str()));
            let more = [params[0], params[1], ("rtp_type", rtp_type)];
            let reply = relay.api("probeStream", &more);
            assert_eq!(reply["code"], 0, "{name}, {rtp_type}: {reply}");
            let tracks = reply["data"]["tracks"].as_array().expect("tracks");
            assert_eq!(tracks.len(), 2, "{reply}");
            if codec != "unknown" {
                assert_eq!(tracks[0]["codec_id_name"], codec, "{reply}");
            }
            let data = &reply["data"];
            assert!(data["tracksMs"].is_u64() && data["firstKeyframeMs"].is_null(), "{reply}");
        }
        let sides = camera.connections().iter().map(|seen| seen.rtcp.len()).collect::<Vec<_>>();
        assert!(sides[0] == 0 && sides[1] > 0, "the second one came over UDP: {sides:?}");
    }
    // Over TCP where UDP is refused, as a pull goes about it.
    let camera = Camera::start(Habits { udp_refused: true, ..Habits::default() });
    let url = camera.url();
    let params = [("url", url.as_str()), ("timeout_sec", "10"), ("rtp_type", "1")];
    let reply = relay.api("probeStream", &params);
    assert_eq!(reply["code"], 0, "{reply}");
    assert!(reply["data"]["firstKeyframeMs"].is_u64(), "{reply}");
    relay.assert_back_to(&start, "looks over UDP");
    relay.stop();
}

#[test]
fn audio_alone_and_redirects_are_looked_at() {
    let relay = Relay::start(1);
    let origin = Origin::start_with(Mode::Healthy, "audio.flv");
    let camera = Camera::start_with(Habits::default(), "audio.flv", Plan::default());
    for url in [origin.rtmp_url("a"), origin.flv_url("a"), camera.url()] {
        let reply = probe(&relay, &url, "10");
        assert_eq!(reply["code"], 0, "{url}: {reply}");
        let tracks = reply["data"]["tracks"].as_array().expect("tracks");
        assert_eq!((tracks.len(), &tracks[0]["codec_id_name"]), (1, &json!("mpeg4-generic")));
        assert!(reply["data"]["firstKeyframeMs"].is_null(), "{reply}");
    }
    let asks = Habits { access: Some(Access::DigestMd5), ..Habits::default() };
    let (target, other) = (Origin::start(Mode::Healthy), Camera::start(asks));
    let first = Origin::start(Mode::Redirect(target.flv_url("a")));
    let habits = Habits { redirect: Some(other.url()), ..Habits::default() };
    let sends_on = Camera::start(habits);
    let with_login = sends_on.url().replace("://", "://admin:p%40ss:word@");
    for (url, port) in [(first.flv_url("a"), target.port()), (with_login, other.address.port())] {
        let reply = probe(&relay, &url, "10");
        assert_eq!(reply["code"], 0, "{url}: {reply}");
        assert_tracks(&reply);
        let address = format!("127.0.0.1:{port}");
        assert_eq!(reply["data"]["address"], json!(address), "where it came to: {reply}");
    }
    relay.stop();
}

#[test]
fn a_look_ends_with_its_caller() {
    let relay = Relay::start(2);
    let start = relay.holdings();
    let silent = Origin::start(Mode::AcceptedSilent);
    let full = Origin::start(Mode::SynDropped);
    let healthy = Origin::start(Mode::Healthy);
    for url in [silent.rtmp_url("a"), full.rtmp_url("a")] {
        let callers: Vec<TcpStream> = (0..8)
            .map(|_| {
                let mut socket = TcpStream::connect(relay.http).expect("it listens");
                let path =
                    format!("/index/api/probeStream?secret={SECRET}&timeout_sec=60&url={url}");
                write!(socket, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").expect("a request");
                socket
            })
            .collect();
        wait_until(LIVENESS, "all are under way", || {
            silent.open_count() + full.half_open_count() == 8
        });
        let reply = probe(&relay, &healthy.rtmp_url("a"), "10");
        assert_eq!(reply["msg"], "too many probes under way", "{reply}");
        drop(callers);
        wait_until(LIVENESS, "there is room again", || {
            probe(&relay, &healthy.rtmp_url("a"), "10")["code"] == 0
        });
    }
    silent.wait_all_closed(LIVENESS);
    relay.assert_back_to(&start, "callers that have gone");
    relay.stop();
}

#[test]
fn faults_have_their_class_within_the_time() {
    let relay = Relay::start(1);
    let table = [
        (Mode::Refused, "refused"),
        (Mode::AcceptedSilent, "silent"),
        (Mode::NoMedia, "silent"),
        (Mode::NotFound, "not_found"),
        (Mode::Unavailable, "unavailable"),
    ];
    for (mode, class) in table {
        let origin = Origin::start(mode);
        let reply = probe(&relay, &origin.rtmp_url("a"), "1");
        assert_eq!(reply["code"], -1, "{reply}");
        assert_eq!(reply["data"]["errorClass"], class, "{reply}");
        assert!(!reply["msg"].as_str().expect("why").is_empty(), "{reply}");
    }
    let reply = probe(&relay, "rtmp://nosuch.invalid/live/a", "5");
    assert_eq!(reply["data"]["errorClass"], "unresolved", "{reply}");
    assert_eq!(probe(&relay, "gopher://h/a", "5")["code"], -1);
    relay.stop();
}

#[test]
fn origin_that_talks_on_without_a_keyframe_is_left_in_time() {
    let relay = Relay::start(1);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/live/a.flv", listener.local_addr().expect("a port"));
    let origin = thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the probe");
        let head =
            b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\nFLV\x01\x01\0\0\0\x09\0\0\0\0";
        let inter_frame = b"\x09\0\0\x07\0\0\0\0\0\0\0\x27\x01\0\0\0\0\0\0\0\0\x12";
        let mut is_open = socket.write_all(head).is_ok();
        while is_open {
            is_open = socket.write_all(inter_frame).is_ok();
            pause(Duration::from_millis(1));
        }
    });
    let reply = probe(&relay, &url, "1");
    assert_eq!(reply["data"]["errorClass"], "silent", "{reply}");
    assert_eq!(reply["msg"], "no keyframe in time", "{reply}");
    origin.join().expect("the probe has left");
    relay.stop();
}

#[test]
fn only_so_many_at_once_and_none_to_where_pulls_are_denied() {
    let relay = Relay::start_with(1, "[access]\npull_deny = \"127.0.0.2\"\n");
    let origin = Origin::start(Mode::AcceptedSilent);
    let url = origin.rtmp_url("a");
    let reply = probe(&relay, &url.replace("127.0.0.1", "127.0.0.2"), "5");
    assert_eq!(reply["data"]["errorClass"], "denied", "{reply}");
    let params = [("url", url.as_str()), ("timeout_sec", "2")];
    let calls: Vec<_> = (0..12).map(|_| relay.api.call_later("probeStream", &params)).collect();
    let replies: Vec<Value> =
        calls.into_iter().map(|call| call.join().expect("an answer")).collect();
    let busy = replies.iter().filter(|reply| reply["msg"] == "too many probes under way").count();
    assert_eq!(busy, 4, "{replies:?}");
    wait_until(LIVENESS, "there is room again", || {
        probe(&relay, &url, "0.2")["data"]["errorClass"] == "silent"
    });
    relay.stop();
}

#[test]
fn command_line_prints_the_steps() {
    let origin = Origin::start(Mode::Healthy);
    let (code, out, error) = run(&["probe", &origin.rtmp_url("a")]);
    assert_eq!(code, Some(0), "{out}{error}");
    for word in ["resolved", "handshake", "first keyframe", "track"] {
        assert!(out.contains(word), "no {word} in {out}");
    }
    origin.set(Mode::Refused);
    let (code, out, _) = run(&["probe", &origin.rtmp_url("a"), "--timeout", "2"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("refused: "), "{out}");
}
