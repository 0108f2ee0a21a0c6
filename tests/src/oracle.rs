//! What was lost, doubled, out of order, or told untruly: clients' own records laid beside what push managers said.
//!
//! Owns: the rules. Must not: ask a system or look at a clock; it judges records, which can be made up.
//! Talks to: nobody; `oracle/spans.rs` puts clients' entries in order.
//!
//! | found | rule |
//! | --- | --- |
//! | `silent` | a connection was joined before a push left for its push manager and lasted well past the answer, did not get it, and the answer does not announce it: it neither counts so many sessions of that node as dropped, unknown, or queued for a connection that ended later, nor says that the user was offline or that routes were stale |
//! | `doubled` | a connection got a push twice |
//! | `reordered` | a connection got a room's pushes through one push manager in another order than they were accepted |
//! | `strangers` | a connection got a push that was not for it, that nobody made, or that was refused |
//! | `overstated` | an answer says written of more sessions of a node than got it or may have gone with it unread |
//! | `denied` | an answer knows of fewer sessions of a node than got the push, and calls none of that node unknown: unknown is told of as many as the routes counted, and sessions that came since may have got it, too |
//! | `stuck` | a client was not connected at the end |
//! | `forgotten` | nothing was ever said of a push by a push manager that was there |
//!
//! What answers announce is counted apart, by kind: how much of it is right is for the scenario to say.

mod spans;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use loadgen::Entry;
use ringcast_proto::pubsub::{DeliveryReport, Outcomes};

pub use spans::{Span, Spans};

/// How many of each kind are told one by one.
const TOLD: usize = 12;

/// A push, in the stamp that its receivers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PushId {
    /// One stream to one push manager, in whose order pushes were accepted.
    pub lane: u32,
    /// The push's number there.
    pub seq: u64,
}

/// Whom a push was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// A room.
    Room(String),
    /// A user, on all devices.
    User(String),
    /// Everyone.
    All,
}

/// What was said of a push.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A report.
    Report(DeliveryReport),
    /// It was refused: nothing was pushed.
    Refused(String),
    /// Nothing: it was handed over, and the push manager was lost.
    Nothing(String),
    /// Nothing, although its push manager was there long after its deadline, and answered others.
    Forgotten(String),
}

/// A push, and what was said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// Which.
    pub id: PushId,
    /// Whom it was for.
    pub audience: Audience,
    /// Before it was handed over, in nanoseconds of CLOCK_MONOTONIC.
    pub sent_ns: u64,
    /// When that was said.
    pub answered_ns: u64,
    /// What was said.
    pub said: Said,
}

/// A client: the room and the user of all its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its user.
    pub user: String,
    /// Its room.
    pub room: String,
}

/// What is laid beside each other.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    /// The nodes' ids, by their places.
    pub nodes: &'a [String],
    /// The clients, by their numbers.
    pub clients: &'a [Client],
    /// What they saw.
    pub entries: &'a [Entry],
    /// All pushes.
    pub pushes: &'a [Push],
    /// How long a connection must last past an answer for the push to have to be there.
    pub margin: Duration,
    /// How long a connection that was given up as silent may have been dead before.
    pub silence: Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Pushes in all, and those of which nothing was said.
    pub pushes: u64,
    /// See there.
    pub unanswered: u64,
    /// Receipts that had to be, and receipts in all.
    pub expected: u64,
    /// See there.
    pub received: u64,
    /// Losses that were announced, by kind.
    pub announced: BTreeMap<&'static str, u64>,
    /// Pushes that a client got again on another connection: each of its sessions got them once.
    pub again: u64,
    /// See the module for these.
    pub silent: Findings,
    /// A connection got a push twice.
    pub doubled: Findings,
    /// A connection got a room's pushes in another order.
    pub reordered: Findings,
    /// A connection got what was not for it.
    pub strangers: Findings,
    /// Written by report, and never there.
    pub overstated: Findings,
    /// There, and not by report.
    pub denied: Findings,
    /// Clients that were not connected at the end.
    pub stuck: Findings,
    /// Pushes of which a push manager that was there never said anything.
    pub forgotten: Findings,
}

/// Findings of one kind: how many, and some of them in words.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub told: Vec<String>,
}

impl Findings {
    fn add(&mut self, count: u64, what: impl FnOnce() -> String) {
        self.count += count;
        if count > 0 && self.told.len() < TOLD {
            self.told.push(what());
        }
    }
}

impl Verdict {
    /// Announced losses of all kinds.
    pub fn announced(&self) -> u64 {
        self.announced.values().sum()
    }

