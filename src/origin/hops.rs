//! The nodes that a request has come through, so that nodes which pull from each other don't do so for
//! ever: `rillcast_hops=a~1,b~2` in the query of a URL, in every protocol alike.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use percent_encoding::percent_decode_str;

use super::url;
use crate::limits::HOPS_LEN_MAX;

/// The parameter that has them.
pub const HOPS_PARAM: &str = "rillcast_hops";

/// A player's query, as who would pull for it understands it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asking {
    /// It is not pulled for: it comes in a loop, through too many nodes, or from an edge of ZLMediaKit,
    /// which asks for what is here alone.
    pub is_passive: bool,
    /// Who asks, for whose share of the pending pulls it counts.
    pub asked_by: Option<IpAddr>,
    /// When that one began to wait.
    pub since: Option<Instant>,
    /// Without the hops, and nothing in it that can't be in a URL.
    params: Arc<str>,
    hops: Arc<str>,
}

impl Asking {
    /// That of somebody who waits since then.
    pub fn by(self, address: IpAddr, since: Instant) -> Self {
        Self { asked_by: Some(address), since: Some(since), ..self }
    }

    pub(super) fn params(&self) -> &str {
        &self.params
    }

    /// It names nodes that it says to have come through.
    pub(super) fn has_hops(&self) -> bool {
        !self.hops.is_empty()
    }

    /// The parameter for who is asked next.
    pub(super) fn hops_with(&self, node: &str) -> String {
        match &*self.hops {
            "" => format!("{HOPS_PARAM}={node}"),
            hops => format!("{HOPS_PARAM}={hops},{node}"),
        }
    }
}

/// A node among others.
pub(super) fn name(id: &str, token: u32) -> String {
    format!("{}~{token:08x}", url::encode(id))
}

pub(super) fn asking(params: &str, node: &str, hops_max: usize) -> Asking {
    if params.is_empty() {
        return Asking::default();
    }
    let mut others = Vec::new();
    let mut hops = Vec::new();
    let mut hops_len = 0;
    for param in params.split('&').filter(|param| !param.is_empty()) {
        match param.strip_prefix(HOPS_PARAM).and_then(|rest| rest.strip_prefix('=')) {
            Some(list) => {
                hops_len += list.len();
                hops.extend(list.split(',').filter(|hop| !hop.is_empty()));
            }
            None => others.push(param),
        }
    }
    let name_of = |hop: &str| percent_decode_str(hop).decode_utf8_lossy().into_owned();
    let own = name_of(node);
    let is_passive = hops.len() >= hops_max
        || hops_len > HOPS_LEN_MAX
        || hops.iter().any(|hop| name_of(hop) == own)
        || params.split('&').next() == Some(ZLM_EDGE);
    let again: Vec<String> = hops.iter().map(|hop| url::encode(&name_of(hop))).collect();
    Asking {
        is_passive,
        asked_by: None,
        since: None,
        params: url::query(&others.join("&")).into(),
        hops: again.join(",").into(),
    }
}

/// What the query of ZLMediaKit's edges begins with.
const ZLM_EDGE: &str = "edge=1";

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "me%2C~00000001";

    fn is_passive(params: &str) -> bool {
        asking(params, NODE, 3).is_passive
    }

    #[test]
    fn a_request_that_came_through_here_is_passive() {
        for (params, expected) in [
            ("", false),
            ("a=1", false),
            ("rillcast_hops=other~1", false),
            ("rillcast_hops=me%2C~00000001", true),
            ("a=1&rillcast_hops=x~1,me%2c%7E00000001", true),
            ("rillcast_hops=me~00000001", false),
            ("rillcast_hops=a~1,b~2", false),
            ("rillcast_hops=a~1,b~2,c~3", true),
            ("rillcast_hops=a~1&rillcast_hops=b~2&rillcast_hops=c~3", true),
            ("edge=1&vhost=v&", true),
            ("a=1&edge=1", false),
        ] {
            assert_eq!(is_passive(params), expected, "{params}");
        }
        assert!(is_passive(&format!("rillcast_hops={}", "x".repeat(HOPS_LEN_MAX + 1))));
    }

    #[test]
    fn hops_are_told_on_with_our_own_and_the_rest_is_kept_apart() {
        let asked = asking("t=1&rillcast_hops=a~1,b%20&u=", NODE, 3);
        assert_eq!(asked.params(), "t=1&u=");
        assert_eq!(asked.hops_with(NODE), format!("rillcast_hops=a~1,b%20,{NODE}"));
        assert_eq!(Asking::default().hops_with("n"), "rillcast_hops=n");
    }

    #[test]
    fn nothing_in_a_query_leaves_it() {
        let asked = asking("a=\r\n#x é\"<>\u{7f}&rillcast_hops=a&b\r\n", NODE, 3);
        assert_eq!(asked.params(), "a=%0D%0A%23x%20%C3%A9%22%3C%3E%7F&b%0D%0A");
        let asked = asking("rillcast_hops=a\r\n", NODE, 3);
        assert_eq!(asked.hops_with("n"), "rillcast_hops=a%0D%0A,n");
    }
}
