//! CPU lists as the kernel writes them: `0-3,8` (cpuset(7), "List format", without strides).

use serde::{Deserialize, Serialize};

/// A list of CPUs in the order given; empty means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuList {
    text: String,
    cpus: Vec<usize>,
}

/// Why a text is no CPU list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    #[error("a CPU list is numbers and ranges, such as 0-3,8")]
    Malformed,
    #[error("a CPU range begins with its lower number")]
    Backward,
    #[error("a CPU number is above {CPU_MAX}")]
    TooLarge,
    #[error("a CPU is listed twice")]
    Twice,
}

impl CpuList {
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }
}

impl TryFrom<String> for CpuList {
    type Error = CpuListError;

    fn try_from(text: String) -> Result<Self, CpuListError> {
        let cpus = parse_cpu_list(&text)?;
        Ok(Self { text, cpus })
    }
}

impl From<CpuList> for String {
    fn from(list: CpuList) -> Self {
        list.text
    }
}

/// The CPUs of a list; none for an empty text.
///
/// # Errors
/// [`CpuListError`] where the text is no list or lists a CPU twice.
pub fn parse_cpu_list(text: &str) -> Result<Vec<usize>, CpuListError> {
    let mut cpus = Vec::new();
    if text.trim().is_empty() {
        return Ok(cpus);
    }
    for item in text.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (parse_cpu(first)?, parse_cpu(last)?);
        if first > last {
            return Err(CpuListError::Backward);
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return Err(CpuListError::Twice);
            }
            cpus.push(cpu);
        }
    }
    Ok(cpus)
}

fn parse_cpu(text: &str) -> Result<usize, CpuListError> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CpuListError::Malformed);
    }
    let cpu = text.parse().map_err(|_| CpuListError::TooLarge)?;
    if cpu > CPU_MAX { Err(CpuListError::TooLarge) } else { Ok(cpu) }
}

/// The last CPU of a `cpu_set_t` (`CPU_SETSIZE` is 1024).
const CPU_MAX: usize = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed() {
        let table: &[(&str, &[usize])] = &[
            ("", &[]),
            (" ", &[]),
            ("5", &[5]),
            ("0-3,8", &[0, 1, 2, 3, 8]),
            ("8, 2 - 3", &[8, 2, 3]),
            ("1023", &[1023]),
        ];
        for &(text, cpus) in table {
            assert_eq!(parse_cpu_list(text).as_deref(), Ok(cpus), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let table = [
            ("a", CpuListError::Malformed),
            ("1,", CpuListError::Malformed),
            ("-1", CpuListError::Malformed),
            ("+1", CpuListError::Malformed),
            ("1-2-3", CpuListError::Malformed),
            ("3-1", CpuListError::Backward),
            ("1024", CpuListError::TooLarge),
            ("0-99999999999999999999", CpuListError::TooLarge),
            ("1,0-2", CpuListError::Twice),
        ];
        for (text, error) in table {
            assert_eq!(parse_cpu_list(text), Err(error), "{text}");
        }
    }
}
