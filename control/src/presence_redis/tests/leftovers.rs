//! What a crash half-way, or a word that comes late, may leave behind.

use super::*;

/// Puts a session in a room as if its node's words had been carried out in part: the node does not name it.
fn leave_behind(on: &OnServer, at: &NodeAt, session: u64, of: &str, turn: &str) {
    let text = concat!(include_str!("../standing.lua"), include_str!("../room.lua"));
    let name = keys::session(at.incarnation, SessionId::from_u64(session));
    let (users, order) = (keys::users(&room("r")), keys::order(&room("r")));
    let enter = ["enter", of, &name, turn, "", "1", "", "{}"];
    let command = ["eval", text, "2", &users, &order, at.id.as_str(), "", "", "1"];
    on.server.command(&[&command[..], &enter[..]].concat());
}

#[tokio::test]
async fn a_full_room_lets_go_of_what_is_dead() {
    let on = OnServer::start().await;
    let second = at("a", 2, 5);
    on.store.begin(&record(&second)).await.unwrap();
    on.store.sync(&second, Vec::new(), NOW).await.unwrap();
    let live = begun(&on.store, "b").await;
    apply(&on.store, &live, enter(1, "live", "r", 0)).await;
    leave_behind(&on, &at("gone", 1, 1), 1, "of a node that nobody knows", keys::LAST_TURN);
    leave_behind(&on, &at("a", 1, 1), 1, "of a former incarnation", keys::LAST_TURN);
    leave_behind(&on, &second, 1, "of an earlier link", &keys::turn(4, 0));
    assert_eq!(users_in(&on.store, "r").await.len(), 4);
    let words = [enter(2, "new", "r", 2), enter(3, "more", "r", 2)];
    assert_eq!(on.store.apply(&live, &words, NOW).await.unwrap(), [Verdict::Done, Verdict::Full]);
    assert_eq!(users_in(&on.store, "r").await, ["live", "new"]);
    assert!(sessions_of(&on.store, "more").await.is_empty());
    assert_eq!(on.store.totals().await.unwrap(), Totals { users: 2, sessions: 2 });
}

#[tokio::test]
async fn a_question_for_seats_lets_go_of_what_is_dead() {
    let on = OnServer::start().await;
    leave_behind(&on, &at("gone", 1, 1), 1, "dead", keys::LAST_TURN);
    assert_eq!(on.store.have_seats(&[(room("r"), user("u"), 1)]).await.unwrap(), [true]);
    assert!(users_in(&on.store, "r").await.is_empty());
}

#[tokio::test]
async fn a_look_at_a_full_room_that_runs_out_of_time_goes_on_where_it_ended() {
    let on = OnServer::start().await;
    let live = begun(&on.store, "b").await;
    let words: Vec<Change> =
        (0..1_200).map(|number| enter(number, &format!("u{number:04}"), "r", 0)).collect();
    for words in words.chunks(400) {
        on.store.apply(&live, words, NOW).await.unwrap();
    }
    leave_behind(&on, &at("gone", 1, 1), 1, "v comes last", keys::LAST_TURN);
    let (no_time, mut looks, mut from) = (tokio::time::Instant::now(), Vec::new(), Some(String::new()));
    while let Some(after) = from {
        let until = on.store.redis.deadline();
        let (found, ended_at) = on.store.purge_room(&room("r"), after, no_time, until).await.unwrap();
        looks.push(found);
        from = ended_at;
    }
    assert_eq!(looks, [false, false, true], "a page at a time");
    assert_eq!(on.store.counts(&[room("r")]).await.unwrap(), [1_200], "those who live stay");
}

#[tokio::test]
async fn what_lives_is_not_let_go_of() {
    let on = OnServer::start().await;
    let first = begun(&on.store, "a").await;
    apply(&on.store, &first, enter(1, "u", "r", 2)).await;
    // Told over a second link, whose snapshot is not whole.
    let second = at("a", 1, 2);
    on.store.begin(&record(&second)).await.unwrap();
    apply(&on.store, &second, enter(2, "v", "r", 2)).await;
    assert_eq!(apply(&on.store, &second, enter(3, "w", "r", 2)).await, Verdict::Full);
    assert_eq!(users_in(&on.store, "r").await, ["u", "v"]);
}

#[tokio::test]
async fn a_part_that_the_store_lost_is_made_anew_by_a_sync() {
    let on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    apply(&on.store, &a, enter(1, "u", "r", 0)).await;
    on.server.command(&["del", "ringcast:{r:r}:users", "ringcast:{r:r}:order"]);
    on.store.sync(&a, vec![(arrival(1, "u"), vec![room("r")])], NOW).await.unwrap();
    assert_eq!(users_in(&on.store, "r").await, ["u"]);
    on.store.sync(&a, Vec::new(), NOW).await.unwrap();
    assert!(users_in(&on.store, "r").await.is_empty());
    assert_eq!(on.store.totals().await.unwrap(), Totals::default());
}
