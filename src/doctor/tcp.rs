//! TCP as the kernel is told to speak it: queues, buffers, congestion control.
//!
//! What the relay sets itself (`src/ring/socket.rs`) is judged with the sysctl that bounds it.

use super::finding::{Finding, Outcome, set_sysctl};
use super::host::{Unknown, bytes_text};
use super::nic::nics;
use super::plan::Plan;
use super::{Check, Exam};
use crate::ring::socket::LISTEN_BACKLOG;

pub(super) const CHECKS: &[Check] = &[
    Check::once("net.core.somaxconn", somaxconn),
    Check::once("net.ipv4.tcp_max_syn_backlog", syn_backlog),
    Check::once("net.ipv4.tcp_mem", tcp_mem),
    Check::once("net.ipv4.tcp_rmem", tcp_rmem),
    Check::once("net.ipv4.tcp_wmem", tcp_wmem),
    Check::once("net.ipv4.tcp_notsent_lowat", notsent_lowat),
    Check::once("net.ipv4.tcp_slow_start_after_idle", slow_start_after_idle),
    Check::once("congestion control", congestion_control),
    Check::once("accept queues", accept_queues),
];

fn somaxconn(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "net.core.somaxconn";
    let most: u64 = exam.host.sysctl(KEY)?;
    let wanted = LISTEN_BACKLOG as u64;
    if most >= wanted {
        return Ok(Finding::fine(most.to_string()));
    }
    let why = format!(
        "a listener asks for {wanted} waiting connections and gets {most}: when many players come at \
         once, those beyond try again after a second"
    );
    Ok(Finding::costs(most.to_string(), why, set_sysctl(KEY, wanted)))
}

fn syn_backlog(exam: &Exam<'_>) -> Outcome {
    const COOKIES: &str = "net.ipv4.tcp_syncookies";
    const KEY: &str = "net.ipv4.tcp_max_syn_backlog";
    let cookies: u8 = exam.host.sysctl(COOKIES)?;
    let most: u64 = exam.host.sysctl(KEY)?;
    match cookies {
        0 if most < LISTEN_BACKLOG as u64 => {
            let why = "without SYN cookies half-open connections beyond three quarters of it are \
                       dropped, and a SYN flood is an outage";
            let found = format!("{most}, {COOKIES} is 0");
            Ok(Finding::costs(found, why, set_sysctl(COOKIES, 1)))
        }
        0 | 1 => Ok(Finding::fine(format!("{most}, {COOKIES} is {cookies}"))),
        _ => {
            let why = "every connection is made with a cookie, most without window scaling and SACK: \
                       for tests only";
            Ok(Finding::costs(format!("{COOKIES} is {cookies}"), why, set_sysctl(COOKIES, 1)))
        }
    }
}

fn tcp_mem(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "net.ipv4.tcp_mem";
    let [_, pressure, most] = exam.host.sysctls(KEY)?;
    let page_len = exam.facts.page_len;
    let needed = exam.plan.socket_bytes();
    let (from, to) = (pressure.saturating_mul(page_len), most.saturating_mul(page_len));
    let found = format!(
        "pressure from {}, limit {}; {} connections may hold {}",
        bytes_text(from),
        bytes_text(to),
        exam.plan.connections,
        bytes_text(needed)
    );
    if from >= needed {
        return Ok(Finding::fine(found));
    }
    let why = "from there the kernel shrinks every socket's buffers, those of healthy players too";
    let pages = needed.div_ceil(page_len);
    let value = format!("{} {} {}", pages - pages / 4, pages, pages + pages / 2);
    let remedy = format!(
        "{}\n{}   # in the config, where the memory is not there",
        set_sysctl(KEY, value),
        exam.plan.fewer_connections(from, Plan::socket_bytes)
    );
    Ok(Finding::costs(found, why, remedy))
}

/// Bytes that a buffer must be able to grow to: 20 Mbit/s over 200 ms are 500 KB in flight, and
/// the kernel counts a packet's whole allocation, up to twice its bytes.
const BUFFER_MAX_WANTED: u64 = 1 << 20;

fn tcp_rmem(exam: &Exam<'_>) -> Outcome {
    let why = "a pull or publisher over a long way is held to this many bytes in a round trip";
    buffer(exam, "net.ipv4.tcp_rmem", "4096 131072 6291456", why)
}

fn tcp_wmem(exam: &Exam<'_>) -> Outcome {
    let why = "a player over a long way is held to this many bytes in a round trip, and starts \
               slowly: the first GOP goes out in pieces";
    buffer(exam, "net.ipv4.tcp_wmem", "4096 16384 4194304", why)
}

fn buffer(exam: &Exam<'_>, key: &str, usual: &str, why: &str) -> Outcome {
    let [least, first, most] = exam.host.sysctls(key)?;
    let found = format!("{least} {first} {most}");
    if most >= BUFFER_MAX_WANTED {
        return Ok(Finding::fine(found));
    }
    Ok(Finding::costs(found, why, set_sysctl(key, usual)))
}

