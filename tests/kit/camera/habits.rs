//! What a camera does its own way.

use std::net::Ipv4Addr;
use std::time::Duration;

/// All habits; by default those of a server that follows the specification.
#[derive(Debug, Clone)]
pub struct Habits {
    pub cseq: Cseq,
    /// PLAY's answer has `Range` and `RTP-Info`.
    pub tells_start: bool,
    pub play_answer: PlayAnswer,
    /// Packets in channels that nobody set up, and media before the answer to PLAY.
    pub stray: bool,
    /// Blanks around the semicolons of `Transport`.
    pub spaced_transport: bool,
    pub control: Control,
    /// What DESCRIBE is answered with in place of a description.
    pub absurd: Option<String>,
    /// The description begins with a track for what the client may send (ONVIF streaming, 5.3).
    pub back_channel: bool,
    pub access: Option<Access>,
    /// OPTIONS needs a password, too.
    pub checks_options: bool,
    /// Once media has come for so long the camera takes another nonce, and says of the old one that it is
    /// stale.
    pub stale_after: Option<Duration>,
    /// DESCRIBE is sent elsewhere.
    pub redirect: Option<String>,
    /// With this status.
    pub redirect_status: u16,
    /// REDIRECT asks the client to go there when so much media has come (RFC 2326, 10.10).
    pub redirect_later: Option<(Duration, String)>,
    /// What `Session` says; after twice that without a sign of life the camera closes.
    pub timeout: Option<Duration>,
    pub keep_alive: KeepAlive,
    pub udp_refused: bool,
    /// SETUP is answered with a multicast group, whatever was asked for.
    pub multicast: bool,
    pub ssrc: Ssrc,
    /// Where the packets over UDP come from, as the answer to SETUP says; in truth they come from the
    /// camera.
    pub source: Option<Ipv4Addr>,
    pub server_ports: ServerPorts,
    /// Packets of type 50 with the sequence number of the one before, as Geovision's cameras send.
    pub payload_type_50: bool,
    /// PLAY is answered, no media comes.
    pub is_silent: bool,
    /// No media of this track comes, of the others it does.
    pub silent_track: Option<usize>,
    /// On the way, or in the camera itself.
    pub loss: Loss,
    /// From here on nothing is answered or sent.
    pub stall: Option<Stage>,
    /// Here the camera closes.
    pub drop: Option<Stage>,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            cseq: Cseq::Echoed,
            tells_start: true,
            play_answer: PlayAnswer::AtOnce,
            stray: false,
            spaced_transport: false,
            control: Control::Relative,
            absurd: None,
            back_channel: false,
            access: None,
            checks_options: false,
            stale_after: None,
            redirect: None,
            redirect_status: 302,
            redirect_later: None,
            timeout: Some(Duration::from_secs(60)),
            keep_alive: KeepAlive::Any,
            udp_refused: false,
            multicast: false,
            ssrc: Ssrc::Untold,
            source: None,
            server_ports: ServerPorts::Told,
            payload_type_50: false,
            is_silent: false,
            silent_track: None,
            loss: Loss::None,
            stall: None,
            drop: None,
        }
    }
}

impl Habits {
    pub fn public(&self) -> &'static str {
        match self.keep_alive {
            KeepAlive::Any => "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN",
            // One that offers what it refuses, too.
            _ => "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER",
        }
    }
}

/// The number that an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cseq {
    Echoed,
    /// The right one, under a name that is written so.
    Named(&'static str),
    Wrong,
    Missing,
}

/// When PLAY is answered; media comes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlayAnswer {
    AtOnce,
    /// After half a second of media.
    Late,
    Never,
}

/// How tracks are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Relative to `Content-Base`.
    Relative,
    /// Relative, and there is no `Content-Base`.
    RelativeWithoutBase,
    /// Whole URLs, and there is no `Content-Base`.
    Absolute,
    /// Relative to a whole URL of all tracks together, and there is no `Content-Base`.
    BehindAbsolute,
    /// One track, which has no address of its own.
    AggregateOnly,
    /// Each track is played by itself; PLAY of all is refused with 459.
    PerTrack,
}

/// Which password is asked for, and how. The user is `admin`, the password `p@ss:word`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Basic,
    DigestMd5,
    DigestSha256,
    /// MD5 with `qop="auth"`.
    DigestQop,
    DigestSha256Qop,
    /// Basic and Digest with MD5 in one header, and Digest with SHA-256 in another; the last is taken.
    Several,
}

/// What the answer to a SETUP over UDP says of the camera's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPorts {
    Told,
    Untold,
    /// Nothing, and they are no pair.
    UntoldApart,
}

/// What keeps a session alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    Any,
    GetParameter,
    /// GET_PARAMETER is offered and answered with 501.
    OptionsOnly,
}

/// The SSRC in the answer to SETUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ssrc {
    Untold,
    True,
    False,
}

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    None,
    Reordered,
    /// The first packet of the first track comes behind the second.
    FirstReordered,
    Lost,
}

/// Where a camera stalls or closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Options,
    Describe,
    /// DESCRIBE again, with a password; not of cameras that ask for none.
    Login,
    Setup,
    SecondSetup,
    Play,
    Media,
    /// Half of a packet is out over TCP, over UDP one with the first part of a slice alone.
    MidPacket,
}

impl Stage {
    /// All of a camera that asks for no password.
    pub const ALL: [Self; 7] = [
        Self::Options,
        Self::Describe,
        Self::Setup,
        Self::SecondSetup,
        Self::Play,
        Self::Media,
        Self::MidPacket,
    ];
}
