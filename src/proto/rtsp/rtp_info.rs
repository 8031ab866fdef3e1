//! The `RTP-Info` header (RFC 2326, 12.33): with which packet each track begins.

use std::fmt::Write as _;

use crate::limits::SDP_MEDIA_MAX;

/// The first packet of a track, as far as the header tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackStart {
    /// Of the track, as in its SETUP; may be relative.
    pub url: String,
    pub sequence: Option<u16>,
    pub timestamp: Option<u32>,
}

impl TrackStart {
    /// Reads the header's value. Addresses may have commas and semicolons in them; what can't be
    /// read is left out.
    pub fn parse_list(value: &str) -> Vec<Self> {
        let mut list: Vec<String> = Vec::new();
        for piece in value.split(',') {
            let key = piece.trim_start().get(..4);
            let begins = key.is_some_and(|key| key.eq_ignore_ascii_case("url="));
            if begins && list.len() == SDP_MEDIA_MAX {
                break;
            }
            match list.last_mut() {
                Some(last) if !begins => {
                    last.push(',');
                    last.push_str(piece);
                }
                _ => list.push(piece.trim().to_owned()),
            }
        }
        list.iter().filter_map(|text| Self::parse(text)).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let (key, rest) = text.split_at_checked(4)?;
        if !key.eq_ignore_ascii_case("url=") {
            return None;
        }
        let mut start = Self { url: String::new(), sequence: None, timestamp: None };
        for part in rest.split(';') {
            let pair = part.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
            match pair {
                Some((key, value)) if key.eq_ignore_ascii_case("seq") => {
                    start.sequence = value.parse().ok();
                }
                // Some servers write more than 32 bits.
                Some((key, value)) if key.eq_ignore_ascii_case("rtptime") => {
                    start.timestamp = value.parse::<u64>().ok().map(|time| time as u32);
                }
                _ if start.url.is_empty() => start.url = part.trim().to_owned(),
                _ => {
                    start.url.push(';');
                    start.url.push_str(part);
                }
            }
        }
        start.url.truncate(start.url.trim_end().len());
        Some(start)
    }

    /// The header's value.
    pub fn format_list(list: &[Self]) -> String {
        let mut value = String::new();
        for start in list {
            let separator = if value.is_empty() { "" } else { "," };
            let _ = write!(value, "{separator}url={}", start.url);
            if let Some(sequence) = start.sequence {
                let _ = write!(value, ";seq={sequence}");
            }
            if let Some(timestamp) = start.timestamp {
                let _ = write!(value, ";rtptime={timestamp}");
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(url: &str, sequence: Option<u16>, timestamp: Option<u32>) -> TrackStart {
        TrackStart { url: url.to_owned(), sequence, timestamp }
    }

    #[test]
    fn starts_are_read_and_written() {
        let value = "url=rtsp://h/a/trackID=0;seq=65535;rtptime=4294967295,url=b;seq=1";
        let list = [
            start("rtsp://h/a/trackID=0", Some(65_535), Some(u32::MAX)),
            start("b", Some(1), None),
        ];
        assert_eq!(TrackStart::parse_list(value), list);
        assert_eq!(TrackStart::format_list(&list), value);
    }

    #[test]
    fn what_servers_write_is_read() {
        let list = TrackStart::parse_list(
            " URL=rtsp://h/a;x=1,y?q=2,3 ; Seq = 7 ;rtptime=4294967297 , url=;rtptime=, nonsense",
        );
        assert_eq!(list[0], start("rtsp://h/a;x=1,y?q=2,3", Some(7), Some(1)));
        assert_eq!(list[1].timestamp, None);
        assert_eq!(list.len(), 2);
        assert_eq!(TrackStart::parse_list("nonsense"), []);
        assert_eq!(TrackStart::parse_list(""), []);
        let many = "url=a,".repeat(1000);
        assert_eq!(TrackStart::parse_list(&many).len(), SDP_MEDIA_MAX);
    }
}
