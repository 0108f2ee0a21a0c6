//! Who gets a seat.

use super::*;

pub(crate) async fn seats_count_users_and_not_sessions(store: &dyn PresenceStore) {
    let (a, b) = (begun(store, "a").await, begun(store, "b").await);
    assert_eq!(apply(store, &a, enter(1, "u", "r", 2)).await, Verdict::Done);
    assert_eq!(apply(store, &a, enter(2, "u", "r", 2)).await, Verdict::Done, "another device");
    assert_eq!(apply(store, &b, enter(1, "u", "r", 2)).await, Verdict::Done, "on another node");
    assert_eq!(apply(store, &b, enter(2, "v", "r", 2)).await, Verdict::Done);
    assert_eq!(apply(store, &b, enter(3, "w", "r", 2)).await, Verdict::Full);
    assert_eq!(
        apply(store, &b, enter(4, "v", "r", 2)).await,
        Verdict::Done,
        "he has a seat in the full room"
    );
    let (members, all) = store.members(&room("r"), None, 10).await.unwrap();
    let sessions: Vec<u32> = members.iter().map(|member| member.sessions).collect();
    assert_eq!((all, sessions), (2, vec![3, 2]));
}

pub(crate) async fn who_finds_a_room_full_leaves_no_trace(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    let changes =
        [enter(1, "u", "r", 1), enter(2, "v", "r", 1), enter(3, "w", "r", 1), enter(3, "w", "s", 1)];
    let verdicts = store.apply(&a, &changes, NOW).await.unwrap();
    assert_eq!(verdicts, [Verdict::Done, Verdict::Full, Verdict::Full, Verdict::Done]);
    assert_eq!(users_in(store, "r").await, ["u"]);
    assert!(sessions_of(store, "v").await.is_empty());
    assert_eq!(sessions_of(store, "w").await, [("a".into(), 3, vec!["s".into()])]);
    assert_eq!(store.totals().await.unwrap(), Totals { users: 2, sessions: 2 });
    store.remove(&at("a", 1, 1)).await.unwrap();
    assert_eq!(store.totals().await.unwrap(), Totals::default());
}

pub(crate) async fn a_seat_comes_back_by_an_exit_and_by_an_end(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    assert_eq!(apply(store, &a, enter(1, "u", "r", 1)).await, Verdict::Done);
    assert_eq!(apply(store, &a, enter(2, "v", "r", 1)).await, Verdict::Full);
    assert_eq!(apply(store, &a, exit(1, "u", "r")).await, Verdict::Done);
    assert_eq!(apply(store, &a, enter(2, "v", "r", 1)).await, Verdict::Done);
    assert_eq!(apply(store, &a, end(2, "v", &["r"])).await, Verdict::Done);
    assert_eq!(apply(store, &a, enter(1, "u", "r", 1)).await, Verdict::Done);
    let in_one_call = [end(1, "u", &["r"]), enter(3, "w", "r", 1)];
    assert_eq!(store.apply(&a, &in_one_call, NOW).await.unwrap(), [Verdict::Done; 2]);
    assert_eq!(users_in(store, "r").await, ["w"]);
}

pub(crate) async fn a_room_without_a_limit_is_never_full(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    let changes: Vec<Change> = (0..300).map(|number| enter(number, &format!("u{number}"), "r", 0)).collect();
    let verdicts = store.apply(&a, &changes, NOW).await.unwrap();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Done));
    assert_eq!(store.counts(&[room("r"), room("s")]).await.unwrap(), [300, 0]);
}

pub(crate) async fn a_refused_room_takes_nothing_from_a_session_that_lives(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    apply(store, &a, enter(1, "u", "full", 1)).await;
    apply(store, &a, enter(2, "v", "r", 2)).await;
    assert_eq!(apply(store, &a, enter(2, "v", "full", 1)).await, Verdict::Full);
    assert_eq!(sessions_of(store, "v").await, [("a".into(), 2, vec!["r".into()])]);
    apply(store, &a, exit(2, "v", "r")).await;
    assert_eq!(apply(store, &a, enter(2, "v", "full", 1)).await, Verdict::Full);
    assert_eq!(
        sessions_of(store, "v").await,
        [("a".into(), 2, vec![])],
        "without a room it lives all the same"
    );
    let changes = [exit(1, "u", "full"), enter(1, "u", "r", 1), enter(2, "v", "full", 1)];
    assert_eq!(store.apply(&a, &changes, NOW).await.unwrap(), [Verdict::Done; 3]);
    store.remove(&at("a", 1, 1)).await.unwrap();
    assert_eq!(store.counts(&[room("full"), room("r")]).await.unwrap(), [0, 0]);
}

pub(crate) async fn seats_are_told_without_being_taken(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    apply(store, &a, enter(1, "u", "r", 1)).await;
    let ask = |id: &str, of: &str, most| (room(id), user(of), most);
    let asked = [ask("r", "u", 1), ask("r", "v", 1), ask("r", "v", 2), ask("r", "v", 0), ask("new", "v", 1)];
    assert_eq!(store.have_seats(&asked).await.unwrap(), [true, false, true, true, true]);
    assert_eq!(store.have_seats(&[]).await.unwrap(), Vec::<bool>::new());
    assert_eq!(store.counts(&[room("r"), room("new")]).await.unwrap(), [1, 0]);
}
