//! A scenario from its start to its verdict: load, a fault that a test brings about, what comes back and when, the end.
//!
//! Owns: the order of that, the times that it takes. Must not: know faults. Talks to: `Cluster`, `Crowd`, `Pushers`,
//! the oracle.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use loadgen::{Ended, monotonic_ns};

use super::crowd::{Crowd, SILENCE};
use super::descriptors::Descriptors;
use super::outcome::{Bounds, Figures};
use super::presence;
use super::pushers::{PushLoad, Pushers};
use super::repeats::{Times, clients};
use super::{Cluster, ClusterPlan, Part};
use crate::grpc::{Controller, total};
use crate::oracle::{Push, Records, Said, Verdict, judge};
use crate::{eventually, eventually_every};

/// Pushes a second through each push manager.
const RATE: f64 = 30.0;

/// How long the first joins may take.
const JOIN_ALL: Duration = Duration::from_secs(60);

/// How many clients leave and join anew where joins are to work.
const REJOINING: usize = 60;

/// How long a connection must last past the answer to a push for the push to have to be there.
const MARGIN: Duration = Duration::from_millis(1_500);

/// How long nodes, controllers and routes may take to be empty when all clients have left.
const EMPTY: Duration = Duration::from_secs(15);

/// How often what costs something is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// For how long no push may have gone to a node that is said to be out of routing.
const UNROUTED: Duration = Duration::from_secs(1);

/// What a scenario starts with.
#[derive(Debug, Clone)]
pub struct DrillPlan {
    /// The cluster.
    pub cluster: ClusterPlan,
    /// How many clients.
    pub clients: usize,
    /// How long a client that is lost waits at most before each attempt.
    pub jitter: Duration,
    /// All clients go to this node first.
    pub begin_at: Option<usize>,
}

impl Default for DrillPlan {
    fn default() -> Self {
        let (cluster, jitter) = (ClusterPlan::default(), Duration::from_secs(2));
        Self { cluster, clients: clients(), jitter, begin_at: None }
    }
}

/// A scenario under way.
pub struct Drill {
    /// The cluster.
    pub cluster: Cluster,
    /// The clients.
    pub crowd: Crowd,
    /// How long things last.
    pub times: Times,
    /// What was measured so far.
    pub figures: Figures,
    name: String,
    pushers: Pushers,
    /// What was open before the clients came.
    descriptors: Descriptors,
    /// When the last fault was.
    fault_ns: u64,
}

impl Drill {
    /// Starts the cluster, lets the clients join, and pushes for a while.
    pub async fn begin(name: &str, plan: DrillPlan) -> Self {
        let cluster = Cluster::start(plan.cluster).await;
        let descriptors = Descriptors::of(&cluster);
        let crowd = Crowd::connect(&client_addresses(&cluster), plan.clients, plan.jitter, plan.begin_at);
        crowd.all_connected(JOIN_ALL).await;
        let managers: Vec<SocketAddr> = cluster.managers.iter().map(|manager| manager.grpc).collect();
        let users = crowd.clients.iter().map(|client| client.user.clone()).collect();
        let pushers = Pushers::start(&managers, &PushLoad { rate: RATE, rooms: crowd.rooms(), users });
        let (times, figures, name) = (Times::from_env(), Figures::default(), name.to_owned());
        let fault_ns = monotonic_ns();
        let mut drill = Self { cluster, crowd, times, figures, name, pushers, descriptors, fault_ns };
        drill.presence_agrees(Duration::from_secs(10)).await;
        drill.load().await;
        drill
    }

    /// Goes on under load for a while.
    pub async fn load(&self) {
        tokio::time::sleep(self.times.load).await;
    }

    /// Goes on under load for so long.
    pub async fn load_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// A fault comes now: times and losses count from here.
    pub fn fault(&mut self) {
        self.fault_ns = monotonic_ns();
    }

    /// How long ago the fault was.
    pub fn since_fault(&self) -> Duration {
        Duration::from_nanos(monotonic_ns() - self.fault_ns)
    }

