//! The oracle finds each kind of wrong, and nothing where all is well.

use loadgen::{Ended, Seen};
use ringcast_proto::pubsub::NodeOutcomes;

use super::*;

const MS: u64 = 1_000_000;

/// Three clients: two of one user in room `r`, on two nodes, and one alone in room `s`.
fn clients() -> Vec<Client> {
    let client = |user: &str, room: &str| Client { user: user.into(), room: room.into() };
    vec![client("u", "r"), client("u", "r"), client("v", "s")]
}

fn entry(at_ms: u64, client: u32, connection: u32, seen: Seen) -> Entry {
    Entry { at_ns: at_ms * MS, client, connection, seen }
}

fn joined(at_ms: u64, client: u32, node: u16) -> Entry {
    entry(at_ms, client, 0, Seen::Joined { node })
}

fn got(at_ms: u64, client: u32, seq: u64) -> Entry {
    entry(at_ms, client, 0, Seen::Got { stream: 1, seq })
}

fn ended(at_ms: u64, client: u32, node: u16, error: &str) -> Entry {
    entry(at_ms, client, 0, Seen::Ended { node, how: Box::new(Ended::Broken { error: error.into() }) })
}

/// All three have joined, clients 0 and 2 at node a, client 1 at node b.
fn all_joined() -> Vec<Entry> {
    vec![joined(10, 0, 0), joined(10, 1, 1), joined(10, 2, 0)]
}

fn written(node: &str, written: u64) -> NodeOutcomes {
    outcomes(node, Outcomes { members: written, written, ..Outcomes::default() })
}

fn outcomes(node: &str, outcomes: Outcomes) -> NodeOutcomes {
    NodeOutcomes { node_id: node.into(), outcomes: Some(outcomes) }
}

fn report(nodes: Vec<NodeOutcomes>) -> DeliveryReport {
    DeliveryReport { total: Some(Outcomes::default()), nodes, ..DeliveryReport::default() }
}

/// A push that left at 100 ms times its number and was answered 5 ms later.
fn push(seq: u64, audience: Audience, said: Said) -> Push {
    let sent_ns = (seq + 1) * 100 * MS;
    Push { id: PushId { lane: 1, seq }, audience, sent_ns, answered_ns: sent_ns + 5 * MS, said }
}

fn room(seq: u64, nodes: Vec<NodeOutcomes>) -> Push {
    push(seq, Audience::Room("r".into()), Said::Report(report(nodes)))
}

fn verdict(entries: &[Entry], pushes: &[Push]) -> Verdict {
    let nodes = ["a".to_owned(), "b".to_owned()];
    judge(&Records {
        nodes: &nodes,
        clients: &clients(),
        entries,
        pushes,
        margin: Duration::from_millis(20),
        silence: Duration::from_millis(300),
    })
}

fn with(more: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    all_joined().into_iter().chain(more).collect()
}

#[test]
fn nothing_is_found_where_all_is_well() {
    let entries = with([
        got(101, 0, 0),
        got(102, 1, 0),
        got(201, 0, 1),
        got(201, 1, 1),
        got(201, 2, 1),
        got(301, 2, 2),
    ]);
    let pushes = [
        room(0, vec![written("a", 1), written("b", 1)]),
        push(1, Audience::All, Said::Report(report(vec![written("a", 2), written("b", 1)]))),
        push(2, Audience::User("v".into()), Said::Report(report(vec![written("a", 1)]))),
    ];
    let verdict = verdict(&entries, &pushes);
    assert_eq!(verdict.wrongs(), Vec::<String>::new());
    assert_eq!((verdict.expected, verdict.received, verdict.announced()), (6, 6, 0));
}

#[test]
fn a_loss_that_no_report_announces_is_silent() {
    let found = verdict(&with([got(101, 0, 0)]), &[room(0, vec![written("a", 1)])]);
    assert_eq!((found.silent.count, found.announced()), (1, 0));
    assert!(found.silent.told[0].contains("[1]"), "{:?}", found.silent);
}

#[test]
fn an_announcement_covers_only_so_many_and_only_on_its_node() {
    let announced = |node: &str, unknown| {
        let unknown = Outcomes { members: unknown, unknown, ..Outcomes::default() };
        verdict(&all_joined(), &[room(0, vec![outcomes(node, unknown)])])
    };
    let on_b = announced("b", 1);
    assert_eq!(
        (on_b.silent.count, on_b.announced.clone()),
        (1, BTreeMap::from([("unknown", 1)])),
        "a's is silent"
    );
    assert_eq!(announced("b", 5).silent.count, 1);
    assert_eq!(announced("c", 5).silent.count, 2);
}

