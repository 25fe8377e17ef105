//! What a measurement was made on.

use serde::Serialize;

/// What figures depend on besides the strategies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name, where the kernel tells.
    pub cpu: Option<String>,
    /// How many threads of this process can run at once.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory in bytes that was free, or could be freed, when this was asked.
    pub available_bytes: Option<u64>,
    /// The version of strata.
    pub strata: &'static str,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpu: field(&cpus, "model name").map(str::to_owned),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field(&memory, "MemTotal").and_then(kib),
            available_bytes: field(&memory, "MemAvailable").and_then(kib),
            strata: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// The value of the first line `name : value`.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name).map(|(_, v)| v.trim())
}

pub(super) fn kib(value: &str) -> Option<u64> {
    value.strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "processor\t: 0\nmodel name\t: A: B\n\nMemTotal:       16 kB\n";
        assert_eq!(field(text, "model name"), Some("A: B"));
        assert_eq!(field(text, "MemTotal").and_then(kib), Some(16 * 1024));
        assert_eq!(field(text, "Mem"), None);
        assert_eq!(kib("16 MB"), None);
    }

    #[test]
    fn here() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > machine.available_bytes, "{machine:?}");
    }
}
