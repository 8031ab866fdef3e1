//! The UDP ports of RTSP: where datagrams go, who gets ports, and that they come back from whoever had
//! them, gone without a word or not.

mod kit;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use kit::camera::{Camera, Habits};
use kit::flv::Kind;
use kit::player::is_wait;
use kit::rtp::parse_description;
use kit::rtp_media::{Media, Plan};
use kit::rtsp::{Client, Lower, Message, first_of_pair, transport_parameter};
use kit::rtsp_crowd::stop_and_compare;
use kit::rtsp_player::{RtspPlayer, control_url, udp_pair};
use kit::rtsp_publisher::RtspPublisher;
use kit::{LIVENESS, Player, Relay, wait_until};

const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// An address of this host at which nobody speaks RTSP.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

const SDP: (&str, &str) = ("Content-Type", "application/sdp");

/// A track over UDP.
struct Track {
    own: [UdpSocket; 2],
    /// The same ports at another address.
    other: [UdpSocket; 2],
    answer: Message,
}

impl Track {
    /// Asks for a track; `more` goes before the ports.
    fn ask(client: &mut Client, url: &str, more: &str, mode: &str) -> Self {
        let (own, other) = pairs();
        let port = own[0].local_addr().expect("a bound socket").port();
        let transport = format!("RTP/AVP;unicast{more};client_port={port}-{}{mode}", port + 1);
        let answer = client.ask("SETUP", url, &[("Transport", &transport)], "");
        Self { own, other, answer: answer.expect("an answer") }
    }

    fn server_port(&self) -> u16 {
        let told = self.answer.header("transport").unwrap_or_default();
        let port = transport_parameter(told, "server_port").and_then(first_of_pair);
        port.unwrap_or_else(|| panic!("no server_port in {:?}", self.answer))
    }
}

/// A pair of our address, and the same ports of the other one.
fn pairs() -> ([UdpSocket; 2], [UdpSocket; 2]) {
    loop {
        let own = udp_pair(IpAddr::V4(HOST));
        let port = own[0].local_addr().expect("a bound socket").port();
        if let [Ok(rtp), Ok(rtcp)] = [port, port + 1].map(|port| UdpSocket::bind((OTHER, port))) {
            return (own, [rtp, rtcp]);
        }
    }
}

/// How many datagrams have come.
fn arrived(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).expect("a nonblocking socket");
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
}

/// A client that has described a stream, and the addresses of its tracks.
fn described(relay: &Relay, stream: &str) -> (Client, Vec<String>) {
    let mut client = Client::connect(relay.rtsp);
    let url = relay.rtsp_url(stream);
    let answer = client.demand("DESCRIBE", &url, &[], "");
    let formats = parse_description(&answer.text()).expect("a description");
    let base = answer.header("content-base").unwrap_or(&url).to_owned();
    (client, formats.iter().map(|format| control_url(&base, &format.control)).collect())
}

/// A player whose sockets are in the test's hands.
struct Listener {
    client: Client,
    url: String,
    tracks: Vec<Track>,
}

impl Listener {
    #[track_caller]
    fn start(relay: &Relay, stream: &str, more: &str) -> Self {
        let (mut client, urls) = described(relay, stream);
        let tracks: Vec<Track> =
            urls.iter().map(|url| Track::ask(&mut client, url, more, "")).collect();
        for track in &tracks {
            assert_eq!(track.answer.status(), Some(200), "{:?}", track.answer);
        }
        let url = relay.rtsp_url(stream);
        client.demand("PLAY", &url, &[], "");
        Self { client, url, tracks }
    }

    /// Waits for so many datagrams at its own ports of each track.
    #[track_caller]
    fn wait_datagrams(&self, count: usize) {
        for socket in self.tracks.iter().map(|track| &track.own[0]) {
            let mut have = 0;
            wait_until(LIVENESS, "datagrams of each track", || {
                have += arrived(socket);
                have >= count
            });
        }
    }

    fn is_closed(&mut self) -> bool {
        let socket = &mut self.client.socket;
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
        match socket.read(&mut [0; 4096]) {
            Ok(len) => len == 0,
            Err(error) => !is_wait(&error),
        }
    }
}

/// A publisher over TCP of `live/a`, which has no ports of UDP.
fn published(relay: &Relay) -> (RtspPublisher, Media) {
    let media = Media::of("av.flv", Plan::default());
    let publisher = RtspPublisher::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Tcp, &media);
    relay.wait_online("a");
    (publisher, media)
}

