//! Which ports the nodes of one process have.
//!
//! Owns: the numbers. Must not: check whether they are free.

/// The ports of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodePorts {
    pub(crate) http: u16,
    pub(crate) grpc: u16,
    pub(crate) metrics: u16,
}

/// The most nodes in one process; each has threads, rings and three ports of its own.
pub(crate) const MAX_NODES: u16 = 64;

/// The ports of node `n`, from 1. The first three gRPC ports step over those of the push manager (50053) and its
/// neighbour; the metrics ports of later nodes step over the push manager's (9094).
pub(crate) fn of_node(n: u16) -> NodePorts {
    let grpc = match n {
        1 => 50052,
        n => 50053 + n,
    };
    let metrics = match n {
        1..=3 => 9090 + n,
        n => 9091 + n,
    };
    NodePorts { http: 8079 + n, grpc, metrics }
}

/// A node's port where the file names that of the first: each further node takes the next one.
pub(crate) fn counted_from(first: Option<u16>, n: u16, otherwise: u16) -> u16 {
    match first {
        // 0 lets the kernel choose, for every node.
        Some(0) => 0,
        Some(first) => first.saturating_add(n - 1),
        None => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_nodes_have_the_ports_of_the_quick_start() {
        let ports = |n| (of_node(n).http, of_node(n).grpc, of_node(n).metrics);
        assert_eq!(ports(1), (8080, 50052, 9091));
        assert_eq!(ports(2), (8081, 50055, 9092));
        assert_eq!(ports(3), (8082, 50056, 9093));
        assert_eq!(ports(4), (8083, 50057, 9095));
        assert_eq!(ports(10), (8089, 50063, 9101));
    }

    #[test]
    fn no_port_is_used_twice() {
        let mut all = vec![50051, 9090, 50053, 9094];
        for n in 1..=MAX_NODES {
            let NodePorts { http, grpc, metrics } = of_node(n);
            all.extend([http, grpc, metrics]);
        }
        let many = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), many);
    }

    #[test]
    fn a_file_names_the_first_nodes_port() {
        assert_eq!(counted_from(Some(20000), 3, 8082), 20002);
        assert_eq!(counted_from(Some(0), 3, 8082), 0);
        assert_eq!(counted_from(None, 3, 8082), 8082);
    }
}
