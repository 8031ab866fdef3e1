//! The host as files: `/proc` and `/sys` under a root, which is `/` or a tree that a test made.
//!
//! Whatever stands in them is read with a bound and may be missing, refused or not understood;
//! then a check's verdict is "not known" and the file is named.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::parse_cpu_list;
use crate::limits::{HOST_ENTRIES_MAX, HOST_FILE_LEN_MAX};

/// What lies under a root. Paths are given without the leading slash.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

/// Why something about the host is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown {
    what: String,
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Missing,
    Refused,
    Garbled,
    Said,
}

impl Unknown {
    /// A file that says something else than its format allows.
    pub(super) fn garbled(path: &str) -> Self {
        Self { what: format!("/{path}"), reason: Reason::Garbled }
    }

    /// In words of the check.
    pub(super) fn because(what: impl Into<String>) -> Self {
        Self { what: what.into(), reason: Reason::Said }
    }

    pub(super) fn is_missing(&self) -> bool {
        self.reason == Reason::Missing
    }

    fn of(path: &str, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Reason::Missing,
            _ => Reason::Refused,
        };
        Self { what: format!("/{path}"), reason }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match self.reason {
            Reason::Missing => write!(out, "{what} is not there"),
            Reason::Refused => write!(out, "{what} cannot be read"),
            Reason::Garbled => write!(out, "{what} is not understood"),
            Reason::Said => out.write_str(what),
        }
    }
}

/// A missing file is `None`; one that is there and cannot be used stays unknown.
pub(super) fn if_there<T>(result: Result<T, Unknown>) -> Result<Option<T>, Unknown> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(unknown) if unknown.is_missing() => Ok(None),
        Err(unknown) => Err(unknown),
    }
}

impl Host {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The text of a file, trimmed; up to [`HOST_FILE_LEN_MAX`] bytes of it.
    pub(super) fn text(&self, path: &str) -> Result<String, Unknown> {
        let unknown = |error: io::Error| Unknown::of(path, &error);
        let file = File::open(self.root.join(path)).map_err(unknown)?;
        let mut bytes = Vec::new();
        file.take(HOST_FILE_LEN_MAX).read_to_end(&mut bytes).map_err(unknown)?;
        let text = String::from_utf8(bytes).map_err(|_| Unknown::garbled(path))?;
        Ok(text.trim().to_owned())
    }

    /// A file that is one name.
    pub(super) fn word(&self, path: &str) -> Result<String, Unknown> {
        let text = self.text(path)?;
        let is_word = !text.is_empty() && !text.contains(char::is_whitespace);
        if is_word { Ok(text) } else { Err(Unknown::garbled(path)) }
    }

    /// A file that is one number.
    pub(super) fn number<T: FromStr>(&self, path: &str) -> Result<T, Unknown> {
        self.text(path)?.parse().map_err(|_| Unknown::garbled(path))
    }

    /// A file that is `N` numbers with blanks between.
    pub(super) fn numbers<const N: usize>(&self, path: &str) -> Result<[u64; N], Unknown> {
        let text = self.text(path)?;
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        let numbers = numbers.map_err(|_| Unknown::garbled(path))?;
        numbers.try_into().map_err(|_| Unknown::garbled(path))
    }

    /// A sysctl's value by its name with dots.
    pub(super) fn sysctl<T: FromStr>(&self, key: &str) -> Result<T, Unknown> {
        self.number(&sysctl_path(key))
    }

    /// A sysctl whose value is `N` numbers.
    pub(super) fn sysctls<const N: usize>(&self, key: &str) -> Result<[u64; N], Unknown> {
        self.numbers(&sysctl_path(key))
    }

    /// A sysctl whose value is a name.
    pub(super) fn sysctl_word(&self, key: &str) -> Result<String, Unknown> {
        self.word(&sysctl_path(key))
    }

    /// A sysctl whose value is a text.
    pub(super) fn sysctl_text(&self, key: &str) -> Result<String, Unknown> {
        self.text(&sysctl_path(key))
    }

    /// A file such as `0-3,8`.
    pub(super) fn cpu_list(&self, path: &str) -> Result<Vec<usize>, Unknown> {
        parse_cpu_list(&self.text(path)?).map_err(|_| Unknown::garbled(path))
    }

    /// A file such as `00000000,000000ff`: a bit for each CPU, the lowest at the end.
    pub(super) fn cpu_mask(&self, path: &str) -> Result<Vec<usize>, Unknown> {
        parse_cpu_mask(&self.text(path)?).ok_or_else(|| Unknown::garbled(path))
    }

    /// The number behind `label` in a file of lines such as `MemTotal:   24684096 kB`.
    pub(super) fn labeled(&self, path: &str, label: &str) -> Result<u64, Unknown> {
        let text = self.text(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| Unknown::garbled(path))
    }

