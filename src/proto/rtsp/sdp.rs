//! Session descriptions (RFC 8866) as RTSP uses them (RFC 2326, C).
//!
//! Read as far as RTSP needs it and leniently: unknown and malformed lines are passed, line ends may be
//! LF alone, nothing but media sections is required. Of several payload types in a section the first
//! counts.

use std::fmt::Write as _;

use crate::limits::{RTSP_BODY_LEN_MAX, SDP_LINES_MAX, SDP_MEDIA_MAX};
use crate::media::Codec;
use crate::proto::rtp::depacketizer::{Depacketizer, LossPolicy};
use crate::proto::rtp::format::{Format, TrackKind};

/// A session description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionDescription {
    /// `s=`
    pub name: String,
    /// `a=control` before the media: the address of all tracks together.
    pub control: Option<String>,
    pub media: Vec<MediaDescription>,
}

/// A media section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaDescription {
    pub format: Format,
    /// `a=control`: the track's address.
    pub control: Option<String>,
    /// The protocol is RTP/AVP, which we know.
    pub is_rtp: bool,
    /// It is for what the client sends: a back channel of a camera (ONVIF streaming, 5.3). Some that send
    /// say so of themselves.
    pub is_send_only: bool,
}

/// Why a description is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    #[error(
        "session description is longer than {RTSP_BODY_LEN_MAX} bytes or {SDP_LINES_MAX} lines"
    )]
    TooLong,
    #[error("session description has more than {SDP_MEDIA_MAX} media sections")]
    TooManyMedia,
    #[error("session description has no media section")]
    NoMedia,
}

impl SessionDescription {
    /// Reads a description. Bytes outside UTF-8 become replacement characters.
    ///
    /// # Errors
    /// [`SdpError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, SdpError> {
        if bytes.len() > RTSP_BODY_LEN_MAX {
            return Err(SdpError::TooLong);
        }
        let text = String::from_utf8_lossy(bytes);
        let mut description = Self::default();
        // Sections of what is no media line at all are passed with their attributes.
        let mut in_unknown_media = false;
        for (index, line) in text.lines().enumerate() {
            if index == SDP_LINES_MAX {
                return Err(SdpError::TooLong);
            }
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            match key.trim() {
                "m" => {
                    let media = MediaDescription::parse(value);
                    in_unknown_media = media.is_none();
                    description.media.extend(media);
                    if description.media.len() > SDP_MEDIA_MAX {
                        return Err(SdpError::TooManyMedia);
                    }
                }
                "s" if description.media.is_empty() => description.name = value.trim().to_owned(),
                "a" if !in_unknown_media => description.read_attribute(value),
                _ => {}
            }
        }
        if description.media.is_empty() { Err(SdpError::NoMedia) } else { Ok(description) }
    }

    /// The track that stands for all of its kind where one alone can, over FLV as well: the first that
    /// can be made FLV, or else the first whose frames are known to us, or else the first.
    pub fn main_track(&self, kind: TrackKind) -> Option<usize> {
        use Codec::{Aac, H264, H265, Opus, PcmA, PcmU};
        let is_known =
            |format: &Format| matches!(format.codec(), H264 | H265 | Aac | Opus | PcmA | PcmU);
        let media = self.media.iter().enumerate();
        let mut of_kind = media.filter(|(_, media)| media.format.kind == kind);
        let found = of_kind.clone().find(|(_, media)| media.can_be_flv());
        let found = found.or_else(|| of_kind.clone().find(|(_, media)| is_known(&media.format)));
        found.or_else(|| of_kind.next()).map(|(track, _)| track)
    }

    /// The description's text, for a stream that is live: tracks are addressed relative to it.
    pub fn encode(&self) -> String {
        let name = if self.name.is_empty() { "-" } else { &self.name };
        let mut text = String::from("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\n");
        let _ = write!(text, "s={}\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n", printable(name));
        let control = self.control.as_deref().unwrap_or("*");
        let _ = write!(text, "a=control:{}\r\na=range:npt=now-\r\n", printable(control));
        for media in &self.media {
            media.encode(&mut text);
        }
        text
    }

    fn read_attribute(&mut self, text: &str) {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        match self.media.last_mut() {
            None if name == "control" && !value.is_empty() => self.control = Some(value.to_owned()),
            None => {}
            Some(media) => media.read_attribute(&name, value),
        }
    }
}

impl MediaDescription {
    /// A track of ours, by its number.
    pub fn new(format: Format, track: usize) -> Self {
        Self {
            format,
            control: Some(format!("trackID={track}")),
            is_rtp: true,
            is_send_only: false,
        }
    }

    /// Whether frames can be made of its packets, and FLV can carry them.
    fn can_be_flv(&self) -> bool {
        let is_read = || Depacketizer::new(&self.format, LossPolicy::default()).is_some();
        self.is_rtp && self.format.fits_flv() && is_read()
    }