#[test]
fn nothing_is_sent_to_an_address_that_a_player_names() {
    let relay = Relay::start(2);
    let ports = relay.udp_pairs_free();
    let (publisher, _) = published(&relay);
    for more in [";destination=127.0.0.9", ";source=127.0.0.9", ";destination=\"127.0.0.9\";append"]
    {
        let player = Listener::start(&relay, "a", more);
        player.wait_datagrams(20);
        for track in &player.tracks {
            let told = track.answer.header("transport").unwrap_or_default();
            assert!(!told.contains("127.0.0.9"), "{told:?}");
            assert_eq!(track.other.each_ref().map(arrived), [0, 0], "{more}");
        }
    }
    publisher.stop();
    relay.wait_udp_pairs_free(ports);
    relay.stop();
}

#[test]
fn nothing_is_sent_to_an_address_that_a_publisher_names() {
    let relay = Relay::start(1);
    let ports = relay.udp_pairs_free();
    let media = Media::of("av.flv", Plan::default());
    let mut client = Client::connect(relay.rtsp);
    let url = relay.rtsp_url("a");
    client.demand("ANNOUNCE", &url, &[SDP], &media.description());
    let named = ";destination=127.0.0.9;source=127.0.0.9";
    let tracks: Vec<Track> = media
        .formats
        .iter()
        .map(|format| control_url(&url, &format.control))
        .map(|url| Track::ask(&mut client, &url, named, ";mode=record"))
        .collect();
    client.demand("RECORD", &url, &[], "");
    for timed in media.packets.iter().take(100).filter(|timed| !timed.is_rtcp) {
        let track = &tracks[timed.track];
        track.own[0].send_to(&timed.bytes, (HOST, track.server_port())).expect("sent");
    }
    for track in &tracks {
        wait_until(LIVENESS, "a report about each track", || arrived(&track.own[1]) > 0);
        assert_eq!(track.other.each_ref().map(arrived), [0, 0]);
    }
    drop((client, tracks));
    relay.wait_udp_pairs_free(ports);
    relay.stop();
}

#[test]
fn nothing_is_sent_to_an_address_that_an_origin_names() {
    let camera = Camera::start(Habits { source: Some(OTHER), ..Habits::default() });
    let relay = Relay::start(1);
    let ports = relay.udp_pairs_free();
    let added = relay.add("a", &camera.url(), &[("rtp_type", "1")]);
    assert_eq!(added["code"], 0, "{added}");
    // By then the pull has reported, too.
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 100);
    drop(player);
    assert_eq!(relay.delete("a")["data"]["flag"], true);
    let [connection] = &camera.connections()[..] else { panic!("{:?}", camera.connections()) };
    assert_eq!(connection.other_sources.len(), 4, "{connection:?}");
    for socket in &connection.other_sources {
        assert_eq!(arrived(socket), 0, "{socket:?}");
    }
    relay.wait_udp_pairs_free(ports);
    relay.stop();
}

/// The first port of so many pairs in a row that are free.
#[track_caller]
fn free_range(pairs: u16) -> u16 {
    let is_free = |port: u16| UdpSocket::bind((HOST, port)).is_ok();
    let start = 20_000 + (std::process::id() % 400) as u16 * 20;
    let mut firsts = (start..29_000).step_by(20);
    firsts.find(|first| (*first..first + 2 * pairs).all(is_free)).expect("free ports in a row")
}

fn relay_with(first: u16, pairs: u16) -> Relay {
    let config = format!("[rtsp]\nudp_ports = \"{first}-{}\"\n", first + 2 * pairs - 1);
    let relay = Relay::start_with(1, &config);
    assert_eq!(relay.udp_pairs_free(), u64::from(pairs));
    relay
}

#[test]
fn player_that_gets_no_ports_goes_on_over_tcp() {
    let relay = relay_with(free_range(3), 3);
    let (publisher, media) = published(&relay);
    let url = relay.rtsp_url("a");
    let first = RtspPlayer::start(relay.rtsp, &url, Lower::Udp);
    assert_eq!(relay.udp_pairs_free(), 1);
    // One track gets the last pair, the other one none.
    let (mut client, urls) = described(&relay, "a");
    let statuses =
        [0, 1].map(|track| Track::ask(&mut client, &urls[track], "", "").answer.status());
    assert_eq!(statuses, [Some(200), Some(461)]);
    assert_eq!(relay.udp_pairs_free(), 0);
    client.demand("TEARDOWN", &url, &[], "");
    client.session = None;
    let second = RtspPlayer::start_with(client, &url, Lower::Tcp);
    relay.wait_udp_pairs_free(1);
    stop_and_compare(vec![first, second], &media);
    assert_eq!(relay.metric("rillcast_udp_ports_refused_total"), 1);
    relay.wait_udp_pairs_free(3);
    stop_and_compare(vec![RtspPlayer::start(relay.rtsp, &url, Lower::Udp)], &media);
    relay.wait_udp_pairs_free(3);
    publisher.stop();
    relay.stop();
}

