//! Ports: those that pulls connect from, those that we listen on, and what the kernel remembers of
//! connections.

use super::finding::{Finding, Outcome, set_sysctl};
use super::host::{Unknown, if_there};
use super::{Check, Exam};

pub(super) const CHECKS: &[Check] = &[
    Check::once("net.ipv4.ip_local_port_range", port_range),
    Check::once("listening ports", listening_ports),
    Check::once("privileged ports", privileged_ports),
    Check::once("net.ipv4.tcp_tw_reuse", tw_reuse),
    Check::once("conntrack", conntrack),
];

/// Ports to connect from: the kernel's default range has 28,232.
const PORTS_WANTED: u64 = 28_000;

fn port_range(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "net.ipv4.ip_local_port_range";
    let [first, last] = exam.host.sysctls(KEY)?;
    let count = last.saturating_add(1).saturating_sub(first);
    let found = format!("{first} to {last}, {count} ports");
    if count >= PORTS_WANTED {
        return Ok(Finding::fine(found));
    }
    let why = "pulls of one origin address take a port each, and for a minute after their end";
    Ok(Finding::costs(found, why, set_sysctl(KEY, "10240 65535")))
}

fn listening_ports(exam: &Exam<'_>) -> Outcome {
    const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
    let [first, last] = exam.host.sysctls("net.ipv4.ip_local_port_range")?;
    let reserved = exam.host.sysctl_text(RESERVED)?;
    let ranges = parse_ranges(&reserved)
        .ok_or_else(|| Unknown::garbled("proc/sys/net/ipv4/ip_local_reserved_ports"))?;
    let is_reserved = |port: u64| ranges.iter().any(|(from, to)| (*from..=*to).contains(&port));
    let is_open = |port: u64| (first..=last).contains(&port) && !is_reserved(port);
    let ports = exam.plan.ports.iter().filter(|(_, port)| is_open((*port).into()));
    let mut open: Vec<(&str, String)> = ports.map(|(key, port)| (*key, port.to_string())).collect();
    if exam.plan.udp_ports.clone().any(|port| is_open(port.into())) {
        let (first, last) = (exam.plan.udp_ports.start(), exam.plan.udp_ports.end());
        open.push(("rtsp.udp_ports", format!("{first}-{last}")));
    }
    if open.is_empty() {
        return Ok(Finding::fine("not among those that outgoing sockets take"));
    }
    let name = |(key, ports): &(&str, String)| format!("{key} {ports}");
    let found = open.iter().map(name).collect::<Vec<_>>().join(", ");
    let mut value: Vec<String> = open.into_iter().map(|(_, ports)| ports).collect();
    if !reserved.is_empty() {
        value.insert(0, reserved);
    }
    let why = "an outgoing socket may have the port: a listener's address is then taken at the \
               start, and a track over UDP has a pair less to choose from";
    Ok(Finding::costs(found, why, set_sysctl(RESERVED, value.join(","))))
}

fn privileged_ports(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "net.ipv4.ip_unprivileged_port_start";
    let first: u16 = exam.host.sysctl(KEY)?;
    let path = format!("proc/{}/status", exam.process);
    let status = exam.host.text(&path)?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let may_bind = mask.ok_or_else(|| Unknown::garbled(&path))? & CAP_NET_BIND_SERVICE != 0;
    let low = exam.plan.ports.iter().filter(|(_, port)| *port < first);
    let low: Vec<String> = low.map(|(key, port)| format!("{key} {port}")).collect();
    if low.is_empty() {
        return Ok(Finding::fine(format!("none below {first}")));
    }
    if may_bind {
        return Ok(Finding::fine(format!("{}, allowed", low.join(", "))));
    }
    let lowest = exam.plan.ports.iter().map(|(_, port)| *port).min().unwrap_or(first);
    let remedy = format!(
        "AmbientCapabilities=CAP_NET_BIND_SERVICE   # systemd: and the same in \
         CapabilityBoundingSet=\n{}",
        set_sysctl(KEY, lowest)
    );
    let why = "the process may not listen there: it does not start";
    Ok(Finding::blocks(low.join(", "), why, remedy))
}

/// capabilities(7).
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

/// `8080,9148-9150`.
fn parse_ranges(text: &str) -> Option<Vec<(u64, u64)>> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    items.map(range).collect()
}

fn tw_reuse(exam: &Exam<'_>) -> Outcome {
    const KEY: &str = "net.ipv4.tcp_tw_reuse";
    let value: u8 = exam.host.sysctl(KEY)?;
    let [first, last] = exam.host.sysctls("net.ipv4.ip_local_port_range")?;
    if value == 1 {
        return Ok(Finding::fine("1"));
    }
    let each_second = last.saturating_add(1).saturating_sub(first) / 60;
    let why = format!(
        "a port is kept for a minute after a pull that we ended: {each_second} new connections a \
         second to one origin, no more; 1 uses it again after a second"
    );
    Ok(Finding::costs(value.to_string(), why, set_sysctl(KEY, 1)))
}

