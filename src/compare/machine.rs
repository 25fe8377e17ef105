//! The machine that a measurement was made on.

use serde::Serialize;

/// Properties of the machine that figures depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the processor; `None` if the kernel does not report it.
    pub cpu: Option<String>,
    /// Number of threads of this process that can run at once.
    pub cores: usize,
    /// Total memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Available memory in bytes at the time of the measurement: free, or used by caches that can be dropped.
    pub available_bytes: Option<u64>,
    /// Version of strata.
    pub strata: &'static str,
}

impl Machine {
    /// Describes this machine, now.
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

/// Returns the value of the first line `name : value`.
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
