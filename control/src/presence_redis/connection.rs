//! The connection to Redis: made in the background, made again when it breaks, and never waited for beyond a deadline.
//!
//! Owns: how many calls are in flight, the deadline, what counts as a broken connection, and the count of words that
//! were lost, by which late ones are told from new ones.
//! Must not: know what is sent.
//! Talks to: `dial`, which makes connections.
//!
//! A call that has no answer within its deadline may still be carried out, even after the next one: the server may
//! have been stopped, or the kernel may deliver old bytes long after. So the connection is given up then, and every
//! call that fails so raises the count.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::{Connection, Dialer};
use crate::log_gate::LogGate;
use crate::presence_store::PresenceError;

/// Calls in flight at once; more fail.
const MAX_CALLS: usize = 64;

/// How long one attempt to connect may take, with all that sentinels or a cluster's members are asked.
const DIAL_WITHIN: Duration = Duration::from_secs(3);

/// A connection that broke sooner than this is not made again at once.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// The delays grow no more after so many.
const MOST_SKIPPED: u32 = 8;

/// What the connection is.
#[derive(Clone)]
enum State {
    /// Being made; no attempt has failed since the last one was there.
    Dialing,
    Up(Arc<Up>),
    /// Cannot be made, for this reason; it is tried for ever.
    Away(Arc<str>),
}

struct Up {
    /// How many there have been.
    number: u64,
    connection: Connection,
    since: Instant,
}

struct Shared {
    dialer: Dialer,
    deadline: Duration,
    state: watch::Sender<State>,
    lost: AtomicU32,
    /// How many connections in a row were of use for a short time only.
    short_lived: AtomicU32,
    losses: LogGate,
    connections: LogGate,
}

/// The connection; it is let go with the last of these.
pub(super) struct Redis {
    shared: Arc<Shared>,
    calls: Semaphore,
}

/// What came of a call.
pub(super) struct Answers {
    /// The number of the connection, from 1 on.
    pub(super) connection: u64,
    /// An answer for each command of each stage.
    pub(super) stages: Vec<Vec<Value>>,
}

impl Redis {
    /// Begins to connect.
    pub(super) fn new(dialer: Dialer, deadline: Duration) -> Self {
        let shared = Arc::new(Shared {
            dialer,
            deadline,
            state: watch::Sender::new(State::Dialing),
            lost: AtomicU32::new(0),
            short_lived: AtomicU32::new(0),
            losses: LogGate::default(),
            connections: LogGate::default(),
        });
        tokio::spawn(keep_dialing(Arc::downgrade(&shared), 1, 0));
        Self { shared, calls: Semaphore::new(MAX_CALLS) }
    }

    /// The same connection for other calls, which have a bound of their own: a flood of these does not keep those
    /// out.
    pub(super) fn for_others(&self) -> Self {
        Self { shared: self.shared.clone(), calls: Semaphore::new(MAX_CALLS) }
    }

    /// When a call that begins now has to be over.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.shared.deadline
    }

    /// Whether all keys are on one server.
    pub(super) fn is_one_server(&self) -> bool {
        !matches!(self.shared.dialer, Dialer::Cluster(_))
    }

    /// How often words have been lost so far.
    pub(super) fn lost(&self) -> u32 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Sends commands; fails where one of them does.
    pub(super) async fn send(&self, commands: Vec<Cmd>, until: Instant) -> Result<Vec<Value>, PresenceError> {
        let answers = self.send_in_stages(vec![commands], until, |_| true).await?;
        Ok(answers.stages.into_iter().next().unwrap_or_default())
    }

    /// Sends commands of several stages, a later stage after a former. To a single server all go as one pipeline. In
    /// a cluster, where only commands of one key keep their order, a stage is awaited before the next is sent; the
    /// others are left out, and their answers missing, where the first stage says not to go on.
    pub(super) async fn send_in_stages(
        &self,
        stages: Vec<Vec<Cmd>>,
        until: Instant,
        go_on: impl Fn(&[Value]) -> bool,
    ) -> Result<Answers, PresenceError> {
        let Ok(_permit) = self.calls.try_acquire() else {
            return Err(PresenceError(format!(
                "{MAX_CALLS} calls are in flight: Redis is too slow for more"
            )));
        };
        let up = self.up(until).await?;
        // Also where the caller lets go of this call half-way.
        let mut loss = Loss { shared: &self.shared, up: &up, happened: true, broke: None };
        let outcome = timeout_at(until, stage_by_stage(up.connection.clone(), stages, go_on)).await;
        match outcome {
            Ok(Ok(stages)) => {
                loss.happened = false;
                Ok(Answers { connection: up.number, stages })
            }
            Ok(Err(error)) => {
                if breaks(&error) {
                    loss.broke = Some(error.to_string());
                }
                Err(PresenceError(error.to_string()))
            }
            Err(_) => {
                let why = format!("no answer within {} ms", self.shared.deadline.as_millis());
                loss.broke = Some(why.clone());
                Err(PresenceError(why))
            }
        }
    }

    /// The connection, waited for while it is being made and no attempt has failed.
    async fn up(&self, until: Instant) -> Result<Arc<Up>, PresenceError> {
        let mut states = self.shared.state.subscribe();
        let settled = states.wait_for(|state| !matches!(state, State::Dialing));
        match timeout_at(until, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(up) => Ok(up.clone()),
                State::Away(why) => Err(PresenceError(format!("no connection: {why}"))),
                State::Dialing => Err(PresenceError("no connection".into())),
            },
            _ => Err(PresenceError("no connection yet".into())),
        }
    }
}

