//! Nodes that come and go, and what is told of them.

use super::*;

pub(crate) async fn a_user_on_two_nodes_leaves_with_the_last(store: &dyn PresenceStore) {
    let (a, b) = (begun(store, "a").await, begun(store, "b").await);
    apply(store, &a, enter(7, "u", "r", 1)).await;
    // The same number at another node is another session.
    apply(store, &b, enter(7, "u", "r", 1)).await;
    assert_eq!(store.totals().await.unwrap(), Totals { users: 1, sessions: 2 });
    apply(store, &a, end(7, "u", &["r"])).await;
    assert_eq!(users_in(store, "r").await, ["u"]);
    assert_eq!(sessions_of(store, "u").await, [("b".into(), 7, vec!["r".into()])]);
    store.remove(&at("b", 1, 1)).await.unwrap();
    assert!(users_in(store, "r").await.is_empty());
    assert!(sessions_of(store, "u").await.is_empty());
}

pub(crate) async fn a_former_incarnation_and_an_earlier_link_change_nothing(store: &dyn PresenceStore) {
    let first = begun(store, "a").await;
    apply(store, &first, enter(1, "u", "r", 0)).await;
    let (second, third) = (at("a", 1, 2), at("a", 2, 1));
    for (later, earlier) in [(&second, vec![&first]), (&third, vec![&second, &first])] {
        assert_eq!(store.begin(&record(later)).await, Ok(Verdict::Done));
        let told = vec![(arrival(1, "u"), vec![room("r")])];
        assert_eq!(store.sync(later, told, NOW).await, Ok(Verdict::Done));
        for earlier in earlier {
            assert_eq!(store.begin(&record(earlier)).await, Ok(Verdict::Fenced));
            assert_eq!(store.beat(&[record(earlier)]).await.unwrap().0, [Verdict::Fenced]);
            assert_eq!(store.sync(earlier, Vec::new(), NOW).await, Ok(Verdict::Fenced));
            let words = [end(1, "u", &["r"]), enter(2, "v", "r", 0), exit(1, "u", "r")];
            assert_eq!(store.apply(earlier, &words, NOW).await.unwrap(), [Verdict::Fenced; 3]);
            assert_eq!(users_in(store, "r").await, ["u"]);
            assert_eq!(sessions_of(store, "u").await, [("a".into(), 1, vec!["r".into()])]);
            assert!(sessions_of(store, "v").await.is_empty());
        }
        let nodes = store.nodes().await.unwrap();
        assert_eq!((nodes[0].card.incarnation, nodes[0].link), (later.incarnation, later.link));
    }
}

pub(crate) async fn a_sync_takes_out_what_is_gone_and_adds_what_is_new(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    let b = begun(store, "b").await;
    apply(store, &b, enter(1, "other", "r", 0)).await;
    let words =
        [enter(1, "u", "r", 0), enter(1, "u", "left", 0), enter(2, "v", "r", 0), enter(3, "w", "r", 0)];
    store.apply(&a, &words, NOW).await.unwrap();
    let told = || {
        vec![
            (arrival(1, "u"), vec![room("r"), room("entered")]),
            (arrival(3, "x"), vec![room("r")]),
            (arrival(4, "y"), vec![room("r")]),
        ]
    };
    for _ in 0..2 {
        assert_eq!(store.sync(&a, told(), NOW).await, Ok(Verdict::Done));
        assert_eq!(users_in(store, "r").await, ["other", "u", "x", "y"]);
        assert_eq!(users_in(store, "entered").await, ["u"]);
        assert!(users_in(store, "left").await.is_empty());
        assert_eq!(sessions_of(store, "u").await, [("a".into(), 1, vec!["entered".into(), "r".into()])]);
        for gone in ["v", "w"] {
            assert!(sessions_of(store, gone).await.is_empty());
        }
        assert_eq!(store.totals().await.unwrap(), Totals { users: 4, sessions: 4 });
    }
    assert!(store.nodes().await.unwrap()[0].whole);
}

pub(crate) async fn a_sync_asks_for_no_seat_and_keeps_sessions_without_a_room(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    apply(store, &a, enter(1, "u", "r", 1)).await;
    let told = vec![
        (arrival(1, "u"), vec![room("r")]),
        (arrival(2, "v"), vec![room("r")]),
        (arrival(3, "w"), vec![]),
    ];
    store.sync(&a, told, NOW).await.unwrap();
    assert_eq!(users_in(store, "r").await, ["u", "v"], "they are live");
    assert_eq!(sessions_of(store, "w").await, [("a".into(), 3, vec![])]);
    assert_eq!(apply(store, &a, enter(4, "x", "r", 2)).await, Verdict::Full);
    let forced = Change::Enter { arrival: arrival(4, "x"), room: room("r"), max_users: None };
    assert_eq!(apply(store, &a, forced).await, Verdict::Done);
    assert_eq!(store.totals().await.unwrap(), Totals { users: 4, sessions: 4 });
}

