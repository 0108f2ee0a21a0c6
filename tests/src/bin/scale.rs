//! What one machine holds: a controller, a push manager and one node, as many joined clients as are asked for, and
//! what all of it costs. `cargo xtask scale` starts it with the machine prepared.
//!
//! Owns: the course of a run and its figures. Must not: set anything of the machine: it runs in a network of its own,
//! whose settings go with it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use loadgen::{Fleet, FleetPlan, PublishPlan, Publisher, PushResult, Reconnect, Target, Totals, Via};
use ringcast_proto::pubsub::Outcomes;
use ringcast_tests::procfs::{cpu_seconds, memory, rss_bytes};
use ringcast_tests::{Service, System, SystemPlan, enter_own_network};

/// Members of a room.
const ROOM: usize = 1_000;

/// Pushes to rooms, and how many a second.
const ROOM_PUSHES: u64 = 200;
const ROOM_PUSHES_PER_SECOND: f64 = 10.0;

/// Rooms that are pushed to again and again.
const SAME_ROOMS: usize = 10;

/// On a machine that is busy with pings alone, a push waits for a turn of each shard.
const ROOM_DEADLINE: Duration = Duration::from_secs(10);

/// Pushes to everybody; the report of one has to come within the longest deadline that there is.
const BROADCASTS: u64 = 2;
const BROADCAST_DEADLINE: Duration = Duration::from_secs(60);

/// Deliveries a second for which the time between two of them, and for a pong meanwhile, is made.
const BROADCAST_PER_SECOND: f64 = 20_000.0;

/// How long a pong may take, in seconds, as the node has it by itself; longer here where a push to everybody fills the
/// cores for longer than that, because the clients, which are late then, have no machine of their own.
const USUAL_PONG_S: u64 = 10;

/// Joins that may be under way: more only wait in the node's queues.
const JOINS_UNDER_WAY: usize = 600;

/// How a client comes back that was refused for the moment (503 with Retry-After).
const COMING_BACK: Reconnect = Reconnect { min: Duration::from_millis(500), max: Duration::from_secs(5) };

/// Connects a second: no schedule, as fast as they are answered.
const AT_ONCE: f64 = 1e6;

/// What a network of our own is set to.
const NETWORK: [(&str, &str); 3] = [
    ("core/somaxconn", "4096"),
    ("ipv4/tcp_max_syn_backlog", "8192"),
    // Clients that wait where a full shard stops listening go to another one.
    ("ipv4/tcp_migrate_req", "1"),
];

/// How often the node is asked for a figure.
const ASKED: usize = 5;

/// Without one more client for this long, the run is over.
const STALL: Duration = Duration::from_secs(60);

struct Args {
    clients: usize,
    shards: u16,
    ping_s: u64,
    hold: Duration,
    steer: bool,
}

fn args() -> Result<Args> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| {
        args.next().with_context(|| format!("usage: scale CLIENTS SHARDS PING_S HOLD_S STEER: no {what}"))
    };
    Ok(Args {
        clients: next("CLIENTS")?.parse()?,
        shards: next("SHARDS")?.parse()?,
        ping_s: next("PING_S")?.parse()?,
        hold: Duration::from_secs(next("HOLD_S")?.parse()?),
        steer: next("STEER, true or false")?.parse()?,
    })
}

fn main() -> Result<()> {
    let args = args()?;
    prepare_network()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(until_ended(&args))
}

