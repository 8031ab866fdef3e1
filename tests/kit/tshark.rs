//! tshark's judgement of what went over a wire: a `tape`, or what a `namespace::Capture` saw.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::rtp::{Codec, Format};

/// tshark's words on a recording, a line each. `decode` has such as `tcp.port==554,rtsp`.
#[track_caller]
fn tshark(file: &Path, decode: &[String], more: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(more);
    for decode in decode {
        command.args(["-d", decode]);
    }
    // An RTMP chunk size beyond this, 32 KiB by default, it takes for none, and loses its place.
    command.args(["-o", "rtmpt.max_packet_size:16777215"]);
    let output = command.output().expect("tshark; ./test installs it");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark {more:?}: {error}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// How to read what goes over a port as RTSP, and the payloads of these tracks. tshark learns their types
/// from a description of SIP alone.
pub fn as_rtsp(port: u16, formats: &[Format]) -> Vec<String> {
    let payload = |format: &Format| {
        Some(format!("rtp.pt=={},{}", format.payload_type, dissector(format.codec)?))
    };
    let rtsp = format!("tcp.port=={port},rtsp");
    [rtsp].into_iter().chain(formats.iter().filter_map(payload)).collect()
}

/// What dissects a codec's payloads, beside the RTP header.
fn dissector(codec: Codec) -> Option<&'static str> {
    match codec {
        Codec::H264 => Some("h264"),
        Codec::H265 => Some("h265"),
        Codec::Opus => Some("opus"),
        _ => None,
    }
}

/// What a player over RTSP got is sound down to the payloads, and without a gap.
#[track_caller]
pub fn assert_plays_soundly(what: &str, file: &Path, port: u16, formats: &[Format]) {
    let payloads = formats.iter().filter_map(|format| dissector(format.codec));
    let own = payloads.map(|name| (name, 10));
    let protocols: Vec<_> = [("sdp", 1), ("rtp", 20), ("rtcp", 1)].into_iter().chain(own).collect();
    let decode = as_rtsp(port, formats);
    assert_well_formed(what, file, &decode, &protocols);
    assert_gapless(what, file, &decode, formats.len());
}

/// tshark finds each of these protocols in so many frames at least, and nothing that is malformed. Its H.264
/// is in the interop document.
#[track_caller]
pub fn assert_well_formed(what: &str, file: &Path, decode: &[String], protocols: &[(&str, usize)]) {
    let frames = tshark(file, decode, &["-T", "fields", "-e", "frame.protocols"]);
    for &(protocol, at_least) in protocols {
        let has_it = |frame: &&String| frame.split(':').any(|name| name == protocol);
        let found = frames.iter().filter(has_it).count();
        assert!(found >= at_least, "{what}: {found} frames of {protocol}");
    }
    let bad = "_ws.malformed || _ws.expert.severity == error || tcp.analysis.lost_segment";
    let malformed = tshark(file, decode, &["-Y", bad]);
    assert!(malformed.is_empty(), "{what}: {malformed:#?}");
}

/// tshark finds so many RTP streams, each without a gap in its sequence numbers; packets for two
/// ports are two streams. (Its own count of lost packets is wrong where the numbers wrap, 4.0.17.)
#[track_caller]
pub fn assert_gapless(what: &str, file: &Path, decode: &[String], streams: usize) {
    let names = ["tcp.dstport", "udp.dstport", "rtp.ssrc", "rtp.seq"];
    let fields = names.iter().flat_map(|name| ["-e", name]);
    // What opens the way through a NAT is not of a stream: ffmpeg's has SSRC 0, GStreamer's none.
    let filter = ["-Y", "rtp.ssrc != 0", "-T", "fields"];
    let more: Vec<&str> = filter.into_iter().chain(fields).collect();
    let mut last: BTreeMap<(String, String), u16> = BTreeMap::new();
    for line in tshark(file, decode, &more) {
        let [tcp, udp, sources, numbers] = *line.split('\t').collect::<Vec<_>>() else {
            panic!("{what}: {line:?}");
        };
        for (source, number) in sources.split(',').zip(numbers.split(',')) {
            let number: u16 = number.parse().expect("a sequence number");
            let stream = (format!("{tcp}{udp}"), source.to_owned());
            if let Some(before) = last.insert(stream, number) {
                assert_eq!(number, before.wrapping_add(1), "{what}: {source} to {tcp}{udp}");
            }
        }
    }
    assert_eq!(last.len(), streams, "{what}: {last:?}");
}

/// Type and length of the RTMP messages from this port, as tshark finds them.
#[track_caller]
pub fn rtmp_messages(file: &Path, port: u16) -> Vec<(u8, usize)> {
    let filter = format!("rtmpt && tcp.srcport=={port}");
    let names = ["rtmpt.header.typeid", "rtmpt.header.bodysize"];
    let fields = names.iter().flat_map(|name| ["-e", name]);
    let more: Vec<&str> = ["-Y", &filter, "-T", "fields"].into_iter().chain(fields).collect();
    let mut messages = Vec::new();
    for line in tshark(file, &[format!("tcp.port=={port},rtmpt")], &more) {
        let (kinds, lens) = line.split_once('\t').expect("two fields");
        let kinds = kinds.split(',').filter(|kind| !kind.is_empty()).map(|kind| {
            u8::from_str_radix(kind.trim_start_matches("0x"), 16).expect("a number in hex")
        });
        let lens = lens.split(',').filter_map(|len| len.parse().ok());
        messages.extend(kinds.zip(lens));
    }
    messages
}
