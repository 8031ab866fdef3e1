//! The floor for many streams: 400 streams with a player each through a loop that receives and sends
//! the same bytes and knows nothing of them. Streams of 0.57 Mbit/s as `benches/compare` has them:
//! 25 video frames and 43 audio frames a second, each sent by itself. The loop on CPU 0, both ends
//! on CPU 1, in sweeps of 1 ms. It is woken for each tag, gathers for 1 ms, or reads by frames
//! (`SO_RCVLOWAT`) and gathers, as rillcast does (`-- --by-frames`: this alone, once; it prints its
//! CPU s/GB, and what a soak of its CPU misses for each GB). `-- --seconds N` is the window, 6 s
//! unless given. Prints Markdown; `docs/benchmarks.md` has the results.
#![allow(clippy::print_stdout, reason = "what a bench prints is its result")]
#![allow(clippy::disallowed_methods, reason = "plain threads on a schedule of their own")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Pid;
use rillcast::clock;
use rillcast::ring::socket::set_receive_mark;

const STREAMS: usize = 400;
const WARM_UP: Duration = Duration::from_secs(1);
const WINDOW_SECONDS: u64 = 6;
const SWEEP: Duration = Duration::from_millis(1);

/// Bytes and interval of each kind of frame.
const KINDS: [(usize, Duration); 2] =
    [(2_350, Duration::from_millis(40)), (300, Duration::from_micros(23_220))];

/// Name, mark of the inputs, and pause before each look.
const LOOPS: [(&str, usize, Duration); 3] = [
    ("at once", 1, Duration::ZERO),
    ("gathered 1 ms", 1, SWEEP),
    ("by frames, gathered 1 ms", KINDS[0].0, SWEEP),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let window = window(&args);
    if args.iter().any(|arg| arg == "--by-frames") {
        let [.., (_, mark, pause)] = LOOPS;
        let soak = Soak::start();
        let run = run(mark, pause, window, Some(&soak));
        println!("{:.2} {:.2}", run.cpu_per_gb(), run.soak_per_gb());
        return;
    }
    println!("| loop | CPU s/GB | receives/s |");
    println!("|---|---|---|");
    for _ in 0..2 {
        for (name, mark, pause) in LOOPS {
            let run = run(mark, pause, window, None);
            let per_second = run.receives as f64 / window.as_secs_f64();
            println!("| {name} | {:.2} | {per_second:.0} |", run.cpu_per_gb());
        }
    }
}

fn window(args: &[String]) -> Duration {
    let given = args.iter().skip_while(|arg| *arg != "--seconds").nth(1);
    let seconds = given.map_or(WINDOW_SECONDS, |text| text.parse().expect("whole seconds"));
    Duration::from_secs(seconds)
}

struct Run {
    cpu: Duration,
    /// What the soak did not get of the window.
    soaked: Duration,
    bytes: u64,
    receives: u64,
}

impl Run {
    fn cpu_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.bytes as f64
    }

    fn soak_per_gb(&self) -> f64 {
        self.soaked.as_secs_f64() * 1e9 / self.bytes as f64
    }
}

/// A process of the idle class on the loop's CPU: what it does not get was used.
struct Soak(Child);

impl Soak {
    fn start() -> Self {
        let mut command = Command::new("chrt");
        command.args(["-i", "0", "taskset", "-c", "0", "sh", "-c", "while :; do :; done"]);
        Self(command.spawn().expect("chrt and taskset of util-linux"))
    }

    fn run_time(&self) -> Duration {
        run_time(&self.0.id().to_string())
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("a child of ours");
    }
}

fn run(mark: usize, pause: Duration, window: Duration, soak: Option<&Soak>) -> Run {
    let (publishers, inputs) = pairs();
    for input in &inputs {
        set_receive_mark(input, mark as u32).expect("an option");
    }
    let (outputs, players) = pairs();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| publish(publishers, &done));
        scope.spawn(|| play(players, &done));
        let relay = scope.spawn(|| relay((&inputs, &outputs), pause, window, soak));
        let run = relay.join().expect("the loop ends");
        done.store(true, Ordering::Relaxed);
        run
    })
}

/// Connected sockets, near and far ends.
fn pairs() -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let pair = |_| {
        let near = TcpStream::connect(address).expect("a connection");
        let (far, _) = listener.accept().expect("its other end");
        for socket in [&near, &far] {
            socket.set_nodelay(true).expect("an option");
            socket.set_nonblocking(true).expect("a flag");
        }
        (near, far)
    };
    (0..STREAMS).map(pair).unzip()
}

fn relay(
    (inputs, outputs): (&[TcpStream], &[TcpStream]),
    pause: Duration,
    window: Duration,
    soak: Option<&Soak>,
) -> Run {
    pin(0);
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    for (index, input) in inputs.iter().enumerate() {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(input.as_fd(), event).expect("room");
    }
    let mut run = Run { cpu: Duration::ZERO, soaked: Duration::ZERO, bytes: 0, receives: 0 };
    let (mut cpu_before, mut soak_before) = (Duration::ZERO, Duration::ZERO);
    let mut window_start = clock::now();
    let soak_time = || soak.map_or(Duration::ZERO, Soak::run_time);
    let mut events = vec![EpollEvent::empty(); STREAMS];
    let mut buffer = vec![0; 16 * 1024];
    let mut started = false;
    let start = clock::now();
    while start.elapsed() < WARM_UP + window {
        if !started && start.elapsed() >= WARM_UP {
            started = true;
            (run.bytes, run.receives, cpu_before) = (0, 0, run_time(THIS_THREAD));
            (window_start, soak_before) = (clock::now(), soak_time());
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
        let ready = epoll.wait(&mut events, EpollTimeout::from(10_u8)).expect("epoll");
        for event in &events[..ready] {
            let index = event.data() as usize;
            let len = (&inputs[index]).read(&mut buffer).expect("the publisher stays");
            (&outputs[index]).write_all(&buffer[..len]).expect("the player reads");
            run.bytes += len as u64;
            run.receives += 1;
        }
    }
    run.cpu = run_time(THIS_THREAD) - cpu_before;
    run.soaked = window_start.elapsed().saturating_sub(soak_time() - soak_before);
    run
}

/// Sends what is due to all streams, whose beginnings are spread over a frame's interval.
fn publish(sockets: Vec<TcpStream>, done: &AtomicBool) {
    pin(1);
    let payload = vec![7; KINDS[0].0];
    let start = clock::now();
    let (_, spread) = KINDS[0];
    let mut due: Vec<[Duration; 2]> =
        (0..STREAMS).map(|index| [spread * index as u32 / STREAMS as u32; 2]).collect();
    while !done.load(Ordering::Relaxed) {
        thread::sleep(SWEEP);
        let now = start.elapsed();
        for (mut socket, due) in sockets.iter().zip(&mut due) {
            for ((len, interval), due) in KINDS.iter().zip(due) {
                while *due <= now {
                    socket.write_all(&payload[..*len]).expect("the loop reads");
                    *due += *interval;
                }
            }
        }
    }
}

fn play(sockets: Vec<TcpStream>, done: &AtomicBool) {
    pin(1);
    let mut buffer = vec![0; 64 * 1024];
    while !done.load(Ordering::Relaxed) {
        thread::sleep(SWEEP);
        for mut socket in &sockets {
            match socket.read(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("two CPUs");
}

const THIS_THREAD: &str = "thread-self";

/// Run time of a thread by the scheduler.
fn run_time(of: &str) -> Duration {
    let text = fs::read_to_string(format!("/proc/{of}/schedstat")).expect("schedstat");
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds");
    Duration::from_nanos(ns)
}