    /// What must never be, in words; empty: all is well.
    pub fn wrongs(&self) -> Vec<String> {
        let kinds = [
            ("lost silently", &self.silent),
            ("doubled", &self.doubled),
            ("out of order", &self.reordered),
            ("for others", &self.strangers),
            ("overstated", &self.overstated),
            ("denied", &self.denied),
            ("stuck", &self.stuck),
            ("never answered", &self.forgotten),
        ];
        let found = kinds.into_iter().filter(|(_, findings)| findings.count > 0);
        found
            .map(|(kind, findings)| {
                format!("{} {kind}:\n    {}", findings.count, findings.told.join("\n    "))
            })
            .collect()
    }
}

/// Judges.
pub fn judge(records: &Records<'_>) -> Verdict {
    let spans = Spans::new(records.entries, records.clients.len(), records.silence);
    let audiences = Audiences::new(records.clients);
    let receipts = receipts(records.entries);
    let mut verdict = Verdict { pushes: records.pushes.len() as u64, ..Verdict::default() };
    let mut known = HashMap::new();
    for push in records.pushes {
        known.insert(push.id, push);
        let got = receipts.get(&push.id).map(Vec::as_slice).unwrap_or_default();
        verdict.received += got.len() as u64;
        let case = Case { records, spans: &spans, push, got, audience: audiences.of(&push.audience) };
        case.receipts(&mut verdict);
        case.losses(&mut verdict);
    }
    for (id, got) in &receipts {
        if !known.contains_key(id) {
            verdict
                .strangers
                .add(got.len() as u64, || format!("{id:?} was never made, {} got it", got.len()));
        }
    }
    order(records, &known, &mut verdict);
    for (number, client) in records.clients.iter().enumerate() {
        if !spans.is_connected(number) {
            verdict
                .stuck
                .add(1, || format!("client {number} ({}): {}", client.user, spans.last_word(number)));
        }
    }
    verdict
}

/// Who got a push: client and connection, each time; sorted.
type Receipts = HashMap<PushId, Vec<(u32, u32)>>;

fn receipts(entries: &[Entry]) -> Receipts {
    let mut receipts = Receipts::new();
    for entry in entries {
        if let loadgen::Seen::Got { stream, seq } = entry.seen {
            let id = PushId { lane: stream, seq };
            receipts.entry(id).or_default().push((entry.client, entry.connection));
        }
    }
    receipts.values_mut().for_each(|got| got.sort_unstable());
    receipts
}

/// Which clients an audience has.
struct Audiences<'a> {
    rooms: HashMap<&'a str, Vec<u32>>,
    users: HashMap<&'a str, Vec<u32>>,
    all: Vec<u32>,
}

impl<'a> Audiences<'a> {
    fn new(clients: &'a [Client]) -> Self {
        let (mut rooms, mut users) = (HashMap::<_, Vec<u32>>::new(), HashMap::<_, Vec<u32>>::new());
        for (number, client) in clients.iter().enumerate() {
            rooms.entry(client.room.as_str()).or_default().push(number as u32);
            users.entry(client.user.as_str()).or_default().push(number as u32);
        }
        Self { rooms, users, all: (0..clients.len() as u32).collect() }
    }

    fn of(&self, audience: &Audience) -> &[u32] {
        match audience {
            Audience::Room(room) => self.rooms.get(room.as_str()).map(Vec::as_slice).unwrap_or_default(),
            Audience::User(user) => self.users.get(user.as_str()).map(Vec::as_slice).unwrap_or_default(),
            Audience::All => &self.all,
        }
    }
}

/// One push with everything that belongs to it.
struct Case<'a> {
    records: &'a Records<'a>,
    spans: &'a Spans,
    push: &'a Push,
    got: &'a [(u32, u32)],
    audience: &'a [u32],
}

/// What a node's clients had of one push.
#[derive(Default)]
struct AtNode {
    got: u64,
    missing: Vec<u32>,
    /// Of these, those whose connection never ended: what is queued for them has to be there in the end.
    stayed: u64,
    /// Connections that came or went around the push: they may have had a place in its report.
    passing: u64,
}