    /// The names in a folder, sorted, up to [`HOST_ENTRIES_MAX`] of them.
    pub(super) fn names(&self, path: &str) -> Result<BTreeSet<String>, Unknown> {
        let entries = fs::read_dir(self.root.join(path)).map_err(|e| Unknown::of(path, &e))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.take(HOST_ENTRIES_MAX).collect())
    }

    /// What a symbolic link says, where there is one.
    pub(super) fn link_target(&self, path: &str) -> Option<String> {
        fs::read_link(self.root.join(path)).ok()?.into_os_string().into_string().ok()
    }

    /// Whether there is such a file or folder.
    pub(super) fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

/// Where a sysctl lies. Its name may have dots of its own only in the names of interfaces, which
/// no check reads.
fn sysctl_path(key: &str) -> String {
    format!("proc/sys/{}", key.replace('.', "/"))
}

fn parse_cpu_mask(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for (group, word) in text.rsplit(',').enumerate() {
        let is_hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if word.is_empty() || word.len() > 8 || !is_hex {
            return None;
        }
        let bits = u32::from_str_radix(word, 16).ok()?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| group * 32 + bit));
    }
    Some(cpus)
}

/// CPUs as the kernel lists them: `0-3,8`.
pub(super) fn cpu_list_text(cpus: &[usize]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut text = String::new();
    for run in sorted.chunk_by(|a, b| a + 1 == *b) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let comma = if text.is_empty() { "" } else { "," };
        let range = if first == last { format!("{first}") } else { format!("{first}-{last}") };
        text = format!("{text}{comma}{range}");
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// Bytes for people: `1.5 GiB`, `512 KiB`.
pub(super) fn bytes_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeHost;
    use super::*;

    #[test]
    fn files_are_read_or_say_why_not() {
        let host = FakeHost::empty();
        host.file("proc/sys/net/core/somaxconn", "4096\n");
        host.file("triple", "1\t2  3\n");
        host.file("words", "MemTotal:  12 kB\nMem: x\n");
        let host = host.host();
        assert_eq!(host.sysctl::<u64>("net.core.somaxconn"), Ok(4096));
        assert_eq!(host.numbers::<3>("triple"), Ok([1, 2, 3]));
        assert_eq!(host.labeled("words", "MemTotal"), Ok(12));
        let says = |unknown: Unknown| unknown.to_string();
        assert_eq!(
            host.numbers::<2>("triple").map_err(says),
            Err("/triple is not understood".into())
        );
        assert_eq!(host.number::<u8>("none").map_err(says), Err("/none is not there".into()));
        assert_eq!(host.text("triple/x").map_err(says), Err("/triple/x is not there".into()));
        assert_eq!(host.text("proc").map_err(says), Err("/proc cannot be read".into()));
        assert_eq!(host.labeled("words", "Mem"), Err(Unknown::garbled("words")));
        assert_eq!(host.labeled("words", "Swap"), Err(Unknown::garbled("words")));
        assert_eq!(host.names("proc/sys/net").map(|names| names.len()), Ok(1));
        assert!(host.names("none").is_err_and(|unknown| unknown.is_missing()));
    }

    #[test]
    fn bytes_that_are_no_text_are_garbled_and_long_files_are_cut() {
        let host = FakeHost::empty();
        host.bytes("binary", &[0xff, 0xfe]);
        host.bytes("long", &vec![b'1'; HOST_FILE_LEN_MAX as usize + 1]);
        assert_eq!(host.host().text("binary"), Err(Unknown::garbled("binary")));
        assert_eq!(host.host().text("long").map(|text| text.len() as u64), Ok(HOST_FILE_LEN_MAX));
        assert_eq!(host.host().number::<u64>("long"), Err(Unknown::garbled("long")));
    }

    #[test]
    fn a_missing_file_may_be_fine() {
        let host = FakeHost::empty();
        host.file("garbled", "x");
        assert_eq!(if_there(host.host().number::<u8>("none")), Ok(None));
        assert!(if_there(host.host().number::<u8>("garbled")).is_err());
    }

    #[test]
    fn masks_are_bits_of_cpus() {
        let table: &[(&str, Option<&[usize]>)] = &[
            ("0", Some(&[])),
            ("3", Some(&[0, 1])),
            ("00000000,000000ff", Some(&[0, 1, 2, 3, 4, 5, 6, 7])),
            ("1,80000000", Some(&[31, 32])),
            ("", None),
            ("1,,1", None),
            ("+1", None),
            ("123456789", None),
            ("0x3", None),
        ];
        for (text, cpus) in table {
            assert_eq!(parse_cpu_mask(text).as_deref(), *cpus, "{text}");
        }
    }

    #[test]
    fn texts_for_people() {
        assert_eq!(cpu_list_text(&[8, 0, 2, 1]), "0-2,8");
        assert_eq!(cpu_list_text(&[]), "none");
        let bytes: Vec<String> = [512, 1024, 524_288, 1_610_612_736].map(bytes_text).into();
        assert_eq!(bytes, ["512 B", "1 KiB", "512 KiB", "1.5 GiB"]);
    }
}
