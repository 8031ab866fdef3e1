//! nginx with nginx-rtmp (Debian's libnginx-mod-rtmp) as a publisher's target, a pull's origin, a
//! player and a publisher.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::process::Process;
use super::{LIVENESS, TempDir, free_port, wait_until};

/// A running nginx with one live application.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    _dir: TempDir,
    pub port: u16,
}

impl Nginx {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more directives in its application `live`.
    pub fn start_with(directives: &str) -> Self {
        Self::start_at(free_port(), directives)
    }

    /// On this port.
    pub fn start_at(port: u16, directives: &str) -> Self {
        let dir = TempDir::new("nginx");
        let path = dir.path().display();
        // The worker runs as nobody; one process as the test's user needs no permissions.
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\n\
             daemon off;\nmaster_process off;\nworker_processes 1;\n\
             pid {path}/nginx.pid;\nerror_log {path}/error.log info;\n\
             events {{ worker_connections 256; }}\n\
             rtmp {{ server {{ listen 127.0.0.1:{port}; chunk_size 4096; access_log off;\n\
             application live {{ live on; {directives} }} }} }}\n"
        );
        let file = dir.file("nginx.conf");
        fs::write(&file, config).expect("nginx.conf");
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(&file).stdout(Stdio::null());
        let mut process = Process::start("nginx", &mut command, dir.file("stderr.log"));
        wait_until(LIVENESS, "nginx listens", || {
            assert!(process.is_running(), "nginx ended: {}", process.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { process, _dir: dir, port }
    }

    pub fn url(&self, stream: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{stream}", self.port)
    }

    pub fn stop(mut self) {
        self.process.terminate(LIVENESS);
    }
}