impl Case<'_> {
    /// Receipts by those who must not have it, and receipts beyond the first.
    fn receipts(&self, verdict: &mut Verdict) {
        let id = self.push.id;
        if let Said::Refused(why) = &self.push.said {
            verdict
                .strangers
                .add(self.got.len() as u64, || format!("{id:?} was refused ({why}), and arrived"));
        }
        for pair in self.got.windows(2) {
            let ((client, connection), (next, again)) = (pair[0], pair[1]);
            match client == next {
                true if connection == again => {
                    verdict.doubled.add(1, || format!("{id:?} to client {client}, connection {connection}"));
                }
                true => verdict.again += 1,
                false => {}
            }
        }
        for (client, _) in self.got {
            if self.audience.binary_search(client).is_err() {
                let whom = &self.push.audience;
                verdict.strangers.add(1, || format!("{id:?} for {whom:?} came to client {client}"));
            }
        }
    }

    /// Who had to get it and did not, against what the report says.
    fn losses(&self, verdict: &mut Verdict) {
        let mut nodes: Vec<AtNode> = self.records.nodes.iter().map(|_| AtNode::default()).collect();
        let margin_ns = self.records.margin.as_nanos() as u64;
        let (from_ns, to_ns) = (self.push.sent_ns, self.push.answered_ns + margin_ns);
        for client in self.audience {
            for span in self.spans.of(*client as usize) {
                let Some(node) = nodes.get_mut(usize::from(span.node)) else { continue };
                let got = self.got.binary_search(&(*client, span.connection)).is_ok();
                node.got += u64::from(got);
                if span.covers(from_ns, to_ns) {
                    verdict.expected += 1;
                    if !got {
                        node.missing.push(*client);
                        node.stayed += u64::from(span.ended_ns == u64::MAX);
                    }
                } else if !got && span.touches(from_ns.saturating_sub(margin_ns), to_ns) {
                    node.passing += 1;
                }
            }
        }
        match &self.push.said {
            Said::Nothing(_) => {
                verdict.unanswered += 1;
                self.announce(
                    verdict,
                    "unanswered",
                    nodes.iter().map(|node| node.missing.len() as u64).sum(),
                );
            }
            Said::Forgotten(why) => {
                let push = self.push;
                verdict.unanswered += 1;
                verdict.forgotten.add(1, || format!("{:?} for {:?}: {why}", push.id, push.audience));
            }
            // Whoever was refused knows that nobody has it.
            Said::Refused(_) => verdict.unanswered += 1,
            Said::Report(report) => {
                for (place, node) in nodes.iter().enumerate() {
                    self.node(verdict, report, &self.records.nodes[place], node);
                }
            }
        }
    }

    /// One node's part of a report.
    fn node(&self, verdict: &mut Verdict, report: &DeliveryReport, id: &str, node: &AtNode) {
        let line = report.nodes.iter().find(|line| line.node_id == id);
        let said = line.and_then(|line| line.outcomes).unwrap_or_default();
        let mut missing = node.missing.len() as u64;
        for (kind, announced) in announcements(&said) {
            let most = if kind == "queued" { missing.saturating_sub(node.stayed) } else { missing };
            let taken = most.min(announced);
            self.announce(verdict, kind, taken);
            missing -= taken;
        }
        if missing > 0 && report.total.unwrap_or_default().offline > 0 {
            self.announce(verdict, "offline", std::mem::take(&mut missing));
        }
        if missing > 0 && report.routes_stale_ms > 0 {
            self.announce(verdict, "stale", std::mem::take(&mut missing));
        }
        let push = self.push;
        let told = || {
            let whom = &push.audience;
            let stale = report.routes_stale_ms;
            format!(
                "{:?} for {whom:?} on {id}: report {said:?}, stale {stale} ms, got by {}",
                push.id, node.got
            )
        };
        verdict.silent.add(missing, || format!("{}, not by clients {:?}", told(), node.missing));
        verdict.overstated.add(said.written.saturating_sub(node.got + node.passing), told);
        let most = said.written + said.queued;
        if said.unknown == 0 {
            verdict.denied.add(node.got.saturating_sub(most), told);
        }
    }

    fn announce(&self, verdict: &mut Verdict, kind: &'static str, count: u64) {
        if count > 0 {
            *verdict.announced.entry(kind).or_default() += count;
        }
    }
}

fn announcements(said: &Outcomes) -> [(&'static str, u64); 5] {
    [
        ("queued", said.queued),
        ("unknown", said.unknown),
        ("closed", said.dropped_closed),
        ("slow", said.dropped_slow),
        ("shed", said.dropped_shed),
    ]
}

/// Room pushes of one lane must come to each connection in their order.
fn order(records: &Records<'_>, known: &HashMap<PushId, &Push>, verdict: &mut Verdict) {
    let mut last: HashMap<(u32, u32, u32), u64> = HashMap::new();
    for entry in records.entries {
        let loadgen::Seen::Got { stream: lane, seq } = entry.seen else { continue };
        let push = known.get(&PushId { lane, seq });
        if !push.is_some_and(|push| matches!(push.audience, Audience::Room(_))) {
            continue;
        }
        let newest = last.entry((entry.client, entry.connection, lane)).or_insert(seq);
        verdict.reordered.add(u64::from(seq < *newest), || {
            format!(
                "client {}, connection {}: {seq} of lane {lane} after {newest}",
                entry.client, entry.connection
            )
        });
        *newest = seq.max(*newest);
    }
}

#[cfg(test)]
#[path = "oracle/tests.rs"]
mod tests;