/// Enters a network of our own before anything else runs here: its table of connections is as large as this run
/// needs, and its ports are nobody else's.
fn prepare_network() -> Result<()> {
    let network = || std::fs::read_link("/proc/thread-self/ns/net");
    let machines = network()?;
    enter_own_network();
    if network()? != machines {
        for (name, value) in NETWORK {
            std::fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

async fn until_ended(args: &Args) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    // What was started ends with the run, also where that is left.
    tokio::select! {
        run = run(args) => run,
        _ = terminate.recv() => bail!("ended by SIGTERM"),
        _ = tokio::signal::ctrl_c() => bail!("ended by Ctrl+C"),
    }
}

async fn run(args: &Args) -> Result<()> {
    let Args { clients, shards, ping_s, hold, steer } = *args;
    let spare = clients / 20 + 1000;
    let broadcast_s = clients as f64 / BROADCAST_PER_SECOND;
    let pong_s = USUAL_PONG_S.max(broadcast_s as u64).min(ping_s);
    let plan = SystemPlan::nodes(1)
        .shards(shards)
        .limit(&format!("max_connections: {}", clients + spare))
        .limit(&format!("ping_interval: {ping_s}s"))
        .limit(&format!("pong_timeout: {pong_s}s"));
    let system = System::start(plan).await;
    for service in [&system.control, &system.push] {
        put_first(&threads(service.process.pid())?)?;
    }
    let meter = Meter::new(&system);
    let empty = meter.read()?;
    println!(
        "{clients} clients, rooms of {ROOM}, one node of {shards} shards, pings after {ping_s} s, {pong_s} s for a pong"
    );

    let began = Instant::now();
    let mut plan = FleetPlan::new(system.nodes[0].http, clients, "u", |number| format!("r{}", number / ROOM));
    (plan.rate, plan.max_open, plan.connect_timeout) = (AT_ONCE, JOINS_UNDER_WAY, STALL);
    plan.reconnect = Some(COMING_BACK);
    // The backend that pushes has a machine of its own in life: it is not to wait behind the clients.
    let backend = threads(std::process::id())?;
    let fleet = Fleet::connect(plan)?;
    put_first(&backend)?;
    join_all(&fleet, clients).await?;
    let joined = meter.read()?;
    println!("all joined after {:.1} s", began.elapsed().as_secs_f64());
    joined.tell_growth(&empty, clients);

    let mut ping_s = held(&meter, hold, "idle, with pings").await?;
    meter.read()?.tell_growth(&empty, clients);
    if steer {
        steer_receiving(&meter)?;
        ping_s = held(&meter, hold, "idle, with pings, steered").await?;
    }

    for service in [&system.control, &system.push] {
        run_at_once(&threads(service.process.pid())?)?;
    }
    run_at_once(&bridge(system.nodes[0].process.pid())?)?;
    run_at_once(&backend)?;
    let rooms = clients.div_ceil(ROOM);
    let publisher = system.publisher().await;
    let mut due = 0;
    // Beside rooms that were not touched for a while, as many rooms at every size, pushed to again and again: what size
    // costs apart from the pushed sockets being cold.
    let turns = [("pushes to rooms", ROOM_PUSHES as usize), ("pushes to the same ten rooms", SAME_ROOMS)];
    for (turn, (what, most)) in turns.into_iter().enumerate() {
        let pushed = most.min(rooms);
        let first_stream = 10 + (turn * rooms) as u32;
        let room = move |number: u64| number as usize % pushed * (rooms / pushed);
        let plan = PublishPlan::to(Target::All, 0, ROOM_PUSHES, ROOM_PUSHES_PER_SECOND);
        let mut plan = plan.deadline_ms(ROOM_DEADLINE.as_millis() as u32);
        plan.aim = std::sync::Arc::new(move |number| loadgen::Aim {
            target: Target::Room { room: format!("r{}", room(number)), exclude: Vec::new() },
            stream: first_stream + room(number) as u32,
            seq: number / pushed as u64,
        });
        let members = |number| ROOM.min(clients - room(number) * ROOM) as u64;
        let all = (0..ROOM_PUSHES).map(members).sum();
        pushes(&meter, &publisher, plan, all, ping_s, what).await?;
        due += all;
    }
    nothing_lost(&fleet, clients, due).await?;
    let apart_s = BROADCAST_DEADLINE.as_secs_f64().min(1.0 + broadcast_s);
    let plan = PublishPlan::to(Target::All, 1, BROADCASTS, 1.0 / apart_s).via(Via::Unary);
    let plan = plan.deadline_ms(BROADCAST_DEADLINE.as_millis() as u32);
    let everyone = BROADCASTS * clients as u64;
    pushes(&meter, &publisher, plan, everyone, ping_s, "pushes to everybody").await?;
    nothing_lost(&fleet, clients, due + everyone).await
}

/// Waits, and tells what the pings cost meanwhile; returns the seconds of the node's CPU for one, 0 where there was none.
async fn held(meter: &Meter<'_>, hold: Duration, when: &str) -> Result<f64> {
    let before = meter.read()?;
    tokio::time::sleep(hold).await;
    let after = meter.read()?;
    after.tell_cores(&before, when);
    let pings = after.pings - before.pings;
    if pings < 1.0 {
        println!("no pings in {hold:?}: none are taken off below");
        return Ok(0.0);
    }
    let (seconds, each) = (after.since(&before), after.cpu(&before, NODE) / pings);
    println!("{:.0} pings a second, {:.1} us of the node's CPU each", pings / seconds, each * 1e6);
    Ok(each)
}

/// Gives the node the first core for itself, and has the others do the receiving half of TCP, which on a loopback the
/// sender pays for and on a line never does: what the node itself costs is seen then. The setting is one of this run's
/// own network and goes with it.
fn steer_receiving(meter: &Meter<'_>) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let others = format!("1-{}", cores - 1);
    for (at, pid) in meter.pids.into_iter().enumerate() {
        let cores = if at == NODE { "0" } else { &others };
        tell("taskset", &["--all-tasks", "--cpu-list", "--pid", cores, &pid.to_string()])?;
    }
    // The files below /sys are those of the network in which they were mounted.
    let mask = (1_u64 << cores.min(32)) - 2;
    let set = format!("mount -t sysfs sysfs /sys && echo {mask:x} > /sys/class/net/lo/queues/rx-0/rps_cpus");
    tell("unshare", &["--mount", "sh", "-c", &set])
}

/// Runs a command of the machine's.
fn tell(program: &str, args: &[&str]) -> Result<()> {
    let told = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    ensure!(told.status.success(), "{program} {}: {}", args.join(" "), String::from_utf8_lossy(&told.stderr));
    Ok(())
}

/// Gives threads the share of the cores that they have where they do not run beside a hundred threads of clients and
/// shards, each of which the kernel gives as much as any of them.
fn put_first(threads: &[String]) -> Result<()> {
    let threads = threads.iter().map(String::as_str);
    tell("renice", &["--priority", "-10", "--pid"].into_iter().chain(threads).collect::<Vec<_>>())
}

/// Has threads run as soon as they have something to do. A share is not enough in a push to everybody: a push manager that is
/// runnable and waits for a second and more finds its links' keepalive expired, whatever lies in the sockets. Not while
/// clients join: whoever runs at each word handles the words one by one.
fn run_at_once(threads: &[String]) -> Result<()> {
    threads.iter().try_for_each(|thread| tell("chrt", &["--rr", "--pid", "1", thread]))
}

/// The thread of a node's bridge.
fn bridge(pid: u32) -> Result<Vec<String>> {
    let called = |thread: &String| std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"));
    let is_bridge = |thread: &String| called(thread).is_ok_and(|name| name.trim() == "bridge");
    let bridge: Vec<_> = threads(pid)?.into_iter().filter(is_bridge).collect();
    ensure!(!bridge.is_empty(), "the node has no bridge");
    Ok(bridge)
}

/// The threads that a process has now.
fn threads(pid: u32) -> Result<Vec<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks.map(|task| Ok(task?.file_name().to_string_lossy().into_owned())).collect()
}

/// Waits until all are there; says how far it is now and then.
async fn join_all(fleet: &Fleet, clients: usize) -> Result<()> {
    let (began, mut told, mut best) = (Instant::now(), 0, (0, Instant::now()));
    loop {
        let totals = fleet.totals();
        if totals.live >= clients {
            let Totals { refused, broken, reconnects, .. } = totals;
            println!("{reconnects} came back: {refused} were told to, {broken} had lost their connection");
            return Ok(());
        }
        if totals.live > best.0 {
            best = (totals.live, Instant::now());
        }
        // Where the cores are full, a join may take longer than the node waits for one; such a client comes back, too.
        ensure!(best.1.elapsed() < STALL, "not all could join: {totals:?}");
        if totals.live * 10 / clients > told {
            told = totals.live * 10 / clients;
            let seconds = began.elapsed().as_secs_f64();
            println!("{} joined, {:.0} a second", totals.live, totals.live as f64 / seconds);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Makes pushes, checks what their reports say, and tells what a delivery costs beside the pings that were sent meanwhile.
async fn pushes(
    meter: &Meter<'_>,
    publisher: &Publisher,
    plan: PublishPlan,
    due: u64,
    ping_s: f64,
    what: &str,
) -> Result<()> {
    let before = meter.read()?;
    let pushed = publisher.publish(plan).await?;
    let after = meter.read()?;
    let seconds = after.since(&before);
    let cpu = after.cpu(&before, NODE) - (after.pings - before.pings) * ping_s;
    println!(
        "{what}: {due} deliveries in {seconds:.1} s, {:.1} us of the node's CPU each (pings taken off); answered {}",
        cpu / due as f64 * 1e6,
        pushed.answered
    );
    let expected = Outcomes { members: due, written: due, ..Outcomes::default() };
    let why = pushed.results.iter().find_map(|(number, result)| match result {
        PushResult::Refused(code, message) | PushResult::Unknown(code, message) => {
            Some(format!(", push {number}: code {code}, {message}"))
        }
        PushResult::Reported(_) => None,
    });
    ensure!(
        pushed.refused() == 0 && pushed.outcomes() == expected,
        "{what}: {} refused or not answered, the others {:?}{}",
        pushed.refused(),
        pushed.outcomes(),
        why.unwrap_or_default()
    );
    Ok(())
}

async fn nothing_lost(fleet: &Fleet, clients: usize, due: u64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut totals = fleet.totals();
    while totals.received < due && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        totals = fleet.totals();
    }
    let Totals { live, received, duplicates, reordered, corrupt, .. } = totals;
    println!(
        "received {received} of {due}, {duplicates} twice, {reordered} out of order, {corrupt} damaged; {live} clients left"
    );
    ensure!((live, received) == (clients, due) && duplicates + reordered + corrupt == 0, "{totals:?}");
    Ok(())
}

/// The processes, by place.
const NAMES: [&str; 4] = ["node", "controller", "push manager", "clients"];
const NODE: usize = 0;
const CLIENTS: usize = 3;

struct Meter<'a> {
    node: &'a Service,
    pids: [u32; 4],
}

struct Reading {
    at: Instant,
    pings: f64,
    rss: [u64; 4],
    cpu: [f64; 4],
    available: u64,
    slab: u64,
}

impl<'a> Meter<'a> {
    fn new(system: &'a System) -> Self {
        let services = [&system.nodes[0], &system.control, &system.push];
        let [node, control, push] = services.map(|service| service.process.pid());
        Self { node: &system.nodes[0], pids: [node, control, push, std::process::id()] }
    }

    /// The node's own count, asked for again where the cores were too full to answer.
    fn pings(&self) -> Result<f64> {
        let mut asked = (0..ASKED).map(|_| self.node.metric("ringcast_node_pings_sent_total"));
        asked.find(Result::is_ok).unwrap_or_else(|| bail!("the node does not answer at its metrics port"))
    }

    fn read(&self) -> Result<Reading> {
        let (mut rss, mut cpu) = ([0; 4], [0.0; 4]);
        for (at, pid) in self.pids.into_iter().enumerate() {
            (rss[at], cpu[at]) = (rss_bytes(pid)?, cpu_seconds(pid)?);
        }
        Ok(Reading {
            at: Instant::now(),
            pings: self.pings()?,
            rss,
            cpu,
            available: memory("MemAvailable")?,
            slab: memory("Slab")?,
        })
    }
}

impl Reading {
    /// What the clients brought along, in memory and, since the same reading, in CPU.
    fn tell_growth(&self, empty: &Self, clients: usize) {
        let each = |bytes: u64| bytes as f64 / clients as f64;
        for (at, name) in NAMES.into_iter().enumerate() {
            println!(
                "{name:<13} RSS {:>8.1} MiB, {:>5.0} B a client; {:>6.1} us of CPU a client",
                self.rss[at] as f64 / f64::from(1 << 20),
                each(self.rss[at].saturating_sub(empty.rss[at])),
                (self.cpu[at] - empty.cpu[at]) / clients as f64 * 1e6,
            );
        }
        println!(
            "kernel        {:.0} B a client in slabs; the machine {:.0} B a client, all processes included",
            each(self.slab.saturating_sub(empty.slab)),
            each(empty.available.saturating_sub(self.available)),
        );
    }

    /// Cores that each process took since an earlier reading.
    fn tell_cores(&self, earlier: &Self, when: &str) {
        let seconds = self.since(earlier);
        let cores: Vec<String> = (NODE..=CLIENTS)
            .map(|at| format!("{} {:.3}", NAMES[at], self.cpu(earlier, at) / seconds))
            .collect();
        println!("cores, {when}: {}", cores.join(", "));
    }

    /// Seconds since an earlier reading.
    fn since(&self, earlier: &Self) -> f64 {
        self.at.duration_since(earlier.at).as_secs_f64()
    }

    fn cpu(&self, earlier: &Self, at: usize) -> f64 {
        self.cpu[at] - earlier.cpu[at]
    }
}
