//! The origin over HTTP: one request, one reply.

use std::io::{Read, Write};

use super::super::flv;
use super::{Link, Mode, Over, Stage};

pub(super) fn serve(link: &mut Link) -> Result<(), Over> {
    let head = read_head(link)?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    link.record(|connection| connection.request = path);
    link.reached(Stage::Greeted);
    match link.mode() {
        Mode::NotFound => {
            link.socket
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot here\n")?;
            link.hold()
        }
        Mode::Unavailable => {
            link.socket.write_all(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nbusy\n",
            )?;
            link.hold()
        }
        Mode::NotFlv => {
            link.socket.write_all(OK)?;
            link.socket.write_all(b"\r\n<html>This is no stream.</html>\n")?;
            link.hold()
        }
        Mode::Redirect(url) => {
            let reply =
                format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n");
            link.socket.write_all(reply.as_bytes())?;
            link.hold()
        }
        Mode::NoMedia => {
            link.socket.write_all(&[OK, b"\r\n", &flv::header(true, true)].concat())?;
            link.send_media_later(flv::encode)
        }
        Mode::MidFrame => {
            let (before, keyframe) = link.opening();
            let mut bytes = [OK, b"\r\n", &flv::header(true, true)].concat();
            before.iter().for_each(|tag| bytes.extend(flv::encode(tag)));
            let half = flv::encode(&keyframe);
            bytes.extend_from_slice(&half[..half.len() / 2]);
            link.socket.write_all(&bytes)?;
            link.hold()
        }
        Mode::Healthy | Mode::KeyframeLate(_) => {
            link.socket.write_all(&[OK, b"\r\n", &flv::header(true, true)].concat())?;
            link.send_media(flv::encode)
        }
        Mode::HealthyChunked => {
            let chunk = |bytes: &[u8]| {
                [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
            };
            let head = [OK, b"Transfer-Encoding: chunked\r\n\r\n"].concat();
            link.socket.write_all(&head)?;
            link.socket.write_all(&chunk(&flv::header(true, true)))?;
            // A chunk ends in the middle of each tag, as it may.
            link.send_media(|tag| {
                let bytes = flv::encode(tag);
                let (first, second) = bytes.split_at(bytes.len() / 2);
                [chunk(first), chunk(second)].concat()
            })
        }
        _ => link.hold(),
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n";

fn read_head(link: &mut Link) -> Result<String, Over> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let len = link.socket.read(&mut buffer)?;
        if len == 0 {
            return Err(Over);
        }
        head.extend_from_slice(&buffer[..len]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
