//! UDP: how much a socket may ask to hold. Of RTP over TCP nothing is lost.

use super::finding::{Finding, Outcome};
use super::{Check, Exam};

pub(super) const CHECKS: &[Check] =
    &[Check::once("net.core.rmem_max", rmem_max), Check::once("net.core.wmem_max", wmem_max)];

/// A keyframe of 500 KB comes in 420 packets of 1,200 bytes, and each is charged as 2,304.
const BUFFER_WANTED: u64 = 1 << 20;

fn rmem_max(exam: &Exam<'_>) -> Outcome {
    buffer_max(exam, "net.core.rmem_max", "received")
}

fn wmem_max(exam: &Exam<'_>) -> Outcome {
    buffer_max(exam, "net.core.wmem_max", "sent")
}

fn buffer_max(exam: &Exam<'_>, key: &str, way: &str) -> Outcome {
    let most: u64 = exam.host.sysctl(key)?;
    if most >= BUFFER_WANTED {
        return Ok(Finding::fine(most.to_string()));
    }
    let why = format!("too little for a large keyframe {way} in one burst of RTP over UDP");
    Ok(Finding::note(most.to_string(), why))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict::{Fine, NotKnown, Note};
    use super::super::testing::{Case, file, garbled, gone};

    const RECEIVE: &str = "proc/sys/net/core/rmem_max";
    const SEND: &str = "proc/sys/net/core/wmem_max";

    pub(in super::super) const CASES: &[Case] = &[
        Case::new("net.core.rmem_max", &[file(RECEIVE, "1048576")], Fine, "1048576"),
        Case::new("net.core.rmem_max", &[file(RECEIVE, "212992")], Note, "keyframe received"),
        Case::new("net.core.rmem_max", &[gone(RECEIVE)], NotKnown, "not there"),
        Case::new("net.core.wmem_max", &[file(SEND, "212992")], Note, "keyframe sent"),
        Case::new("net.core.wmem_max", &[garbled(SEND)], NotKnown, "not understood"),
    ];
}
