//! How many descriptors the services hold open, before the clients came and after they have left.
//!
//! Owns: both counts. Must not: wait. Talks to: /proc.

use std::collections::BTreeMap;

use super::Cluster;
use crate::procfs;

/// By how many one thread's table may have grown: connections to stores and to other services that came on demand.
/// A fault takes hundreds of clients and more; were their sockets kept, this would be passed many times over.
const ON_DEMAND: usize = 24;

/// A count.
pub(super) struct Descriptors(BTreeMap<u32, BTreeMap<String, usize>>);

impl Descriptors {
    /// Counts those of all that run, by process and thread: threads may have tables of their own.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let services = cluster.controllers.iter().chain(&cluster.managers).chain(&cluster.nodes);
        let pids = services.map(|service| service.process.pid());
        // One that has just been ended counts nothing.
        let count = |pid| (pid, procfs::descriptors_by_thread(pid).unwrap_or_default().into_iter().collect());
        Self(pids.map(count).collect())
    }

    /// Whose table has grown since, in words; those who were started since have nothing to be compared with.
    pub(super) fn grown(&self, now: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        for (pid, threads) in &now.0 {
            let Some(before) = self.0.get(pid) else { continue };
            for (thread, count) in threads {
                if let Some(was) = before.get(thread).filter(|was| *count > *was + ON_DEMAND) {
                    grown.push(format!("{thread} of process {pid}: {was} descriptors, now {count}"));
                }
            }
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(pid: u32, threads: &[(&str, usize)]) -> Descriptors {
        let threads = threads.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Descriptors(BTreeMap::from([(pid, threads)]))
    }

    #[test]
    fn a_table_that_grew_is_told_and_a_new_process_is_not() {
        let before = counted(7, &[("main 7", 20), ("shard-0 8", 30)]);
        assert_eq!(before.grown(&counted(7, &[("main 7", 44), ("shard-0 8", 30), ("new 9", 99)])), [""; 0]);
        assert_eq!(before.grown(&counted(7, &[("main 7", 20), ("shard-0 8", 55)])).len(), 1);
        assert!(before.grown(&counted(8, &[("main 7", 99)])).is_empty());
    }
}
