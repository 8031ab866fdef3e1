//! What the relay is to do on this host: shards, CPUs, connections, and what those need.

use std::ops::RangeInclusive;

use crate::config::Config;
use crate::limits::{BUS_MESSAGES_PER_SHARD, RECEIVE_BUFFER_LEN, RECEIVE_BUFFERS};

/// What the checks compare the host with.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// CPUs of the shards, one each.
    pub(super) cpus: Vec<usize>,
    /// Shards asked for that have no CPU.
    pub(super) homeless_shards: usize,
    /// Players, publishers and pulls at a time.
    pub(super) connections: u64,
    pub(super) notsent_bytes_max: u64,
    pub(super) ports: Vec<(&'static str, u16)>,
    /// Of tracks over UDP, a pair each.
    pub(super) udp_ports: RangeInclusive<u16>,
    pub(super) steers_by_cpu: bool,
}

impl Plan {
    /// What `config` asks for on a host whose processes may use the CPUs `allowed`; `connections`
    /// are those that the config's limits let in, where the operator does not say.
    pub(super) fn new(config: &Config, allowed: &[usize], connections: Option<u64>) -> Self {
        let listed = config.server.cpus.cpus();
        let mut cpus = if listed.is_empty() { allowed.to_vec() } else { listed.to_vec() };
        let wanted = match usize::from(config.server.shards) {
            0 => cpus.len(),
            shards => shards,
        };
        let homeless_shards = wanted.saturating_sub(cpus.len());
        cpus.truncate(wanted);
        let per_shard = u64::from(config.limits.connections_per_shard_max);
        let pairs = config.rtsp.udp_ports.pairs();
        let ports = [
            ("http.listen", config.http.listen.port()),
            ("rtmp.listen", config.rtmp.listen.port()),
            ("rtsp.listen", config.rtsp.listen.port()),
        ];
        Self {
            connections: connections.unwrap_or(per_shard * wanted as u64),
            homeless_shards,
            notsent_bytes_max: config.egress.send_notsent_lowat_bytes.into(),
            ports: ports.into_iter().filter(|(_, port)| *port != 0).collect(),
            udp_ports: 2 * pairs.start()..=2 * pairs.end() + 1,
            steers_by_cpu: config.server.steer_by_cpu,
            cpus,
        }
    }

    pub(super) fn shards(&self) -> usize {
        self.cpus.len() + self.homeless_shards
    }

    /// One for each connection, and what tracks over UDP take. A shard has 12 of its own (rings,
    /// eventfds, listeners, a reserve), the process 18; both rounded up.
    pub(super) fn descriptors(&self) -> u64 {
        self.connections + self.udp_descriptors() + self.own_descriptors()
    }

    /// Two for each track over UDP: as many tracks as have ports, or two for each connection.
    fn udp_descriptors(&self) -> u64 {
        let tracks = self.udp_ports.len() as u64 / 2;
        2 * tracks.min(2 * self.connections)
    }

    /// What the relay opens before the first connection.
    pub(super) fn own_descriptors(&self) -> u64 {
        32 + 16 * self.shards() as u64
    }

    /// Bytes that sockets hold in the kernel when one player in ten does not read. A player that
    /// reads has in flight what 100 ms of 2.5 Mbit/s are, 31 KB; one that does not has the unsent
    /// bytes that it may have on top.
    pub(super) fn socket_bytes(&self) -> u64 {
        self.connections * (32 * 1024 + self.notsent_bytes_max / 10)
    }

    /// Bytes of memory without the streams' own: sockets' contents; 4.2 KB for a socket and about
    /// 2 KB for a connection of ours; receive buffers and bus queues of each shard; 16 MiB for the
    /// process.
    pub(super) fn memory_bytes(&self) -> u64 {
        let receive = u64::from(RECEIVE_BUFFERS) * u64::from(RECEIVE_BUFFER_LEN);
        let bus = BUS_MESSAGES_PER_SHARD as u64 * 112;
        self.socket_bytes()
            + self.connections * 6 * 1024
            + self.shards() as u64 * (receive + bus)
            + 16 * 1024 * 1024
    }

    /// The line of the config with which `need` stays within `have`: fewer connections, one a shard
    /// at the least.
    pub(super) fn fewer_connections(&self, have: u64, need: fn(&Self) -> u64) -> String {
        let shards = self.shards().max(1) as u64;
        let fits =
            |per_shard| need(&Self { connections: per_shard * shards, ..self.clone() }) <= have;
        let (mut least, mut too_many) = (1, self.connections.div_ceil(shards) + 1);
        while too_many - least > 1 {
            let middle = least.midpoint(too_many);
            if fits(middle) { least = middle } else { too_many = middle }
        }
        format!("limits.connections_per_shard_max = {least}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).expect("a config")
    }

    #[test]
    fn shards_take_the_cpus_that_are_listed_or_allowed() {
        let table: &[(&str, &[usize], usize)] = &[
            ("", &[0, 1, 2, 3], 0),
            ("[server]\nshards = 2", &[0, 1], 0),
            ("[server]\ncpus = \"6,2\"", &[6, 2], 0),
            ("[server]\ncpus = \"6,2\"\nshards = 1", &[6], 0),
            ("[server]\nshards = 6", &[0, 1, 2, 3], 2),
        ];
        for &(text, cpus, homeless) in table {
            let plan = Plan::new(&config(text), &[0, 1, 2, 3], None);
            assert_eq!((&*plan.cpus, plan.homeless_shards), (cpus, homeless), "{text}");
        }
    }

    #[test]
    fn needs_follow_from_the_connections() {
        let text = "[server]\nshards = 2\n[limits]\nconnections_per_shard_max = 100";
        let plan = Plan::new(&config(text), &[0, 1], None);
        // 400 tracks over UDP find ports, and have a socket of RTP and one of RTCP.
        assert_eq!((plan.connections, plan.descriptors()), (200, 200 + 2 * 400 + 64));
        let few_ports = format!("{text}\n[rtsp]\nudp_ports = \"40001-40007\"");
        let few_ports = Plan::new(&config(&few_ports), &[0, 1], Some(5));
        assert_eq!((few_ports.connections, few_ports.udp_ports.clone()), (5, 40_002..=40_007));
        assert_eq!(few_ports.descriptors(), 5 + 2 * 3 + 64);
        assert_eq!(plan.socket_bytes(), 200 * (32_768 + 13_107));
        assert!(plan.memory_bytes() > plan.socket_bytes() + ((2 * 9) << 20));
        // Of a connection 5 are needed, and 64 by the relay itself.
        let line = |have| plan.fewer_connections(have, Plan::descriptors);
        assert_eq!(line(64 + 2 * 5 * 70 + 9), "limits.connections_per_shard_max = 70");
        assert_eq!(line(1), "limits.connections_per_shard_max = 1");
        assert_eq!(line(u64::MAX), "limits.connections_per_shard_max = 100");
    }

    #[test]
    fn a_port_that_the_kernel_chooses_is_no_port_of_the_plan() {
        let text = "[http]\nlisten = \"[::]:0\"";
        let plan = Plan::new(&config(text), &[0], None);
        assert_eq!(plan.ports, [("rtmp.listen", 1935), ("rtsp.listen", 8554)]);
    }
}
