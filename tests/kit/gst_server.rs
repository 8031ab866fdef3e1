//! GStreamer's RTSP server. No program of it is packaged: Python starts it out of the library that
//! comes with rtspclientsink.

use std::process::{Command, Stdio};

use super::TempDir;
use super::process::Process;
use super::relay::{lines_of, wait_line};
use super::rtsp_peers::Clip;

/// Serves a clip to each client from its beginning.
#[derive(Debug)]
pub struct GstServer {
    process: Process,
    pub url: String,
    _dir: TempDir,
}

impl GstServer {
    /// `clip` is of H.264 and AAC, in Matroska. Of FLV it can't tell how fast it plays, and aborts (1.22).
    #[track_caller]
    pub fn start(clip: &Clip) -> Self {
        let dir = TempDir::new("gst-server");
        let pipeline = format!(
            "( filesrc location={} ! matroskademux name=d \
             d. ! queue ! h264parse ! rtph264pay name=pay0 pt=96 \
             d. ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )",
            clip.path().display()
        );
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT, &pipeline]).stdout(Stdio::piped());
        // What it makes of our reports.
        command.env("GST_DEBUG", "rtpsession:6,rtpsource:6").env("GST_DEBUG_NO_COLOR", "1");
        let mut process =
            Process::start("GStreamer's server", &mut command, dir.file("stderr.log"));
        let port = wait_line(&lines_of(&mut process), "port ");
        let port = port.unwrap_or_else(|| panic!("no port: {}", process.log()));
        let url = format!("rtsp://127.0.0.1:{}/cam", port.trim_start_matches("port "));
        Self { process, url, _dir: dir }
    }

    pub fn log(&self) -> String {
        self.process.log()
    }
}

const SCRIPT: &str = r#"
import ctypes, sys

names = "libglib-2.0.so.0", "libgstreamer-1.0.so.0", "libgstrtspserver-1.0.so.0"
libraries = [ctypes.CDLL(name) for name in names]

def call(name, *args):
    function = next(getattr(library, name) for library in libraries if hasattr(library, name))
    function.restype = ctypes.c_void_p
    return function(*(ctypes.c_void_p(arg) if isinstance(arg, int) else arg for arg in args))

call("gst_init", None, None)
server = call("gst_rtsp_server_new")
call("gst_rtsp_server_set_address", server, b"127.0.0.1")
call("gst_rtsp_server_set_service", server, b"0")
factory = call("gst_rtsp_media_factory_new")
call("gst_rtsp_media_factory_set_launch", factory, sys.argv[1].encode())
mounts = call("gst_rtsp_server_get_mount_points", server)
call("gst_rtsp_mount_points_add_factory", mounts, b"/cam", factory)
call("gst_rtsp_server_attach", server, None)
print("port", call("gst_rtsp_server_get_bound_port", server), flush=True)
call("g_main_loop_run", call("g_main_loop_new", None, 0))
"#;
