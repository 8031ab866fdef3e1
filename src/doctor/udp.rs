//! UDP: how much a socket may ask to hold. Of RTP over TCP nothing is lost.

use super::finding::{Finding, Outcome, set_sysctl};
use super::host::bytes_text;
use super::{Check, Exam};
use crate::limits::{UDP_RECEIVE_BUFFER_LEN, UDP_SEND_BUFFER_LEN};

pub(super) const CHECKS: &[Check] =
    &[Check::once("net.core.rmem_max", rmem_max), Check::once("net.core.wmem_max", wmem_max)];

/// Four times what a track asks for, so that other programs find room too.
const BUFFER_ADVISED: u64 = 4 << 20;

fn rmem_max(exam: &Exam<'_>) -> Outcome {
    let why =
        "is cut to it: packets of publishers and pulls over UDP are lost while a shard is busy";
    buffer_max(exam, "net.core.rmem_max", UDP_RECEIVE_BUFFER_LEN, why)
}

fn wmem_max(exam: &Exam<'_>) -> Outcome {
    let why = "is cut to it: of a large keyframe to a player over UDP the end finds no room";
    buffer_max(exam, "net.core.wmem_max", UDP_SEND_BUFFER_LEN, why)
}

fn buffer_max(exam: &Exam<'_>, key: &str, asked: usize, why: &str) -> Outcome {
    let (most, asked): (u64, _) = (exam.host.sysctl(key)?, asked as u64);
    if most >= asked {
        return Ok(Finding::fine(most.to_string()));
    }
    let why = format!("the {} that a track of RTP over UDP asks for {why}", bytes_text(asked));
    Ok(Finding::costs(most.to_string(), why, set_sysctl(key, BUFFER_ADVISED)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Costs, Fine, NotKnown};
    use super::super::testing::{Case, file, garbled, gone};

    const RECEIVE: &str = "proc/sys/net/core/rmem_max";
    const SEND: &str = "proc/sys/net/core/wmem_max";

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("net.core.rmem_max", &[file(RECEIVE, "1048576")], Fine, "1048576"),
        Case::new("net.core.rmem_max", &[file(RECEIVE, "1048575")], Costs, "1 MiB that a track"),
        Case::new("net.core.rmem_max", &[file(RECEIVE, "212992")], Costs, "rmem_max=\"4194304\""),
        Case::new("net.core.rmem_max", &[gone(RECEIVE)], NotKnown, "not there"),
        Case::new("net.core.wmem_max", &[file(SEND, "524288")], Fine, "524288"),
        Case::new("net.core.wmem_max", &[file(SEND, "212992")], Costs, "wmem_max=\"4194304\""),
        Case::new("net.core.wmem_max", &[garbled(SEND)], NotKnown, "not understood"),
    ];
}
