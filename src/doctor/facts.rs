//! What no file of the host tells: what this kernel lets this process do.

use nix::unistd::{SysconfVar, sysconf};

use crate::ring::{EgressRing, MediaRing, RingSizes};
use crate::rt::probe_io_uring;

/// Found out by trying.
#[derive(Debug, Clone)]
pub(super) struct HostFacts {
    pub(super) rings: Rings,
    /// Bytes of a page; `tcp_mem` counts in it.
    pub(super) page_len: u64,
}

/// Whether a shard's rings can be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rings {
    Work {
        /// Several slices go out in a plain send (Linux 6.17).
        sends_vectors: bool,
    },
    /// In one line, with the likely cause.
    Fail(String),
}

impl HostFacts {
    /// Sets up the rings of a shard and drops them.
    pub(super) fn find_out() -> Self {
        let page_len = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let page_len = page_len.and_then(|len| u64::try_from(len).ok()).unwrap_or(4096);
        Self { rings: Rings::try_out(), page_len }
    }
}

impl Rings {
    fn try_out() -> Self {
        if let Err(error) = probe_io_uring() {
            return Self::Fail(error.to_string());
        }
        let rings = MediaRing::new(RingSizes::default()).and_then(|_media| EgressRing::new());
        match rings {
            Ok(egress) => Self::Work { sends_vectors: egress.sends_vectors() },
            Err(error) => Self::Fail(format!("a shard's rings cannot be set up: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_rings_and_pages() {
        let facts = HostFacts::find_out();
        assert!(matches!(facts.rings, Rings::Work { .. }), "{:?}", facts.rings);
        assert!(facts.page_len.is_power_of_two() && facts.page_len >= 4096);
    }
}