pub(crate) async fn a_sync_of_a_later_incarnation_takes_the_former_out(store: &dyn PresenceStore) {
    let first = begun(store, "a").await;
    apply(store, &first, enter(1, "u", "r", 0)).await;
    apply(store, &first, enter(2, "v", "r", 0)).await;
    // Its links count from one again, and a number may name another session.
    let second = at("a", 2, 1);
    store.begin(&record(&second)).await.unwrap();
    let told = vec![(arrival(1, "x"), vec![room("r")]), (arrival(9, "v"), vec![room("r")])];
    store.sync(&second, told, NOW).await.unwrap();
    assert_eq!(users_in(store, "r").await, ["v", "x"]);
    assert!(sessions_of(store, "u").await.is_empty());
    assert_eq!(sessions_of(store, "v").await, [("a".into(), 9, vec!["r".into()])]);
    assert_eq!(store.totals().await.unwrap(), Totals { users: 2, sessions: 2 });
    assert_eq!(store.sessions_of(&user("v")).await.unwrap()[0].incarnation, 2);
}

pub(crate) async fn a_removal_may_come_twice_and_spares_later_incarnations(store: &dyn PresenceStore) {
    let (a, b) = (begun(store, "a").await, begun(store, "b").await);
    apply(store, &a, enter(1, "u", "r", 0)).await;
    apply(store, &b, enter(1, "v", "r", 0)).await;
    for _ in 0..2 {
        store.remove(&at("a", 1, 1)).await.unwrap();
        assert_eq!(users_in(store, "r").await, ["v"]);
        assert_eq!(store.nodes().await.unwrap().len(), 1);
        assert_eq!(store.totals().await.unwrap(), Totals { users: 1, sessions: 1 });
    }
    store.remove(&at("never seen", u64::MAX, u64::MAX)).await.unwrap();
    let second = at("a", 2, 1);
    store.begin(&record(&second)).await.unwrap();
    store.sync(&second, vec![(arrival(1, "u"), vec![room("r")])], NOW).await.unwrap();
    store.remove(&at("a", 1, 1)).await.unwrap();
    assert_eq!(users_in(store, "r").await, ["u", "v"]);
    assert_eq!(store.nodes().await.unwrap().len(), 2);
    assert_eq!(store.apply(&a, &[enter(5, "w", "r", 0)], NOW).await.unwrap(), [Verdict::Fenced]);
    assert_eq!(apply(store, &second, end(1, "u", &["r"])).await, Verdict::Done);
    assert_eq!(users_in(store, "r").await, ["v"]);
}

pub(crate) async fn a_removal_spares_what_a_later_link_has_told(store: &dyn PresenceStore) {
    let first = begun(store, "a").await;
    store.apply(&first, &[enter(1, "u", "r", 0), enter(2, "v", "r", 0)], NOW).await.unwrap();
    let second = at("a", 1, 2);
    store.begin(&record(&second)).await.unwrap();
    store.sync(&second, vec![(arrival(1, "u"), vec![room("r")])], NOW).await.unwrap();
    apply(store, &second, enter(3, "w", "r", 0)).await;
    store.remove(&first).await.unwrap();
    assert_eq!(users_in(store, "r").await, ["u", "w"]);
    assert_eq!(sessions_of(store, "u").await, [("a".into(), 1, vec!["r".into()])]);
    assert_eq!(store.nodes().await.unwrap()[0].link, 2);
    // The node still names all that it has.
    store.remove(&second).await.unwrap();
    assert!(users_in(store, "r").await.is_empty());
    assert_eq!(store.totals().await.unwrap(), Totals::default());
    assert!(store.nodes().await.unwrap().is_empty());
}