    /// Kills a part, and waits until that has bitten: for a node, until its clients are gone.
    pub async fn kill(&mut self, part: Part) {
        let clients = match part {
            Part::Node(place) => self.crowd.by_node()[place],
            Part::Controller(_) | Part::Manager(_) => 0,
        };
        self.fault();
        self.cluster.kill(part);
        self.has_bitten(clients, Duration::from_secs(10)).await;
    }

    /// How many connections have ended since the fault.
    pub fn lost(&mut self) -> usize {
        let since = self.fault_ns;
        self.crowd.spans().ended_since(since).count()
    }

    /// Waits until at least so many connections have ended since the fault: it bit.
    pub async fn has_bitten(&mut self, connections: usize, within: Duration) {
        let what = format!("{}: {connections} connections are lost", self.name);
        eventually_every(LOOK, &what, within, async || {
            let lost = self.lost();
            if lost >= connections { Ok(()) } else { Err(lost) }
        })
        .await;
    }

    /// Waits until every client is connected, and notes how long those were away that lost their connection.
    pub async fn all_are_back(&mut self, within: Duration) {
        self.crowd
            .all_connected(within.saturating_sub(self.since_fault()).max(Duration::from_millis(1)))
            .await;
        let (since, took) = (self.fault_ns, self.since_fault());
        let away = self.crowd.spans().away_since(since);
        if let (Some(middle), Some(worst)) = (away.get(away.len() / 2), away.last()) {
            self.figures.note("clients away, median", *middle);
            self.figures.note("clients away, worst", *worst);
            self.figures.note("from the fault until all are back", took);
        }
    }

    /// Waits until each controller that runs lists exactly those who are connected, and notes how long after the fault
    /// that was, which may be `within` of it; clients may not come or go meanwhile.
    pub async fn presence_is_right(&mut self, figure: &str, within: Duration) {
        self.presence_agrees(within.saturating_sub(self.since_fault()).max(LOOK)).await;
        let took = self.since_fault();
        self.figures.note(format!("presence is right, {figure}"), took);
    }

    async fn presence_agrees(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        for place in 0..self.cluster.controllers.len() {
            let service = &mut self.cluster.controllers[place];
            if service.process.exited().is_some() {
                continue;
            }
            let (address, what) = (service.grpc, format!("{}: the presence of {}", self.name, service.id));
            let crowd = &mut self.crowd;
            let left = deadline.saturating_duration_since(Instant::now()).max(LOOK);
            eventually_every(LOOK, &what, left, async || {
                let controller = Controller::connect(address).await.map_err(|error| error.to_string())?;
                let said = presence::read(&controller).await.map_err(|status| status.to_string())?;
                let spans = crowd.spans();
                let is = presence::connected(&crowd.clients, &spans);
                presence::wrong(&said, &is).map_or(Ok(()), Err)
            })
            .await;
        }
    }

    /// Some clients leave and join anew, which must work now.
    pub async fn some_join(&mut self, within: Duration) {
        let (since, joining) = (monotonic_ns(), REJOINING.min(self.crowd.clients.len()));
        self.crowd.rejoin(0..joining);
        let what = format!("{}: {joining} clients join anew", self.name);
        eventually_every(LOOK, &what, within, async || {
            let spans = self.crowd.spans();
            let anew = |client: &usize| spans.of(*client).last().is_some_and(|span| span.from_ns > since);
            let joined = (0..joining).filter(anew).count();
            if joined >= joining { Ok(()) } else { Err(joined) }
        })
        .await;
    }

    /// How connections have ended since the fault, and how often.
    pub fn endings(&mut self) -> BTreeMap<String, usize> {
        let (since, mut endings) = (self.fault_ns, BTreeMap::new());
        for span in self.crowd.spans().ended_since(since) {
            *endings.entry(span.how.as_ref().map(Ended::name).unwrap_or_default()).or_default() += 1;
        }
        endings
    }

