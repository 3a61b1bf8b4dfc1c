//! The cores that this process may compute on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

/// Physical cores that this process may use. Two threads of one core share its arithmetic units, and are counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Those for performance: all, unless the CPU is a hybrid one.
    pub performance: usize,
    /// The slower ones of a hybrid CPU.
    pub efficiency: usize,
}

impl Cores {
    /// Asks the system. Which cores are slower is known on Linux.
    pub fn read() -> Self {
        let described = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
            let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Self::described(Path::new("/sys/devices"), &numbers(allowed)?)
        });
        described.unwrap_or_else(|| {
            let performance = sysinfo::System::physical_core_count().unwrap_or_else(available);
            Self { performance, efficiency: 0 }
        })
    }

    /// How many threads compute fastest: one for each core for performance, as far as a control group grants so much
    /// time. Slower cores would do a part of each matmul that the others then wait for.
    pub fn threads(&self) -> usize {
        let cores = if self.performance > 0 { self.performance } else { self.efficiency };
        cores.clamp(1, available().max(1))
    }

    /// Those of the CPUs `allowed`, as Linux describes them in the folder `devices`.
    fn described(devices: &Path, allowed: &BTreeSet<usize>) -> Option<Self> {
        let read = |path: &str| fs::read_to_string(devices.join(path)).ok();
        let property = |cpu: usize, name: &str| read(&format!("system/cpu/cpu{cpu}/{name}"));
        // CPUs that are threads of one core know each other, and the first of those allowed stands for it.
        let is_first = |&&cpu: &&usize| {
            let siblings = property(cpu, "topology/thread_siblings_list").and_then(|list| numbers(&list));
            siblings.is_none_or(|siblings| siblings.intersection(allowed).next() == Some(&cpu))
        };
        let capacity = |cpu: usize| property(cpu, "cpu_capacity")?.trim().parse::<u64>().ok();
        let capacity_max = allowed.iter().filter_map(|&cpu| capacity(cpu)).max().unwrap_or_default();
        // Hybrid CPUs of Intel have two units to count events, others a capacity for each CPU.
        let core = read("cpu_core/cpus").and_then(|list| numbers(&list));
        let is_fast = |cpu: usize| match &core {
            Some(core) => core.contains(&cpu),
            None => capacity(cpu).is_none_or(|capacity| 2 * capacity >= capacity_max),
        };
        property(*allowed.first()?, "topology/thread_siblings_list")?;
        let cores: Vec<usize> = allowed.iter().filter(is_first).copied().collect();
        let performance = cores.iter().filter(|&&cpu| is_fast(cpu)).count();
        Some(Self { performance, efficiency: cores.len() - performance })
    }
}

/// CPUs that this process may use at the same time.
fn available() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> Option<BTreeSet<usize>> {
    let mut numbers = BTreeSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let [first, last] = [first, last].map(|number| number.trim().parse::<usize>().ok());
        let (first, last) = (first?, last?);
        if last >= NUMBERS_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// More CPUs than any system numbers.
const NUMBERS_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the cores for performance and the others of CPUs with these siblings and, where there is one, capacity;
    /// `core` lists those of the faster unit.
    #[track_caller]
    fn check(
        cpus: &[(&str, Option<u64>)],
        core: Option<&str>,
        allowed: &str,
        expected: Option<(usize, usize)>,
    ) {
        let devices = tempfile::tempdir().unwrap();
        let write = |path: String, text: String| {
            let path = devices.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (cpu, (siblings, capacity)) in cpus.iter().enumerate() {
            let folder = format!("system/cpu/cpu{cpu}");
            write(format!("{folder}/topology/thread_siblings_list"), format!("{siblings}\n"));
            if let Some(capacity) = capacity {
                write(format!("{folder}/cpu_capacity"), format!("{capacity}\n"));
            }
        }
        if let Some(core) = core {
            write("cpu_core/cpus".into(), format!("{core}\n"));
        }
        let found = Cores::described(devices.path(), &numbers(allowed).unwrap());
        assert_eq!(found.map(|found| (found.performance, found.efficiency)), expected);
    }

    #[test]
    fn threads_of_a_core_count_once() {
        let cpus = [("0,2", None), ("1,3", None), ("0,2", None), ("1,3", None)];
        check(&cpus, None, "0-3", Some((2, 0)));
        check(&cpus, None, "2-3", Some((2, 0)));
        check(&cpus, None, "1,3", Some((1, 0)));
        check(&[("0-1", None), ("0-1", None)], None, "0-1", Some((1, 0)));
    }

    #[test]
    fn slower_cores_are_told_apart() {
        // Two fast cores of two threads each and four slow ones.
        let intel = ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"].map(|siblings| (siblings, None));
        check(&intel, Some("0-3"), "0-7", Some((2, 4)));
        check(&intel, Some("0-3"), "5-7", Some((0, 3)));
        // Four small, three large and one largest core.
        let capacities = [250, 250, 250, 250, 790, 790, 790, 1024];
        let names: Vec<String> = (0..8).map(|cpu| cpu.to_string()).collect();
        let arm: Vec<_> =
            names.iter().zip(capacities).map(|(name, capacity)| (&**name, Some(capacity))).collect();
        check(&arm, None, "0-7", Some((4, 4)));
        check(&arm, None, "0-3", Some((4, 0)));
        let equal: Vec<_> = names.iter().map(|name| (&**name, Some(1024))).collect();
        check(&equal, None, "0-7", Some((8, 0)));
    }

    #[test]
    fn what_is_not_described_is_unknown() {
        check(&[], None, "0-3", None);
        assert_eq!(numbers("0-1,x"), None);
        assert_eq!(numbers("0-99999999999"), None);
        assert_eq!(numbers(" 0-2,7\n"), Some(BTreeSet::from([0, 1, 2, 7])));
    }

    #[test]
    fn threads_are_at_least_one() {
        for (performance, efficiency) in [(0, 0), (0, 1), (1, 0), (1, 7)] {
            assert_eq!(Cores { performance, efficiency }.threads(), 1);
        }
        assert!(Cores::read().threads() <= available());
    }
}