#[test]
fn a_push_that_a_live_push_manager_never_answers_is_wrong() {
    let forgotten = Said::Forgotten("no result".into());
    let found = verdict(&all_joined(), &[push(0, Audience::Room("r".into()), forgotten)]);
    assert_eq!((found.forgotten.count, found.unanswered), (1, 1));
    assert!(found.wrongs()[0].contains("never answered"), "{:?}", found.wrongs());
}

#[test]
fn every_kind_of_announcement_counts_by_its_name() {
    let both = |outcome: Outcomes| {
        verdict(&all_joined(), &[room(0, vec![outcomes("a", outcome), outcomes("b", outcome)])])
    };
    let none = Outcomes::default();
    for (kind, outcome) in [
        ("unknown", Outcomes { unknown: 1, ..none }),
        ("closed", Outcomes { dropped_closed: 1, ..none }),
        ("slow", Outcomes { dropped_slow: 1, ..none }),
        ("shed", Outcomes { dropped_shed: 1, ..none }),
    ] {
        let found = both(outcome);
        assert_eq!((found.silent.count, found.announced), (0, BTreeMap::from([(kind, 2)])), "{kind}");
    }
    // What is queued comes, or its connection ends.
    let queued = Outcomes { queued: 1, ..none };
    assert_eq!(both(queued).silent.count, 2);
    let mut over = all_joined();
    over.extend([ended(5_000, 0, 0, "reset"), ended(5_000, 1, 1, "reset")]);
    let found = verdict(&over, &[room(0, vec![outcomes("a", queued), outcomes("b", queued)])]);
    assert_eq!((found.silent.count, found.announced), (0, BTreeMap::from([("queued", 2)])));
    let stale = DeliveryReport { routes_stale_ms: 7, ..report(Vec::new()) };
    let found = verdict(&all_joined(), &[push(0, Audience::Room("r".into()), Said::Report(stale))]);
    assert_eq!((found.silent.count, found.announced), (0, BTreeMap::from([("stale", 2)])));
    let offline =
        DeliveryReport { total: Some(Outcomes { members: 1, offline: 1, ..none }), ..report(Vec::new()) };
    let found = verdict(&all_joined(), &[push(0, Audience::User("v".into()), Said::Report(offline))]);
    assert_eq!((found.silent.count, found.announced), (0, BTreeMap::from([("offline", 1)])));
    let found = verdict(&all_joined(), &[push(0, Audience::All, Said::Nothing("gone".into()))]);
    assert_eq!((found.silent.count, found.announced), (0, BTreeMap::from([("unanswered", 3)])));
}

#[test]
fn only_connections_that_surely_were_there_have_to_get_a_push() {
    let nobody = room(0, Vec::new());
    let late = vec![joined(100, 0, 0), joined(105, 1, 1), joined(10, 2, 0)];
    assert_eq!(
        verdict(&late, std::slice::from_ref(&nobody)).silent.count,
        0,
        "they joined while it was pushed"
    );
    let early = with([ended(120, 0, 0, "reset"), ended(99, 1, 1, "reset")]);
    let found = verdict(&early, std::slice::from_ref(&nobody));
    assert_eq!((found.silent.count, found.stuck.count), (0, 2), "they ended within the margin");
    let after = with([ended(126, 0, 0, "reset"), ended(126, 1, 1, "reset")]);
    assert_eq!(verdict(&after, std::slice::from_ref(&nobody)).silent.count, 2);
    let silent = with([ended(400, 0, 0, "the node is silent"), ended(400, 1, 1, "the node is silent")]);
    assert_eq!(
        verdict(&silent, std::slice::from_ref(&nobody)).silent.count,
        0,
        "they may have been dead since 100"
    );
}

