//! Whether all shards of a node still turn, for a watchdog.
//!
//! Owns: what was seen of them last. Must not: wait for a shard. Talks to: `lane` (a shard is woken without a word),
//! `shard_stats` (its turns).

use std::sync::Arc;

use crate::bridge::ToShardLane;
use crate::http::NodeStatus;
use crate::shard_stats::ShardStats;

/// Looks after the shards of one node.
#[derive(Debug)]
pub struct Pulse {
    /// Each shard, with the turns that it had made when it was woken.
    shards: Vec<(Arc<ShardStats>, Arc<ToShardLane>, u64)>,
    status: Arc<NodeStatus>,
}

impl Pulse {
    /// Of these shards.
    pub(crate) fn new(
        shards: impl IntoIterator<Item = (Arc<ShardStats>, Arc<ToShardLane>)>,
        status: Arc<NodeStatus>,
    ) -> Self {
        let mut pulse =
            Self { shards: shards.into_iter().map(|(stats, lane)| (stats, lane, 0)).collect(), status };
        pulse.wake();
        pulse
    }

    /// Whether the node's id is its own: where services find one another, nobody else has it.
    pub fn has_its_id(&self) -> bool {
        !self.status.is_starting()
    }

    /// Whether every shard has turned since this was last asked. A shard without work sleeps, so each is woken for the
    /// next time.
    pub fn beats(&mut self) -> bool {
        let beats = self.shards.iter().all(|(stats, _, turns)| stats.read().driver.turns != *turns);
        if beats {
            self.wake();
        }
        beats
    }

    fn wake(&mut self) {
        for (stats, lane, turns) in &mut self.shards {
            *turns = stats.read().driver.turns;
            lane.event().signal();
        }
    }
}

#[cfg(test)]
mod tests {
    use ringcast_proto::ShardId;

    use super::*;
    use crate::bridge;
    use crate::shard_stats::ShardFigures;

    #[test]
    fn one_shard_that_does_not_turn_is_enough() {
        let (first, _first_end) = bridge::connect(ShardId(0)).unwrap();
        let (second, _second_end) = bridge::connect(ShardId(1)).unwrap();
        let turn = |stats: &ShardStats, turns| {
            let mut figures = ShardFigures::default();
            figures.driver.turns = turns;
            stats.publish(figures);
        };
        let parts = [&first, &second].map(|shard| (Arc::clone(&shard.stats), Arc::clone(&shard.to_shard)));
        let stats = vec![Arc::clone(&first.stats), Arc::clone(&second.stats)];
        let status = Arc::new(NodeStatus::new("node-1".to_owned(), 1, stats));
        let mut pulse = Pulse::new(parts, status);
        turn(&first.stats, 1);
        assert!(!pulse.beats(), "the second did not turn");
        turn(&second.stats, 1);
        assert!(pulse.beats());
        assert!(!pulse.beats(), "neither turned since");
        turn(&first.stats, 2);
        turn(&second.stats, 2);
        assert!(pulse.beats());
    }
}