/// Counts a call that was sent and of which nobody knows what became.
struct Loss<'a> {
    shared: &'a Arc<Shared>,
    up: &'a Arc<Up>,
    happened: bool,
    /// Why the connection is of no use any more.
    broke: Option<String>,
}

impl Drop for Loss<'_> {
    fn drop(&mut self) {
        if self.happened {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(why) = self.broke.take() {
            give_up(self.shared, self.up, &why);
        }
    }
}

/// Lets a connection go and begins to make the next one, unless another call has done so.
fn give_up(shared: &Arc<Shared>, broken: &Arc<Up>, why: &str) {
    let short_lived = broken.since.elapsed() < SHORT_LIVED;
    let mut in_a_row = 0;
    let given_up = shared.state.send_if_modified(|state| {
        let current = matches!(state, State::Up(up) if up.number == broken.number);
        if current {
            *state = if short_lived { State::Away(why.into()) } else { State::Dialing };
            in_a_row = if short_lived { shared.short_lived.load(Ordering::Relaxed) + 1 } else { 0 };
            shared.short_lived.store(in_a_row, Ordering::Relaxed);
        }
        current
    });
    if given_up {
        if let Some(left_out) = shared.losses.open() {
            tracing::warn!(why, left_out, "lost the connection to redis; joins are refused until it is back");
        }
        tokio::spawn(keep_dialing(Arc::downgrade(shared), broken.number + 1, in_a_row));
    }
}

/// Connects, as often as it takes. After connections that were of use for a short time only, so many in a row, it waits
/// before it does: a server may take connections and nothing else.
async fn keep_dialing(shared: Weak<Shared>, number: u64, short_lived: u32) {
    let mut wait = short_lived > 0;
    for delay in delays().skip(short_lived.saturating_sub(1).min(MOST_SKIPPED) as usize) {
        if wait {
            tokio::time::sleep(delay).await;
        }
        let Some(shared) = shared.upgrade() else { return };
        let why = match timeout(DIAL_WITHIN, shared.dialer.dial()).await {
            Ok(Ok(connection)) => {
                if let Some(left_out) = shared.connections.open() {
                    tracing::info!(left_out, "connected to redis");
                }
                let up = Up { number, connection, since: Instant::now() };
                shared.state.send_replace(State::Up(Arc::new(up)));
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", DIAL_WITHIN.as_secs()),
        };
        let first = !matches!(&*shared.state.borrow(), State::Away(_));
        if first {
            tracing::warn!(why, "cannot connect to redis; trying again");
        }
        shared.state.send_replace(State::Away(why.into()));
        wait = true;
    }
}

/// 50 ms to 1 s, for ever.
fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        // Its own seed is the same in every process.
        .with_jitter_seed(fastrand::u64(..))
        .without_max_times()
        .build()
}

async fn stage_by_stage(
    mut connection: Connection,
    stages: Vec<Vec<Cmd>>,
    go_on: impl Fn(&[Value]) -> bool,
) -> RedisResult<Vec<Vec<Value>>> {
    if !connection.is_cluster() {
        let sizes: Vec<usize> = stages.iter().map(Vec::len).collect();
        let mut answers = answer(&mut connection, stages.into_iter().flatten().collect()).await?.into_iter();
        return Ok(sizes.into_iter().map(|size| answers.by_ref().take(size).collect()).collect());
    }
    let mut all = Vec::with_capacity(stages.len());
    for stage in stages {
        all.push(answer(&mut connection, stage).await?);
        if !go_on(&all[0]) {
            break;
        }
    }
    Ok(all)
}

/// The answers to commands, those that miss a script sent once more when the scripts are there.
async fn answer(connection: &mut Connection, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
    let mut answers = connection.exchange(commands.clone()).await?;
    let misses = |answer: &RedisResult<Value>| {
        answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
    };
    let missing: Vec<usize> = (0..answers.len()).filter(|place| misses(&answers[*place])).collect();
    if !missing.is_empty() {
        connection.load_scripts().await?;
        let again = missing.iter().map(|place| commands[*place].clone()).collect();
        for (place, value) in missing.iter().zip(connection.exchange(again).await?) {
            answers[*place] = value;
        }
    }
    answers.into_iter().collect()
}

/// Whether a failure is one of the connection or of its server, and another connection may do better: also where the
/// server is a replica now, is loading, cannot save, or has lost its cluster.
fn breaks(error: &RedisError) -> bool {
    let of_server = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
        )
    );
    of_server
        || error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(error.code(), Some("MISCONF" | "NOAUTH"))
}