pub(crate) async fn pages_are_in_the_order_of_bytes(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    let mut ids = ["用户", "ä", "a", "Z", "aa", "z", "~", "0", "é", "a b", "😀", "-", "(", "[", "+"];
    let words: Vec<Change> =
        ids.iter().enumerate().map(|(number, id)| enter(number as u64, id, "r", 0)).collect();
    store.apply(&a, &words, NOW).await.unwrap();
    ids.sort();
    let mut seen: Vec<String> = Vec::new();
    loop {
        let after = seen.last().map(|id| user(id));
        let (page, all) = store.members(&room("r"), after.as_ref(), 4).await.unwrap();
        assert_eq!(all as usize, ids.len());
        assert!(page.len() <= 4);
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|member| member.user.to_string()));
    }
    assert_eq!(seen, ids);
    let (page, _) = store.members(&room("r"), Some(&user("b")), 1).await.unwrap();
    assert_eq!(page[0].user.as_str(), "z", "nobody has the id before the page");
}

pub(crate) async fn the_newest_session_speaks_for_its_user(store: &dyn PresenceStore) {
    let (a, b) = (begun(store, "a").await, begun(store, "b").await);
    let session = |number: u64, connected_at| {
        let metadata = HashMap::from([("number".to_owned(), number.to_string())]);
        let user_name = format!("n{number}");
        Arrival { connected_at, user_name, metadata, ..arrival(number, "u") }
    };
    let enter = |arrival| Change::Enter { arrival, room: room("r"), max_users: Some(0) };
    store.apply(&a, &[enter(session(1, 20)), enter(session(2, 40))], 100).await.unwrap();
    store.apply(&b, &[enter(session(3, 30))], 200).await.unwrap();
    let member = async || store.members(&room("r"), None, 1).await.unwrap().0.remove(0);
    let newest = member().await;
    assert_eq!((newest.user_name.as_str(), newest.node.as_str(), newest.sessions), ("n2", "a", 3));
    assert_eq!(newest.metadata["number"], "2");
    let order: Vec<u64> = sessions_of(store, "u").await.into_iter().map(|(_, session, _)| session).collect();
    assert_eq!(order, [2, 3, 1]);
    apply(store, &a, end(2, "u", &["r"])).await;
    let newest = member().await;
    assert_eq!((newest.user_name.as_str(), newest.node.as_str(), newest.sessions), ("n3", "b", 2));
    assert_eq!(newest.joined_at, 100, "he has been there since");
    apply(store, &b, end(3, "u", &["r"])).await;
    assert_eq!(member().await.user_name, "n1");
}

pub(crate) async fn texts_come_back_as_they_were(store: &dyn PresenceStore) {
    let id = "a}{ \"用户\" '%' \\ 😀";
    let at = NodeAt { id: node(id), incarnation: u64::MAX, link: u64::MAX };
    let told = NodeRecord { controller: "c \"1\"".into(), ..record(&at) };
    store.begin(&told).await.unwrap();
    let metadata = HashMap::from([
        (String::new(), "{}[]\"\\/\u{7f}\u{0}\r\n\t".to_owned()),
        ("用户😀".to_owned(), "x".repeat(16 * 1024)),
    ]);
    let arrival = Arrival {
        session: SessionId::from_u64(u64::MAX),
        user: user(id),
        user_name: "\"名\\".into(),
        metadata: metadata.clone(),
        connected_at: NOW,
    };
    let change = Change::Enter { arrival, room: room(id), max_users: Some(u32::MAX) };
    assert_eq!(apply(store, &at, change).await, Verdict::Done);
    let (members, _) = store.members(&room(id), None, 1).await.unwrap();
    let member = MemberRecord {
        user: user(id),
        user_name: "\"名\\".into(),
        metadata,
        node: node(id),
        joined_at: NOW,
        sessions: 1,
    };
    assert_eq!(members, [member]);
    let session = SessionRecord {
        node: node(id),
        incarnation: u64::MAX,
        session: SessionId::from_u64(u64::MAX),
        rooms: vec![room(id)],
        connected_at: NOW,
    };
    assert_eq!(store.sessions_of(&user(id)).await.unwrap(), [session]);
    assert_eq!(store.nodes().await.unwrap(), [told]);
    store.remove(&at).await.unwrap();
    assert_eq!(store.totals().await.unwrap(), Totals::default());
}