fn notsent_lowat(exam: &Exam<'_>) -> Outcome {
    let host_wide: u64 = exam.host.sysctl("net.ipv4.tcp_notsent_lowat")?;
    let [_, _, most] = exam.host.sysctls("net.ipv4.tcp_wmem")?;
    let ours = exam.plan.notsent_bytes_max;
    if ours < most {
        return Ok(Finding::fine(format!("{host_wide}; the relay sets {ours} for its own")));
    }
    let found = format!("egress.send_notsent_lowat_bytes is {ours}, tcp_wmem ends at {most}");
    let why = "it has no effect: a player that does not read fills its socket before it is noticed";
    Ok(Finding::costs(found, why, "egress.send_notsent_lowat_bytes = 131072"))
}

const CONTROL: &str = "net.ipv4.tcp_congestion_control";

fn slow_start_after_idle(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "net.ipv4.tcp_slow_start_after_idle";
    let is_on = exam.host.sysctl::<u8>(KEY)? != 0;
    if !is_on {
        return Ok(Finding::fine("0"));
    }
    // The kernel leaves a window alone that a control with its own rate keeps.
    if exam.host.sysctl_word(CONTROL)?.starts_with("bbr") {
        return Ok(Finding::fine("1, which bbr does not look at"));
    }
    let why = "after a pause (a source that stutters, a player that jumps) a keyframe starts again \
               with ten packets a round trip";
    Ok(Finding::costs("1", why, set_sysctl(KEY, 0)))
}

fn congestion_control(exam: &Exam<'_>) -> Outcome {
    let control = exam.host.sysctl_word(CONTROL)?;
    let discipline = exam.host.sysctl_word("net.core.default_qdisc")?;
    let found = format!("{control}, default_qdisc {discipline}");
    if !control.starts_with("bbr") {
        return Ok(Finding::fine(found));
    }
    if discipline == "fq" {
        // What an interface has is in no file.
        let older = "interfaces that were up before keep theirs, tc qdisc show tells";
        return Ok(Finding::fine(format!("{found}; {older}")));
    }
    let why = "bbr paces; without fq each socket has a timer of its own for it";
    let mut remedy = set_sysctl("net.core.default_qdisc", "fq");
    remedy.push_str("   # a kernel without sch_fq refuses it");
    // Interfaces that are up keep what they have; where none is seen there is none to name.
    for nic in nics(exam.host).unwrap_or_default() {
        // Below mq each queue gets the default.
        let root = if nic.tx_count > 1 { "mq" } else { "fq" };
        remedy.push_str(&format!("\ntc qdisc replace dev {} root {root}", nic.name));
    }
    Ok(Finding::costs(found, why, remedy))
}