    /// Reports since the fault, and how many of them say that their routes were stale.
    pub fn reports(&self) -> (usize, usize) {
        let pushes = self.pushers.so_far();
        let since = pushes.iter().filter(|push| push.sent_ns >= self.fault_ns);
        let stale = since.filter_map(|push| match &push.said {
            Said::Report(report) => Some(report.routes_stale_ms > 0),
            Said::Refused(_) | Said::Nothing(_) | Said::Forgotten(_) => None,
        });
        stale.fold((0, 0), |(all, stale), is| (all + 1, stale + usize::from(is)))
    }

    /// Pushes went on: so large a share of what was due since the fault was reported, 0 to 1.
    pub fn pushes_went_on(&self, share: f64) {
        let due = RATE * self.cluster.managers.len() as f64 * self.since_fault().as_secs_f64();
        let (reports, _) = self.reports();
        assert!(reports as f64 >= share * due, "{}: {reports} reports of {due:.0} pushes", self.name);
    }

    /// Waits until pushes no more go to a node that is dead, and notes since when: `within` of the fault.
    pub async fn is_unrouted(&mut self, node: usize, within: Duration) {
        let (id, since) = (self.cluster.nodes[node].id.clone(), self.fault_ns);
        let what = format!("{}: {id} is out of routing", self.name);
        let last = eventually_every(LOOK, &what, within + 10 * UNROUTED, async || {
            let records = self.pushers.so_far();
            let last = last_handed_to(&records, &id, since);
            let quiet = monotonic_ns().saturating_sub(last) > UNROUTED.as_nanos() as u64;
            let recent = records.iter().filter(|push| push.sent_ns > last && is_reported(push)).count();
            if quiet && recent > 10 { Ok(last) } else { Err(recent) }
        })
        .await;
        let took = Duration::from_nanos(last - since);
        assert!(took <= within, "{}: {id} is out of routing after {took:?}", self.name);
        self.figures.note("out of routing", took);
    }

    /// What was said of pushes so far.
    pub fn pushes(&self) -> Vec<Push> {
        self.pushers.so_far()
    }

    /// Ends it: everything is there again, everyone is reached once more, nobody is left when all have gone; then all
    /// that was recorded is judged. Panics where anything is wrong.
    pub async fn end(mut self, bounds: Bounds) -> Figures {
        self.cluster.whole().await;
        self.crowd.all_connected(bounds.back).await;
        self.presence_agrees(bounds.presence).await;
        self.load().await;
        self.roll_call().await;
        let pushes = self.pushers.stop().await;
        // What was pushed last may be on its way to the last of its readers.
        tokio::time::sleep(MARGIN).await;
        let nodes = self.cluster.node_ids();
        let clients = self.crowd.clients.clone();
        let verdict = judge(&Records {
            nodes: &nodes,
            clients: &clients,
            entries: self.crowd.entries(),
            pushes: &pushes,
            margin: MARGIN,
            silence: SILENCE,
        });
        tell(&self.name, &verdict);
        let wrongs = bounds.check(&verdict);
        assert!(wrongs.is_empty(), "{}:\n  {}", self.name, wrongs.join("\n  "));
        self.crowd.leave_all().await;
        nothing_is_left(&mut self.cluster).await;
        eventually("no descriptors are left open", EMPTY, async || {
            let grown = self.descriptors.grown(&Descriptors::of(&self.cluster));
            if grown.is_empty() { Ok(()) } else { Err(grown) }
        })
        .await;
        self.figures
    }

    /// A push to everyone through each push manager is written to all, by fresh routes.
    async fn roll_call(&self) {
        for place in 0..self.cluster.managers.len() {
            let pusher = self.cluster.pusher(place).await;
            let what =
                format!("{}: everyone is reached through {}", self.name, self.cluster.managers[place].id);
            eventually(&what, Duration::from_secs(10), async || {
                let answer = pusher.all(b"roll call", 5_000).await.map_err(|status| status.to_string())?;
                let (outcomes, all) = (total(&answer.report), self.crowd.live() as u64);
                let whole = (outcomes.members, outcomes.written) == (all, all);
                if whole { Ok(()) } else { Err(format!("{outcomes:?} of {all}")) }
            })
            .await;
        }
    }
}

