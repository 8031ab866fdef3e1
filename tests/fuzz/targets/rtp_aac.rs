//! AAC in mpeg4-generic payloads of several layouts: frames come back from packets of ours.
#![no_main]

use rillcast::proto::rtp::TrackKind;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let layouts = [
        "mode=AAC-hbr;config=1190",
        "mode=AAC-lbr;config=1190",
        "config=1190",
        "config=1190;constantsize=7",
        "config=1190;sizelength=9;indexlength=3;indexdeltalength=1;ctsdeltalength=5;\
         dtsdeltalength=4;randomaccessindication=1;streamstateindication=2;\
         auxiliarydatasizelength=6",
    ];
    rillcast_fuzz::rtp::depacketize(TrackKind::Audio, "mpeg4-generic/48000/2", &layouts, data);
});