fn accept_queues(exam: &Exam<'_>) -> Outcome {
    let path = "proc/net/netstat";
    let text = exam.host.text(path)?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return Err(Unknown::garbled(path));
    };
    let value = |wanted: &str| {
        let at = names.split(' ').position(|name| name == wanted)?;
        values.split(' ').nth(at)?.parse::<u64>().ok()
    };
    let (overflows, pressures) = (value("ListenOverflows"), value("TCPMemoryPressures"));
    let (Some(overflows), Some(pressures)) = (overflows, pressures) else {
        return Err(Unknown::garbled(path));
    };
    if (overflows, pressures) == (0, 0) {
        return Ok(Finding::fine("never full, never short of memory"));
    }
    let found =
        format!("{overflows} connections found one full, TCP short of memory {pressures} times");
    Ok(Finding::note(found, "since the start of the host, for all its programs"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Costs, Fine, NotKnown, Note};
    use super::super::testing::{Bench, Case, file, garbled, gone};

    const SOMAXCONN: &str = "proc/sys/net/core/somaxconn";
    const BACKLOG: &str = "proc/sys/net/ipv4/tcp_max_syn_backlog";
    const COOKIES: &str = "proc/sys/net/ipv4/tcp_syncookies";
    const MEM: &str = "proc/sys/net/ipv4/tcp_mem";
    const RMEM: &str = "proc/sys/net/ipv4/tcp_rmem";
    const WMEM: &str = "proc/sys/net/ipv4/tcp_wmem";
    const LOWAT: &str = "proc/sys/net/ipv4/tcp_notsent_lowat";
    const IDLE: &str = "proc/sys/net/ipv4/tcp_slow_start_after_idle";
    const CONTROL: &str = "proc/sys/net/ipv4/tcp_congestion_control";
    const QDISC: &str = "proc/sys/net/core/default_qdisc";
    const NETSTAT: &str = "proc/net/netstat";

    // The bench's plan: 2,000 connections, which hold 2,000 x 45,875 B = 22,400 pages.
    pub(in super::super) const CASES: &[Case] = &[
        Case::new("net.core.somaxconn", &[file(SOMAXCONN, "4096")], Fine, "4096"),
        Case::new("net.core.somaxconn", &[file(SOMAXCONN, "128")], Costs, "somaxconn=\"4096\""),
        Case::new("net.core.somaxconn", &[garbled(SOMAXCONN)], NotKnown, "not understood"),
        Case::new("net.core.somaxconn", &[gone(SOMAXCONN)], NotKnown, "not there"),
        Case::new("net.ipv4.tcp_max_syn_backlog", &[file(BACKLOG, "128")], Fine, "128"),
        Case::new(
            "net.ipv4.tcp_max_syn_backlog",
            &[file(BACKLOG, "128"), file(COOKIES, "0")],
            Costs,
            "tcp_syncookies=\"1\"",
        ),
        Case::new("net.ipv4.tcp_max_syn_backlog", &[file(COOKIES, "2")], Costs, "for tests only"),
        Case::new("net.ipv4.tcp_max_syn_backlog", &[garbled(BACKLOG)], NotKnown, "not understood"),
        Case::new("net.ipv4.tcp_mem", &[file(MEM, "1 22400 40000")], Fine, "2000 connections"),
        Case::new(
            "net.ipv4.tcp_mem",
            &[file(MEM, "1 22399 40000")],
            Costs,
            "\"16800 22400 33600\"",
        ),
        Case::new("net.ipv4.tcp_mem", &[file(MEM, "1 2")], NotKnown, "not understood"),
        Case::new("net.ipv4.tcp_rmem", &[file(RMEM, "4096 87380 1048576")], Fine, "1048576"),
        Case::new("net.ipv4.tcp_rmem", &[file(RMEM, "4096 87380 1048575")], Costs, "6291456"),
        Case::new("net.ipv4.tcp_rmem", &[garbled(RMEM)], NotKnown, "not understood"),
        Case::new("net.ipv4.tcp_wmem", &[file(WMEM, "4096 16384 262144")], Costs, "4194304"),
        Case::new("net.ipv4.tcp_wmem", &[garbled(WMEM)], NotKnown, "not understood"),
        Case::new("net.ipv4.tcp_notsent_lowat", &[file(LOWAT, "1")], Fine, "the relay sets 131072"),
        Case::new(
            "net.ipv4.tcp_notsent_lowat",
            &[file(WMEM, "4096 16384 131072")],
            Costs,
            "it has no effect",
        ),
        Case::new("net.ipv4.tcp_notsent_lowat", &[garbled(LOWAT)], NotKnown, "not understood"),
        Case::new("net.ipv4.tcp_slow_start_after_idle", &[file(IDLE, "1")], Costs, "=\"0\""),
        Case::new(
            "net.ipv4.tcp_slow_start_after_idle",
            &[file(IDLE, "1"), file(CONTROL, "bbr")],
            Fine,
            "bbr does not look at",
        ),
        Case::new("net.ipv4.tcp_slow_start_after_idle", &[garbled(IDLE)], NotKnown, "understood"),
        Case::new(
            "congestion control",
            &[file(CONTROL, "bbr")],
            Fine,
            "bbr, default_qdisc fq; inter",
        ),
        Case::new(
            "congestion control",
            &[file(CONTROL, "bbr"), file(QDISC, "pfifo_fast")],
            Costs,
            "default_qdisc=\"fq\"",
        ),
        Case::new(
            "congestion control",
            &[file(CONTROL, "bbr"), file(QDISC, "pfifo_fast")],
            Costs,
            "tc qdisc replace dev eth0 root mq",
        ),
        Case::new(
            "congestion control",
            &[
                file(CONTROL, "bbr"),
                file(QDISC, "pfifo_fast"),
                gone("sys/class/net/eth0/queues/tx-1"),
            ],
            Costs,
            "tc qdisc replace dev eth0 root fq",
        ),
        Case::new("congestion control", &[file(QDISC, "fq_codel")], Fine, "cubic"),
        Case::new("congestion control", &[file(CONTROL, "")], NotKnown, "not understood"),
        Case::new("congestion control", &[gone(QDISC)], NotKnown, "not there"),
        Case::new(
            "accept queues",
            &[file(NETSTAT, "TcpExt: ListenOverflows TCPMemoryPressures\nTcpExt: 3 1")],
            Note,
            "3 connections found one full, TCP short of memory 1 times",
        ),
        Case::new(
            "accept queues",
            &[file(NETSTAT, "TcpExt: A\nTcpExt: 3")],
            NotKnown,
            "understood",
        ),
        Case::new("accept queues", &[gone(NETSTAT)], NotKnown, "not there"),
    ];

    #[test]
    fn pages_are_as_long_as_the_kernel_says() {
        let mut bench = Bench::fine();
        bench.host.change(&file(MEM, "1 1400 2800"));
        assert_eq!(bench.finding("net.ipv4.tcp_mem").verdict, Costs);
        bench.facts.page_len = 65_536;
        assert_eq!(bench.finding("net.ipv4.tcp_mem").verdict, Fine);
    }
}
