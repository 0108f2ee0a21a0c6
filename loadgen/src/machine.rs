//! Where a run took place.
//!
//! Owns: reading what `/proc` says of the machine. Must not: change it.

use std::fs::read_to_string;

use crate::result::Machine;

/// The machine, with the share of time that was stolen between two readings of [`cpu_times`].
pub(crate) fn machine(before: CpuTimes, after: CpuTimes) -> Machine {
    let text = |path: &str| read_to_string(path).unwrap_or_default().trim().to_owned();
    let info = text("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let memory = text("/proc/meminfo");
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let all = after.all.saturating_sub(before.all);
    Machine {
        kernel: text("/proc/sys/kernel/osrelease"),
        cpu: model.map_or_else(|| "unknown".into(), |(_, model)| model.trim().to_owned()),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        memory_bytes: total.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024,
        congestion_control: text("/proc/sys/net/ipv4/tcp_congestion_control"),
        steal_percent: if all == 0 {
            0.0
        } else {
            after.steal.saturating_sub(before.steal) as f64 * 100.0 / all as f64
        },
    }
}

/// Ticks of all cores since the start of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuTimes {
    all: u64,
    steal: u64,
}

/// The ticks now.
pub(crate) fn cpu_times() -> CpuTimes {
    let text = read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; what follows is contained in them.
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    CpuTimes { all: ticks.iter().sum(), steal: ticks.get(7).copied().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_told() {
        let here = machine(CpuTimes::default(), cpu_times());
        assert!(here.cores > 0 && here.memory_bytes > 1 << 20 && !here.kernel.is_empty());
        assert!((0.0..=100.0).contains(&here.steal_percent));
    }
}
