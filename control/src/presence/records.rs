//! Sessions as a store that controllers share is told of them.
//!
//! Owns: the form in which a session leaves this memory. Must not: know such a store.

use ringcast_proto::{RoomId, SessionId};

use super::index::{NodeKey, SessionKey};
use super::{Arrival, Presence};

impl Presence {
    /// A live session with its rooms.
    pub(crate) fn record(&self, node: NodeKey, id: SessionId) -> Option<(Arrival, Vec<RoomId>)> {
        self.record_at(node, self.find(node, id)?)
    }

    /// The places of a node's sessions; a place may be another session's later.
    pub(crate) fn places_of(&self, node: NodeKey) -> Vec<SessionKey> {
        let sessions = self.nodes.get(&node).into_iter().flat_map(|node| node.sessions.iter());
        sessions.map(|place| SessionKey(*place)).collect()
    }

    /// What is at a place, where it is a session of this node.
    pub(crate) fn record_at(&self, node: NodeKey, place: SessionKey) -> Option<(Arrival, Vec<RoomId>)> {
        let session = self.sessions.get(place.0).filter(|session| session.node == node)?;
        let arrival = Arrival {
            session: session.id,
            user: self.users.get(session.user.0)?.id.clone(),
            user_name: session.user_name().to_owned(),
            metadata: session.metadata(),
            connected_at: session.connected_at,
        };
        Some((arrival, self.rooms_in(session).cloned().collect()))
    }

    /// Whether an arrival has the id of another user's live session.
    pub(crate) fn conflicts(&self, node: NodeKey, arrival: &Arrival) -> bool {
        self.find(node, arrival.session).is_some_and(|key| !self.is_of(key, &arrival.user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::tests::{arrival, card};
    use crate::presence::{Now, Seat};

    #[test]
    fn a_session_is_told_as_it_came_with_the_rooms_that_it_is_in() {
        let mut presence = Presence::default();
        let (a, b) = (presence.register(card("a", 1), 1, 1), presence.register(card("b", 1), 1, 2));
        let room = |id: &str| RoomId::new(id).unwrap();
        let mut named = arrival(7, "u");
        named.user_name = "U".into();
        named.metadata.insert("k".into(), "v".into());
        assert_eq!(presence.join(a, named.clone(), &room("r"), 0, Now::default()), Seat::Taken);
        presence.add_room(a.node, named.session, &room("s"), Now::default());
        let whole = Some((named.clone(), vec![room("r"), room("s")]));
        assert_eq!(presence.record(a.node, named.session), whole);
        let places = presence.places_of(a.node);
        assert_eq!(places.len(), 1);
        assert_eq!(presence.record_at(a.node, places[0]), whole);
        assert_eq!(presence.record_at(b.node, places[0]), None, "it is another node's");
        assert!(
            presence.conflicts(a.node, &arrival(7, "v")) && !presence.conflicts(a.node, &arrival(7, "u"))
        );
        presence.end(a, named.session);
        assert_eq!(presence.record_at(a.node, places[0]), None);
    }
}