/// Where clients connect, by the nodes' places.
fn client_addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    let address = |place: usize| match &cluster.isolated {
        Some(isolated) if isolated.place == place => isolated.client_address(),
        _ => cluster.nodes[place].http,
    };
    (0..cluster.nodes.len()).map(address).collect()
}

/// When the last push since then left that was handed to this node.
fn last_handed_to(records: &[Push], node: &str, since_ns: u64) -> u64 {
    let handed = |push: &&Push| match &push.said {
        Said::Report(report) => report.nodes.iter().filter(|line| line.node_id == node).any(|line| {
            let outcomes = line.outcomes.unwrap_or_default();
            outcomes.written + outcomes.queued + outcomes.unknown > 0
        }),
        Said::Refused(_) | Said::Nothing(_) | Said::Forgotten(_) => false,
    };
    let since = records.iter().filter(|push| push.sent_ns >= since_ns).filter(handed);
    since.map(|push| push.sent_ns).max().unwrap_or(since_ns)
}

fn is_reported(push: &Push) -> bool {
    matches!(push.said, Said::Report(_))
}

fn tell(name: &str, verdict: &Verdict) {
    println!(
        "{name}: {} pushes, {} unanswered; {} receipts of {} that had to be, announced losses {:?}, {} again on another \
         connection",
        verdict.pushes,
        verdict.unanswered,
        verdict.received,
        verdict.expected,
        verdict.announced,
        verdict.again
    );
}

/// No session, room or route is left anywhere, and every service is registered once.
async fn nothing_is_left(cluster: &mut Cluster) {
    for node in &cluster.nodes {
        eventually(&format!("{} is empty", node.id), EMPTY, async || {
            let stats = node.stats().map_err(|error| error.to_string())?;
            let left = ["connections", "users", "rooms"].map(|key| stats[key].as_u64());
            if left == [Some(0); 3] { Ok(()) } else { Err(stats.to_string()) }
        })
        .await;
    }
    for place in 0..cluster.controllers.len() {
        let controller = cluster.controller(place).await;
        eventually(&format!("{} lists nobody", cluster.controllers[place].id), EMPTY, async || {
            let left = presence::read(&controller).await.map_err(|status| status.to_string())?;
            let empty = left.sessions == 0 && left.rooms.is_empty();
            if empty { Ok(()) } else { Err(format!("{} sessions, {:?}", left.sessions, left.rooms)) }
        })
        .await;
    }
    eventually("Redis holds nodes only", EMPTY, async || {
        let mut left = cluster.redis_keys("ringcast:{r:*");
        left.extend(cluster.redis_keys("ringcast:{u:*"));
        left.extend(cluster.redis_keys("ringcast:{n:*}:sessions"));
        let links = cluster.redis_keys("ringcast:{n:*}:link");
        let all = left.is_empty() && links.len() == cluster.nodes.len();
        if all { Ok(()) } else { Err(format!("{left:?}, {links:?}")) }
    })
    .await;
    let services = cluster.controllers.len() + cluster.managers.len() + cluster.nodes.len();
    eventually("etcd holds the services that run", EMPTY, async || {
        let keys = cluster.etcd.get_prefix("/ringcast/");
        if keys.len() == services { Ok(()) } else { Err(format!("{keys:?}")) }
    })
    .await;
    for manager in &cluster.managers {
        eventually(&format!("{} has no routes", manager.id), EMPTY, async || {
            let left =
                ["ringcast_push_routes_rooms", "ringcast_push_routes_users"].map(|name| manager.metric(name));
            match left {
                [Ok(0.0), Ok(0.0)] => Ok(()),
                left => Err(format!("{left:?}")),
            }
        })
        .await;
    }
}