pub(crate) async fn what_is_said_twice_changes_nothing(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    for _ in 0..2 {
        let twice = [enter(1, "u", "r", 1), enter(1, "u", "r", 1)];
        assert_eq!(store.apply(&a, &twice, NOW).await.unwrap(), [Verdict::Done; 2]);
        let (members, all) = store.members(&room("r"), None, 10).await.unwrap();
        assert_eq!((members[0].sessions, all), (1, 1));
        assert_eq!(store.totals().await.unwrap(), Totals { users: 1, sessions: 1 });
    }
    for _ in 0..2 {
        assert_eq!(apply(store, &a, exit(1, "u", "r")).await, Verdict::Done);
        assert_eq!(sessions_of(store, "u").await, [("a".into(), 1, vec![])]);
    }
    for _ in 0..2 {
        assert_eq!(apply(store, &a, end(1, "u", &["r", "never entered"])).await, Verdict::Done);
        assert_eq!(store.totals().await.unwrap(), Totals::default());
    }
    assert_eq!(store.begin(&record(&a)).await, Ok(Verdict::Done));
}

pub(crate) async fn changes_of_one_session_are_carried_out_in_their_order(store: &dyn PresenceStore) {
    let a = begun(store, "a").await;
    let words = [
        enter(1, "u", "r", 1),
        exit(1, "u", "r"),
        enter(2, "v", "r", 1),
        enter(1, "u", "r", 1),
        exit(2, "v", "r"),
        enter(1, "u", "r", 1),
        enter(3, "w", "r", 1),
        end(3, "w", &["r"]),
        enter(2, "v", "s", 1),
        exit(2, "v", "s"),
        enter(2, "v", "s", 1),
        enter(4, "x", "t", 1),
        end(4, "x", &["t"]),
    ];
    let mut verdicts = vec![Verdict::Done; words.len()];
    (verdicts[3], verdicts[6]) = (Verdict::Full, Verdict::Full);
    assert_eq!(store.apply(&a, &words, NOW).await.unwrap(), verdicts);
    assert_eq!(users_in(store, "r").await, ["u"]);
    assert_eq!(users_in(store, "s").await, ["v"]);
    assert!(users_in(store, "t").await.is_empty());
    assert_eq!(sessions_of(store, "u").await, [("a".into(), 1, vec!["r".into()])]);
    assert_eq!(sessions_of(store, "v").await, [("a".into(), 2, vec!["s".into()])]);
    assert_eq!(store.totals().await.unwrap(), Totals { users: 2, sessions: 2 });
    store.remove(&at("a", 1, 1)).await.unwrap();
    assert_eq!(
        store.counts(&[room("r"), room("s")]).await.unwrap(),
        [0, 0],
        "the node named all that it had"
    );
}

pub(crate) async fn nodes_are_told_as_they_were_written(store: &dyn PresenceStore) {
    assert!(store.nodes().await.unwrap().is_empty());
    let (b, a) = (record(&at("b", 7, 3)), record(&at("a", u64::MAX, 1)));
    for record in [&b, &a] {
        assert_eq!(store.begin(record).await, Ok(Verdict::Done));
    }
    assert_eq!(store.nodes().await.unwrap(), [a.clone(), b.clone()]);
    let loaded = NodeRecord {
        controller: "c2".into(),
        whole: true,
        linked: false,
        draining: true,
        connections: u64::MAX,
        sessions: 12,
        ..a.clone()
    };
    let unknown = record(&at("c", 1, 1));
    let (verdicts, _) = store.beat(&[loaded.clone(), b.clone(), unknown.clone()]).await.unwrap();
    assert_eq!(verdicts, [Verdict::Done; 3]);
    assert_eq!(store.nodes().await.unwrap(), [loaded, b, unknown]);
}

pub(crate) async fn everything_is_counted(store: &dyn PresenceStore) {
    assert_eq!(store.totals().await.unwrap(), Totals::default());
    assert_eq!(store.counts(&[]).await.unwrap(), Vec::<u32>::new());
    let (a, b) = (begun(store, "a").await, begun(store, "b").await);
    let (of, into) = (|number: u64| format!("u{number}"), |number: u64| format!("r{}", number % 7));
    let words = |from: u64| -> Vec<Change> {
        (from..from + 400).map(|number| enter(number, &of(number), &into(number), 0)).collect()
    };
    store.apply(&a, &words(0), NOW).await.unwrap();
    store.apply(&b, &words(200), NOW).await.unwrap();
    assert_eq!(store.totals().await.unwrap(), Totals { users: 600, sessions: 800 });
    let rooms: Vec<RoomId> = (0..7).map(|number| room(&into(number))).collect();
    assert_eq!(store.counts(&rooms).await.unwrap().iter().sum::<u32>(), 600);
    let ends: Vec<Change> = (0..400).map(|number| end(number, &of(number), &[&into(number)])).collect();
    store.apply(&a, &ends, NOW).await.unwrap();
    assert_eq!(store.totals().await.unwrap(), Totals { users: 400, sessions: 400 });
}