/// A track that is set up again gives up the ports that it had, and may get no others: with the only pair
/// of them, `method` then closes the connection without an answer.
#[track_caller]
fn assert_closed_without_ports(client: &mut Client, track: &str, mode: &str, method: &str) {
    // The kernel has yet to let go of the first pair when the second one is asked for.
    for status in [200, 461] {
        let answer = Track::ask(client, track, "", mode).answer;
        assert_eq!(answer.status(), Some(status), "{method}: {answer:?}");
    }
    let (url, _) = track.rsplit_once('/').expect("a track of a stream");
    let end = client.ask(method, url, &[], "").expect_err("it is closed");
    assert!(!is_wait(&end), "{method}: {end}");
}

#[test]
fn record_and_play_of_a_track_that_lost_its_ports_close_the_connection() {
    let relay = relay_with(free_range(1), 1);
    let (publisher, media) = published(&relay);
    let mut client = Client::connect(relay.rtsp);
    let url = relay.rtsp_url("b");
    client.demand("ANNOUNCE", &url, &[SDP], &media.description());
    let track = control_url(&url, &media.formats[0].control);
    assert_closed_without_ports(&mut client, &track, ";mode=record", "RECORD");
    relay.wait_udp_pairs_free(1);
    assert!(relay.schemas("b").is_empty(), "nothing is published");
    let (mut client, tracks) = described(&relay, "a");
    assert_closed_without_ports(&mut client, &tracks[0], "", "PLAY");
    relay.wait_udp_pairs_free(1);
    publisher.stop();
    relay.stop();
}

#[test]
fn port_that_another_has_is_skipped() {
    let first = free_range(6);
    let taken = [first, first + 3].map(|port| UdpSocket::bind((HOST, port)).expect("free"));
    let relay = relay_with(first, 6);
    let (publisher, media) = published(&relay);
    let (mut client, urls) = described(&relay, "a");
    let track = Track::ask(&mut client, &urls[0], "", "");
    assert_eq!(track.server_port(), first + 4);
    let player = RtspPlayer::start(relay.rtsp, &relay.rtsp_url("a"), Lower::Udp);
    assert_eq!(relay.udp_pairs_free(), 3);
    stop_and_compare(vec![player], &media);
    assert_eq!(taken.each_ref().map(arrived), [0, 0]);
    assert_eq!(relay.metric("rillcast_udp_ports_refused_total"), 0);
    drop(client);
    relay.wait_udp_pairs_free(6);
    publisher.stop();
    relay.stop();
}

#[test]
fn player_over_udp_that_gives_no_sign_of_life_is_closed() {
    let relay = Relay::start_with(2, "[rtsp]\nsession_timeout_ms = 1000\n");
    let ports = relay.udp_pairs_free();
    let (publisher, _) = published(&relay);
    // One whose ports are gone, and one that listens on.
    let mut gone = Listener::start(&relay, "a", "");
    gone.tracks.clear();
    let mut silent = Listener::start(&relay, "a", "");
    let mut asking = Listener::start(&relay, "a", "");
    let mut reporting = Listener::start(&relay, "a", "");
    assert_eq!(relay.udp_pairs_free(), ports - 8);
    let mut closed = [false; 2];
    wait_until(LIVENESS, "the two that say nothing are closed", || {
        asking.client.demand("GET_PARAMETER", &asking.url, &[], "");
        let track = &reporting.tracks[0];
        let at = (HOST, track.server_port() + 1);
        track.own[1].send_to(&RECEIVER_REPORT, at).expect("sent");
        for (closed, player) in closed.iter_mut().zip([&mut gone, &mut silent]) {
            *closed |= player.is_closed();
        }
        closed == [true; 2]
    });
    assert_eq!(relay.metric("rillcast_rtsp_session_timeouts_total"), 2);
    relay.wait_udp_pairs_free(ports - 4);
    for player in [&mut asking, &mut reporting] {
        player.wait_datagrams(20);
        assert!(!player.is_closed());
    }
    drop((gone, silent, asking, reporting));
    publisher.stop();
    relay.wait_udp_pairs_free(ports);
    relay.stop();
}

/// Of nobody, about nobody.
const RECEIVER_REPORT: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 7];