#[test]
fn doubles_are_found_on_one_connection_only() {
    let report = || vec![written("a", 1), written("b", 1)];
    let found = verdict(&with([got(101, 0, 0), got(101, 1, 0), got(102, 1, 0)]), &[room(0, report())]);
    assert_eq!((found.doubled.count, found.again), (1, 0));
    let moved = with([
        got(101, 0, 0),
        got(101, 1, 0),
        ended(102, 1, 1, "reset"),
        entry(110, 1, 1, Seen::Joined { node: 0 }),
        entry(111, 1, 1, Seen::Got { stream: 1, seq: 0 }),
    ]);
    let found = verdict(&moved, &[room(0, report())]);
    assert_eq!((found.doubled.count, found.again), (0, 1), "two sessions, each got it once");
}

#[test]
fn order_holds_within_a_room_and_a_lane() {
    let report = || vec![written("a", 1), written("b", 1)];
    let both = [room(0, report()), room(1, report())];
    let entries = with([got(201, 0, 1), got(202, 0, 0), got(201, 1, 0), got(202, 1, 1)]);
    assert_eq!(verdict(&entries, &both).reordered.count, 1);
    let to_user = push(1, Audience::User("u".into()), Said::Report(report_of_both()));
    assert_eq!(verdict(&entries, &[room(0, report()), to_user]).reordered.count, 0, "not the same room");
}

fn report_of_both() -> DeliveryReport {
    report(vec![written("a", 1), written("b", 1)])
}

#[test]
fn strangers_are_those_for_whom_it_was_not_or_must_not_be() {
    let all_got = with([got(101, 0, 0), got(101, 1, 0), got(101, 2, 0)]);
    let found = verdict(&all_got, &[room(0, vec![written("a", 2), written("b", 1)])]);
    assert_eq!(found.strangers.count, 1, "client 2 is in another room: {found:?}");
    let found = verdict(&all_got, &[]);
    assert_eq!(found.strangers.count, 3, "nobody made it");
    let found = verdict(&all_got, &[push(0, Audience::All, Said::Refused("no".into()))]);
    assert_eq!((found.strangers.count, found.silent.count), (3, 0), "it was refused");
}

#[test]
fn reports_that_lie_are_found() {
    let entries = with([got(101, 0, 0)]);
    let found = verdict(&entries, &[room(0, vec![written("a", 1), written("b", 1)])]);
    assert_eq!((found.overstated.count, found.silent.count), (1, 1), "client 1 never got it");
    let gone = with([got(101, 0, 0), ended(110, 1, 1, "reset")]);
    let found = verdict(&gone, &[room(0, vec![written("a", 1), written("b", 1)])]);
    assert_eq!(found.overstated.count, 0, "it may have gone with it unread");
    let both = with([got(101, 0, 0), got(101, 1, 0)]);
    let closed = outcomes("b", Outcomes { members: 1, dropped_closed: 1, ..Outcomes::default() });
    let found = verdict(&both, &[room(0, vec![written("a", 1), closed])]);
    assert_eq!((found.denied.count, found.announced()), (1, 0), "dropped by report, and there");
}

#[test]
fn who_is_not_back_is_stuck() {
    let entries = with([
        got(101, 0, 0),
        got(101, 1, 0),
        ended(500, 1, 1, "reset"),
        entry(600, 1, 1, Seen::Ended { node: 0, how: Box::new(Ended::Refused { status: 503 }) }),
    ]);
    let found = verdict(&entries, &[room(0, vec![written("a", 1), written("b", 1)])]);
    assert_eq!(found.stuck.told, ["client 1 (u): refused 503"]);
    let spans = Spans::new(&entries, 3, Duration::ZERO);
    assert_eq!((spans.connected(), spans.connected_by_node(2)), (2, vec![2, 0]));
    assert_eq!(spans.ended_since(400 * MS).count(), 1);
    let back = [entries, vec![entry(900, 1, 2, Seen::Joined { node: 0 })]].concat();
    let spans = Spans::new(&back, 3, Duration::ZERO);
    assert_eq!((spans.connected(), spans.away_since(400 * MS)), (3, vec![Duration::from_millis(400)]));
}

#[test]
fn a_node_may_write_to_a_client_that_has_given_it_up_as_silent() {
    let told = |error: &str| {
        let push = room(3, vec![written("a", 1), written("b", 1)]);
        verdict(&with([ended(200, 0, 0, error), got(401, 1, 3)]), &[push])
    };
    let silent = told("the node is silent");
    assert_eq!(
        (silent.overstated.count, silent.silent.count),
        (0, 0),
        "the node learns of it by its own pings"
    );
    assert_eq!(told("reset").overstated.count, 1);
}