fn conntrack(exam: &Exam<'_>) -> Outcome {
    const MAX: &str = "net.netfilter.nf_conntrack_max";
    let Some(count) = if_there(exam.host.sysctl::<u64>("net.netfilter.nf_conntrack_count"))? else {
        return Ok(Finding::fine("not loaded"));
    };
    let most: u64 = exam.host.sysctl(MAX)?;
    if count == 0 {
        return Ok(Finding::fine("tracks nothing"));
    }
    let found = format!("{count} of {most} connections tracked");
    let ports: Vec<String> = exam.plan.ports.iter().map(|(_, port)| port.to_string()).collect();
    let ports = ports.join(", ");
    let mut remedy = format!(
        "nft add table inet rillcast\n\
         nft 'add chain inet rillcast in {{ type filter hook prerouting priority raw; }}'\n\
         nft 'add chain inet rillcast out {{ type filter hook output priority raw; }}'\n\
         nft add rule inet rillcast in tcp dport {{ {ports} }} notrack\n\
         nft add rule inet rillcast out tcp sport {{ {ports} }} notrack\n\
         # only where no rule needs their state (ct state, NAT); undo: nft delete table inet rillcast"
    );
    // As many again are in TIME_WAIT, which conntrack remembers for two minutes.
    let needed = exam.plan.connections * 2;
    if most < needed {
        let why = format!("when it is full, new connections are dropped; {needed} needed");
        remedy = format!("{}\n{remedy}", set_sysctl(MAX, needed.next_power_of_two()));
        return Ok(Finding::costs(found, why, remedy));
    }
    Ok(Finding::costs(found, "every packet of every player is looked up in its table", remedy))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Blocks, Costs, Fine, NotKnown};
    use super::super::testing::{Case, Change, file, garbled, gone};

    const RANGE: &str = "proc/sys/net/ipv4/ip_local_port_range";
    const RESERVED: &str = "proc/sys/net/ipv4/ip_local_reserved_ports";
    const REUSE: &str = "proc/sys/net/ipv4/tcp_tw_reuse";
    const TRACKED: &str = "proc/sys/net/netfilter/nf_conntrack_count";
    const TRACKED_MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";
    const STATUS: &str = "proc/self/status";
    const FIRST: &str = "proc/sys/net/ipv4/ip_unprivileged_port_start";
    const MAY_BIND: &str = "CapEff:\t0000000000000400\n";
    const LOW_PORTS: Change = file(RANGE, "1024\t65535");

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("net.ipv4.ip_local_port_range", &[file(RANGE, "32768 60999")], Fine, "28232"),
        Case::new("net.ipv4.ip_local_port_range", &[file(RANGE, "50000 60999")], Costs, "10240"),
        Case::new("net.ipv4.ip_local_port_range", &[file(RANGE, "50000")], NotKnown, "understood"),
        Case::new("net.ipv4.ip_local_port_range", &[file(RANGE, "9 1")], Costs, "0 ports"),
        Case::new(
            "listening ports",
            &[LOW_PORTS, file(RESERVED, "5000,8000-9000")],
            Costs,
            "reserved_ports=\"5000,8000-9000,1935,30000-34999\"",
        ),
        Case::new("listening ports", &[LOW_PORTS], Costs, "=\"30000-34999,8080,1935,8554\""),
        Case::new("listening ports", &[file(RESERVED, "")], Costs, "rtsp.udp_ports 30000-34999"),
        Case::new("listening ports", &[file(RESERVED, "30000-34998")], Costs, "rtsp.udp_ports"),
        Case::new(
            "listening ports",
            &[file(RANGE, "35000 65535"), file(RESERVED, "")],
            Fine,
            "not among those",
        ),
        Case::new(
            "listening ports",
            &[LOW_PORTS, file(RESERVED, "1935,8080-8554,30000-34999")],
            Fine,
            "not among those",
        ),
        Case::new("listening ports", &[file(RESERVED, "1-x")], NotKnown, "not understood"),
        Case::new("privileged ports", &[], Fine, "none below 1024"),
        Case::new("privileged ports", &[], Blocks, "AmbientCapabilities=CAP_NET_BIND_SERVICE")
            .planned(|plan| plan.ports[2].1 = 554),
        Case::new("privileged ports", &[], Blocks, "port_start=\"80\"")
            .planned(|plan| plan.ports[0].1 = 80),
        Case::new("privileged ports", &[file(STATUS, MAY_BIND)], Fine, "rtsp.listen 554, allowed")
            .planned(|plan| plan.ports[2].1 = 554),
        Case::new("privileged ports", &[file(FIRST, "80")], Fine, "none below 80")
            .planned(|plan| plan.ports[2].1 = 554),
        Case::new("privileged ports", &[file(STATUS, "CapEff: x")], NotKnown, "not understood"),
        Case::new("net.ipv4.tcp_tw_reuse", &[file(REUSE, "2")], Costs, "921 new connections"),
        Case::new("net.ipv4.tcp_tw_reuse", &[file(REUSE, "0")], Costs, "tcp_tw_reuse=\"1\""),
        Case::new("net.ipv4.tcp_tw_reuse", &[garbled(REUSE)], NotKnown, "not understood"),
        Case::new("conntrack", &[gone(TRACKED)], Fine, "not loaded"),
        Case::new("conntrack", &[file(TRACKED, "0")], Fine, "tracks nothing"),
        Case::new("conntrack", &[file(TRACKED, "7")], Costs, "{ 8080, 1935, 8554 } notrack"),
        Case::new(
            "conntrack",
            &[file(TRACKED, "7"), file(TRACKED_MAX, "3999")],
            Costs,
            "nf_conntrack_max=\"4096\"",
        ),
        Case::new("conntrack", &[garbled(TRACKED)], NotKnown, "not understood"),
    ];
}
