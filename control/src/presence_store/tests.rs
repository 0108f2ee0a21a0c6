//! What every store of presence does, told as scenarios that run on each of them.
//!
//! Owns: the scenarios, the model that they are played against by chance, and presence in memory as a store.

mod memory;
pub(crate) mod model;
pub(crate) mod scenarios;
pub(crate) mod seats;

use std::collections::HashMap;

use ringcast_proto::{NodeId, RoomId, SessionId, UserId};

use super::*;
use memory::PresenceMemory;

/// When everything happens.
pub(crate) const NOW: i64 = 1_700_000_000;

/// A test for each scenario, each on a store of its own. `$make` makes what holds the store, `$store` takes it.
macro_rules! on_a_store {
    ($make:expr, $store:expr; $($module:ident: $($scenario:ident)*;)*) => {
        $($(
            #[tokio::test]
            async fn $scenario() {
                let held = $make.await;
                $crate::presence_store::tests::$module::$scenario($store(&held)).await;
            }
        )*)*
    };
}

/// The scenarios, handed to a macro.
macro_rules! all_scenarios {
    ($then:ident!($($first:tt)*)) => {
        $then! { $($first)*;
            seats:
                seats_count_users_and_not_sessions
                who_finds_a_room_full_leaves_no_trace
                a_seat_comes_back_by_an_exit_and_by_an_end
                a_room_without_a_limit_is_never_full
                a_refused_room_takes_nothing_from_a_session_that_lives
                seats_are_told_without_being_taken;
            scenarios:
                a_user_on_two_nodes_leaves_with_the_last
                a_former_incarnation_and_an_earlier_link_change_nothing
                a_sync_takes_out_what_is_gone_and_adds_what_is_new
                a_sync_asks_for_no_seat_and_keeps_sessions_without_a_room
                a_sync_of_a_later_incarnation_takes_the_former_out
                a_removal_may_come_twice_and_spares_later_incarnations
                a_removal_spares_what_a_later_link_has_told
                pages_are_in_the_order_of_bytes
                the_newest_session_speaks_for_its_user
                texts_come_back_as_they_were
                what_is_said_twice_changes_nothing
                changes_of_one_session_are_carried_out_in_their_order
                nodes_are_told_as_they_were_written
                everything_is_counted;
        }
    };
}

#[cfg_attr(not(feature = "cluster"), allow(unused_imports))]
pub(crate) use {all_scenarios, on_a_store};

pub(crate) fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(crate) fn room(id: &str) -> RoomId {
    RoomId::new(id).unwrap()
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

pub(crate) fn at(id: &str, incarnation: u64, link: u64) -> NodeAt {
    NodeAt { id: node(id), incarnation, link }
}

pub(crate) fn arrival(session: u64, of: &str) -> Arrival {
    Arrival {
        session: SessionId::from_u64(session),
        user: user(of),
        user_name: format!("name of {of}"),
        metadata: HashMap::from([("key".into(), "value".into())]),
        connected_at: NOW,
    }
}

pub(crate) fn record(at: &NodeAt) -> NodeRecord {
    NodeRecord {
        card: NodeCard {
            id: at.id.clone(),
            incarnation: at.incarnation,
            grpc_address: format!("{}:50052", at.id),
            public_ws_url: format!("ws://{}/ws", at.id),
            capacity: 20_000,
            version: "0.1.0".into(),
            driver: "io_uring".into(),
        },
        link: at.link,
        controller: "c1".into(),
        whole: false,
        linked: true,
        draining: false,
        connections: 0,
        sessions: 0,
    }
}

pub(crate) fn enter(session: u64, of: &str, into: &str, max_users: u32) -> Change {
    Change::Enter { arrival: arrival(session, of), room: room(into), max_users: Some(max_users) }
}

pub(crate) fn exit(session: u64, of: &str, from: &str) -> Change {
    Change::Exit { session: SessionId::from_u64(session), user: user(of), room: room(from) }
}

pub(crate) fn end(session: u64, of: &str, rooms: &[&str]) -> Change {
    let rooms = rooms.iter().map(|id| room(id)).collect();
    Change::End { session: SessionId::from_u64(session), user: user(of), rooms }
}

/// A node in its first incarnation, known to the store, with nothing.
pub(crate) async fn begun(store: &dyn PresenceStore, id: &str) -> NodeAt {
    let at = at(id, 1, 1);
    assert_eq!(store.begin(&record(&at)).await, Ok(Verdict::Done));
    assert_eq!(store.sync(&at, Vec::new(), NOW).await, Ok(Verdict::Done));
    at
}

pub(crate) async fn apply(store: &dyn PresenceStore, at: &NodeAt, change: Change) -> Verdict {
    let verdicts = store.apply(at, &[change], NOW).await.unwrap();
    assert_eq!(verdicts.len(), 1);
    verdicts[0]
}

/// The ids of a room's users; the count says the same.
pub(crate) async fn users_in(store: &dyn PresenceStore, id: &str) -> Vec<String> {
    let (members, all) = store.members(&room(id), None, 1000).await.unwrap();
    assert_eq!(all as usize, members.len());
    assert_eq!(store.counts(&[room(id)]).await.unwrap(), [all]);
    members.into_iter().map(|member| member.user.to_string()).collect()
}

/// A user's sessions, newest first: node, session, rooms in order.
pub(crate) async fn sessions_of(store: &dyn PresenceStore, of: &str) -> Vec<(String, u64, Vec<String>)> {
    let told = |record: SessionRecord| {
        let mut rooms: Vec<String> = record.rooms.iter().map(RoomId::to_string).collect();
        rooms.sort();
        (record.node.to_string(), record.session.as_u64(), rooms)
    };
    store.sessions_of(&user(of)).await.unwrap().into_iter().map(told).collect()
}

mod in_memory {
    use super::*;

    all_scenarios!(on_a_store!(std::future::ready(PresenceMemory::default()), |store| store));

    #[tokio::test]
    async fn random_words_agree_with_a_naive_model() {
        for seed in 0..20 {
            model::play(&PresenceMemory::default(), seed, 300).await;
        }
    }
}