    /// Reads `kind port protocol type…`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let kind = match words.next()?.to_ascii_lowercase().as_str() {
            "video" => TrackKind::Video,
            "audio" => TrackKind::Audio,
            _ => TrackKind::Other,
        };
        let (_port, protocol) = (words.next()?, words.next()?);
        let is_rtp = matches!(protocol.to_ascii_uppercase().as_str(), "RTP/AVP" | "RTP/AVPF");
        let payload_type = words.next()?.parse().ok().filter(|number| *number < 128)?;
        let format = Format::of_payload_type(kind, payload_type);
        Some(Self { format, control: None, is_rtp, is_send_only: false })
    }

    fn read_attribute(&mut self, name: &str, value: &str) {
        match name {
            "control" if !value.is_empty() => self.control = Some(value.to_owned()),
            "sendonly" => self.is_send_only = true,
            "rtpmap" | "fmtp" => {
                let (number, text) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
                if number.parse() != Ok(self.format.payload_type) {
                    return;
                }
                match name {
                    "rtpmap" => self.format.read_rtpmap(text),
                    _ => self.format.parameters = text.trim().to_owned(),
                }
            }
            _ => {}
        }
    }

    fn encode(&self, text: &mut String) {
        let Format { kind, payload_type, encoding, parameters, .. } = &self.format;
        let kind = match kind {
            TrackKind::Video => "video",
            TrackKind::Audio => "audio",
            TrackKind::Other => "application",
        };
        let _ = write!(text, "m={kind} 0 RTP/AVP {payload_type}\r\n");
        if !encoding.is_empty() {
            let rtpmap = self.format.rtpmap();
            let _ = write!(text, "a=rtpmap:{payload_type} {}\r\n", printable(&rtpmap));
        }
        if !parameters.is_empty() {
            let _ = write!(text, "a=fmtp:{payload_type} {}\r\n", printable(parameters));
        }
        if let Some(control) = &self.control {
            let _ = write!(text, "a=control:{}\r\n", printable(control));
        }
    }
}

/// The address of a track or of all, from its `control` and the description's own address (RFC 2326,
/// C.1.1). Relative ones are appended, not resolved: addresses of live streams have queries, behind
/// which servers expect the track.
pub fn control_url(base: &str, control: Option<&str>) -> String {
    match control {
        None | Some("*") => base.to_owned(),
        Some(control) if is_absolute(control) => control.to_owned(),
        Some(control) if control.starts_with('/') => {
            let authority = base.find("://").map_or(0, |at| at + 3);
            let path = base[authority..].find('/').map_or(base.len(), |at| authority + at);
            format!("{}{control}", &base[..path])
        }
        Some(control) if base.ends_with('/') => format!("{base}{control}"),
        Some(control) => format!("{base}/{control}"),
    }
}

/// Whether a `control` is a whole URL.
pub(super) fn is_absolute(control: &str) -> bool {
    ["rtsp://", "rtsps://", "rtspu://"]
        .iter()
        .any(|scheme| control.get(..scheme.len()).is_some_and(|c| c.eq_ignore_ascii_case(scheme)))
}

fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Codec;

    #[test]
    fn what_ffmpeg_announces_is_read() {
        let text = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=No Name\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
            a=tool:libavformat LIBAVFORMAT_VERSION\r\nm=video 0 RTP/AVP 96\r\n\
            a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; \
            sprop-parameter-sets=Z2QAH6x2EQKAv+XARAAAAwAEAAADAMg8YMYRgA==,aOhDgxLIsA==; \
            profile-level-id=64001F\r\na=control:streamid=0\r\nm=audio 0 RTP/AVP 97\r\nb=AS:32\r\n\
            a=rtpmap:97 MPEG4-GENERIC/44100/1\r\na=fmtp:97 profile-level-id=1;mode=AAC-hbr;\
            sizelength=13;indexlength=3;indexdeltalength=3; config=120856E500\r\n\
            a=control:streamid=1\r\n";
        let description = SessionDescription::parse(text.as_bytes()).unwrap();
        assert_eq!((description.name.as_str(), &description.control), ("No Name", &None));
        let [video, audio] = &description.media[..] else { panic!("{description:?}") };
        assert_eq!(video.format.codec(), Codec::H264);
        assert!(video.format.parameter_sets().to_record().is_some());
        assert_eq!(video.control.as_deref(), Some("streamid=0"));
        assert_eq!((audio.format.codec(), audio.format.clock_rate), (Codec::Aac, 44_100));
        assert_eq!(audio.format.config().unwrap(), b"\x12\x08\x56\xe5\x00"[..]);
        // Line ends in LF alone change nothing.
        let bare = SessionDescription::parse(text.replace('\r', "").as_bytes());
        assert_eq!(bare, Ok(description));
    }

    #[test]
    fn what_cameras_get_wrong_is_passed() {
        let text = "junk\n=\ns= a camera \na=control:rtsp://h/a/\na=\nm=\na=control:lost\n\
            m=video 0 RTP/AVP 96 97\na=rtpmap:97 H265/90000\na=RTPMAP:96   H264/90000\n\
            a = fmtp:96   packetization-mode=1\na=control:\nm=audio 0 RTP/AVP 0\n\
            m=application 0 RTP/AVP 107\na=rtpmap:107 vnd.onvif.metadata/90000\n\
            m=audio 0 RTP/SAVP 8\nm=video x y 200";
        let description = SessionDescription::parse(text.as_bytes()).unwrap();
        assert_eq!(description.name, "a camera");
        assert_eq!(description.control.as_deref(), Some("rtsp://h/a/"));
        let told: Vec<_> = description
            .media
            .iter()
            .map(|media| (media.format.rtpmap(), media.is_rtp, media.control.is_some()))
            .collect();
        let expected = [
            ("H264/90000", true, false),
            ("PCMU/8000", true, false),
            ("vnd.onvif.metadata/90000", true, false),
            ("PCMA/8000", false, false),
        ];
        assert_eq!(told, expected.map(|(map, rtp, control)| (map.to_owned(), rtp, control)));
        assert_eq!(description.media[0].format.number("packetization-mode"), Some(1));
    }

    #[test]
    fn descriptions_are_bounded() {
        let lines = "a=x\n".repeat(SDP_LINES_MAX + 1);
        assert_eq!(SessionDescription::parse(lines.as_bytes()), Err(SdpError::TooLong));
        let long = vec![b'a'; RTSP_BODY_LEN_MAX + 1];
        assert_eq!(SessionDescription::parse(&long), Err(SdpError::TooLong));
        let media = "m=video 0 RTP/AVP 96\n".repeat(SDP_MEDIA_MAX + 1);
        assert_eq!(SessionDescription::parse(media.as_bytes()), Err(SdpError::TooManyMedia));
        for text in ["", "v=0\r\n", "m=video 0 RTP/AVP\r\n", "m=video 0 RTP/AVP 128\r\n"] {
            assert_eq!(SessionDescription::parse(text.as_bytes()), Err(SdpError::NoMedia));
        }
    }

    #[test]
    fn ours_is_read_again() {
        let opus = b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0";
        let formats = [
            Format::of_codec(Codec::Aac, b"\x11\x90").unwrap(),
            Format::of_codec(Codec::Opus, opus).unwrap(),
            Format::of_codec(Codec::PcmA, b"").unwrap(),
        ];
        let media = formats.into_iter().enumerate();
        let media = media.map(|(track, format)| MediaDescription::new(format, track)).collect();
        let name = "a\r\nm=evil".to_owned();
        let description = SessionDescription { name, control: None, media };
        let text = description.encode();
        let again = SessionDescription::parse(text.as_bytes()).unwrap();
        assert_eq!(again.media, description.media);
        assert_eq!((again.name.as_str(), again.control.as_deref()), ("a  m=evil", Some("*")));
        assert_eq!(again.media[2].control.as_deref(), Some("trackID=2"));
    }

    #[test]
    fn main_track_is_one_that_can_be_flv_if_any_can() {
        for (text, main) in [
            ("m=audio 0 RTP/AVP 97\na=rtpmap:97 PCMA/16000\nm=audio 0 RTP/AVP 0\n", Some(1)),
            (
                "m=audio 0 RTP/AVP 96\na=rtpmap:96 mpeg4-generic/48000/2\nm=audio 0 RTP/AVP 8\n",
                Some(1),
            ),
            ("m=audio 0 RAW/UDP 8\nm=audio 0 RTP/AVP 0\n", Some(1)),
            ("m=audio 0 RTP/AVP 14\nm=audio 0 RTP/AVP 97\na=rtpmap:97 PCMA/16000\n", Some(1)),
            ("m=audio 0 RTP/AVP 14\nm=audio 0 RTP/AVP 15\n", Some(0)),
            ("m=video 0 RTP/AVP 26\n", None),
        ] {
            let description = SessionDescription::parse(text.as_bytes()).unwrap();
            assert_eq!(description.main_track(TrackKind::Audio), main, "{text}");
        }
    }

    #[test]
    fn addresses_of_tracks() {
        for (base, control, url) in [
            ("rtsp://h/a", None, "rtsp://h/a"),
            ("rtsp://h/a/", Some("*"), "rtsp://h/a/"),
            ("rtsp://h/a", Some("trackID=1"), "rtsp://h/a/trackID=1"),
            ("rtsp://h/a/", Some("trackID=1"), "rtsp://h/a/trackID=1"),
            ("rtsp://h/a?x=1", Some("track1"), "rtsp://h/a?x=1/track1"),
            ("rtsp://h/a", Some("RTSP://other/b/1"), "RTSP://other/b/1"),
            ("rtsp://h:554/a/b?x=/y", Some("/t/1"), "rtsp://h:554/t/1"),
            ("rtsp://h", Some("/t/1"), "rtsp://h/t/1"),
        ] {
            assert_eq!(control_url(base, control), url);
        }
    }
}
