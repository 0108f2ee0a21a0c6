//! What a shard promises, from the outside: over real sockets, with a bridge that accepts every join.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write as _};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use connect_core::client::client_frame;
use connect_core::frame::OpCode;
use connect_core::{ControlEvent, Delivery, JoinDecision, Report, Target};
use futures_util::{SinkExt, StreamExt};
use ringcast_proto::{RoomId, SessionId, ShardId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::*;
use crate::bridge::{self, AsyncBridgeEnd, FromShard, ToShard, ToShardLane};
use crate::kernel_check::raise_open_files;
use crate::shard_stats::{ShardFigures, ShardStats};

const PATIENCE: Duration = Duration::from_secs(10);

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A shard, and the bridge that it talks to.
struct Rig {
    shard: ShardId,
    to_shard: Arc<ToShardLane>,
    from_shard: AsyncBridgeEnd,
    waiting: VecDeque<FromShard>,
    stats: Arc<ShardStats>,
    listening: SocketAddr,
    thread: JoinHandle<()>,
}

fn start(driver: DriverChoice, listen: SocketAddr, controller: bool) -> anyhow::Result<Rig> {
    // Numbers of their own, so that each test finds its thread by name.
    static NEXT: AtomicU16 = AtomicU16::new(1000);
    raise_open_files()?;
    let shard = ShardId(NEXT.fetch_add(1, Ordering::Relaxed));
    let (handle, end) = bridge::connect(shard)?;
    let status = Arc::new(NodeStatus::new("node".to_owned(), 1, vec![Arc::clone(&handle.stats)]));
    let (clock, limits) = (Clock::start(), Limits::default());
    let started = start_shard(ShardSetup { end, limits, listen, core: None, driver, clock, status })?;
    handle.to_shard.push(ToShard::ControllerReachable(controller))?;
    Ok(Rig {
        shard,
        to_shard: handle.to_shard,
        from_shard: handle.from_shard.into_async()?,
        waiting: VecDeque::new(),
        stats: handle.stats,
        listening: started.listening,
        thread: started.thread,
    })
}

/// Runs a test on a shard of each driver.
async fn on_both<F: Future<Output = ()>>(controller: bool, test: impl Fn(Rig) -> F) {
    let any = "127.0.0.1:0".parse().unwrap();
    timeout(3 * PATIENCE, test(start(DriverChoice::Epoll, any, controller).unwrap())).await.unwrap();
    match start(DriverChoice::IoUring, any, controller) {
        Ok(rig) => timeout(3 * PATIENCE, test(rig)).await.unwrap(),
        Err(error) => println!("only epoll is tested: {error:#}"),
    }
}

impl Rig {
    /// Reads the shard's words until one is what is waited for; accepts every join on the way.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&FromShard) -> Option<T>) -> T {
        loop {
            while let Some(word) = self.waiting.pop_front() {
                if let FromShard::Control(ControlEvent::Join { session, probe: false, .. }) = &word {
                    let (session, decision) = (session.session, JoinDecision::Accepted);
                    self.to_shard.push(ToShard::JoinAnswered { session, decision }).unwrap();
                }
                if let Some(found) = wanted(&word) {
                    return found;
                }
            }
            let next = self.from_shard.next_batch(&mut self.waiting);
            timeout(PATIENCE, next).await.expect("the shard says nothing").unwrap();
        }
    }

    async fn ended(&mut self, of: SessionId) {
        self.until(|word| match word {
            FromShard::Control(ControlEvent::End { session }) if *session == of => Some(()),
            _ => None,
        })
        .await;
    }

    async fn join(&mut self, user: &str) -> (Client, SessionId) {
        let url = format!("ws://{}/ws?user_id={user}&room_id=room", self.listening);
        let (client, session) = tokio::join!(
            timeout(PATIENCE, tokio_tungstenite::connect_async(url)),
            self.until(|word| match word {
                FromShard::Control(ControlEvent::Join { session, .. }) => Some(session.session),
                _ => None,
            })
        );
        (client.unwrap().unwrap().0, session)
    }

    fn deliver(&self, id: u64, payload: &[u8]) {
        self.to_shard.push(delivery(id, payload)).unwrap();
    }

    async fn report(&mut self, id: u64) -> Report {
        self.until(|word| match word {
            FromShard::Report(report) if report.delivery == id => Some(*report),
            _ => None,
        })
        .await
    }

    /// Waits for figures, which the shard publishes when it goes to sleep.
    async fn figures(&self, wanted: impl Fn(&ShardFigures) -> bool) -> ShardFigures {
        let found = async {
            loop {
                let figures = self.stats.read();
                if wanted(&figures) {
                    return figures;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let found = timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("the figures stay at {:?}", self.stats.read()))
    }

    /// What the shard's own table of descriptors holds.
    fn descriptors(&self) -> Vec<String> {
        let name = format!("shard-{}\n", self.shard.0);
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let mut ours =
            tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm == name));
        let fds = std::fs::read_dir(ours.next().unwrap().join("fd")).unwrap();
        let targets = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        targets.map(|target| target.display().to_string()).collect()
    }

    async fn stop(self) {
        self.to_shard.push(ToShard::Stop).unwrap();
        let ended = tokio::task::spawn_blocking(move || self.thread.join());
        timeout(PATIENCE, ended).await.expect("the shard does not end").unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> String {
        let mut client = TcpStream::connect(self.listening).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }
}

fn delivery(id: u64, payload: &[u8]) -> ToShard {
    let mut frame = vec![0x82];
    match payload.len() {
        short @ 0..126 => frame.push(short as u8),
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    ToShard::Deliver(Delivery {
        id,
        target: Target::Room(RoomId::new("room").unwrap()),
        exclude: Arc::from([]),
        frame: Bytes::from(frame),
        report_by_ms: Some(u64::MAX),
        shed: false,
    })
}

async fn next(client: &mut Client) -> Message {
    timeout(PATIENCE, client.next()).await.expect("nothing arrives").unwrap().unwrap()
}

#[tokio::test]
async fn a_push_reaches_every_member_and_is_reported() {
    on_both(true, async |mut rig| {
        let mut clients = Vec::new();
        for user in 0..20 {
            clients.push(rig.join(&format!("user{user}")).await.0);
        }
        for id in 1..50_u64 {
            rig.deliver(id, &id.to_be_bytes());
            let report = rig.report(id).await;
            assert_eq!((report.counts.members, report.counts.written), (20, 20));
            for client in &mut clients {
                assert_eq!(next(client).await.into_data()[..], id.to_be_bytes());
            }
        }
        rig.stop().await;
    })
    .await;
}

#[tokio::test]
async fn pushes_of_one_batch_share_a_write() {
    on_both(true, async |mut rig| {
        let (mut client, _) = rig.join("user").await;
        let before = rig.figures(|figures| figures.core.joined == 1).await.plane.sends;
        rig.to_shard.push_batch((1..=1000).map(|id| delivery(id, &[7; 20]))).unwrap();
        for _ in 1..=1000 {
            assert_eq!(next(&mut client).await.into_data()[..], [7; 20]);
        }
        let figures = rig.figures(|figures| figures.core.written == 1000).await;
        let writes = figures.plane.sends - before;
        assert!(writes < 100, "{writes} writes");
        rig.stop().await;
    })
    .await;
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing() {
    on_both(true, async |mut rig| {
        let before = rig.descriptors();
        for round in 0..100 {
            let (mut client, session) = rig.join("user").await;
            match round % 3 {
                0 => client.close(None).await.unwrap(),
                1 => drop(client),
                _ => {
                    let MaybeTlsStream::Plain(stream) = client.get_ref() else { unreachable!() };
                    stream.set_zero_linger().unwrap();
                    drop(client);
                }
            }
            rig.ended(session).await;
        }
        // The core hears of a closed socket in the turn after the one that closed it.
        let gone = |figures: &ShardFigures| {
            (figures.plane.sockets, figures.core.connections, figures.core.accepted) == (0, 0, 100)
        };
        let figures = rig.figures(gone).await;
        assert_eq!(figures.plane.writes_in_flight, 0);
        let after = rig.descriptors();
        assert_eq!(after.len(), before.len(), "{before:?} {after:?}");
        rig.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_shard_has_descriptors_of_its_own_only() {
    // Sockets that others have open when the shard starts.
    let others: Vec<_> = (0..50).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    on_both(true, async |rig| {
        let held = rig.descriptors();
        let sockets = held.iter().filter(|target| target.starts_with("socket:"));
        // The listener and monoio's duplicate of it; a standard stream may be a socket too.
        assert!(sockets.count() <= 2 + 3 && held.len() < 20, "{held:?}");
        rig.stop().await;
    })
    .await;
    drop(others);
}

#[tokio::test]
async fn plain_requests_are_answered() {
    on_both(true, async |rig| {
        assert!(rig.get("/health").await.starts_with("HTTP/1.1 200 "));
        assert!(rig.get("/stats").await.contains("\"node_id\":\"node\""));
        assert!(rig.get("/nowhere").await.starts_with("HTTP/1.1 404 "));
        rig.stop().await;
    })
    .await;
}

#[tokio::test]
async fn without_a_controller_a_join_is_refused_at_once() {
    on_both(false, async |rig| {
        let url = format!("ws://{}/ws?user_id=user&room_id=room", rig.listening);
        let refused = timeout(Duration::from_secs(3), tokio_tungstenite::connect_async(url)).await.unwrap();
        assert!(refused.unwrap_err().to_string().contains("503"));
        let figures = rig.figures(|figures| figures.driver.joins_unavailable == 1).await;
        assert_eq!(figures.core.joined, 0);
        rig.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_drain_closes_the_listener_and_the_sessions_and_says_so() {
    on_both(true, async |mut rig| {
        let (mut client, _) = rig.join("user").await;
        rig.to_shard.push(ToShard::Drain { over_ms: 100 }).unwrap();
        match next(&mut client).await {
            Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 1012),
            other => panic!("{other:?}"),
        }
        // The client answers the close when it is asked for more.
        let _ = timeout(PATIENCE, client.next()).await.unwrap();
        rig.until(|word| matches!(word, FromShard::Drained).then_some(())).await;
        let refused = TcpStream::connect(rig.listening).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        rig.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_stop_in_the_middle_of_large_writes_ends_the_thread() {
    on_both(true, async |mut rig| {
        let mut idle = Vec::new();
        for user in 0..5 {
            idle.push(rig.join(&format!("user{user}")).await.0);
        }
        // Nobody reads: the writes are under way until the end.
        rig.deliver(1, &vec![1; 30_000_000]);
        rig.figures(|figures| figures.plane.writes_in_flight == 5).await;
        let (listening, began) = (rig.listening, Instant::now());
        rig.stop().await;
        assert!(began.elapsed() < STOP_TIMEOUT, "the last completions came");
        assert!(TcpStream::connect(listening).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_floods_does_not_starve_the_others() {
    on_both(true, async |mut rig| {
        let (flood, flooder) = rig.join("flooder").await;
        let (mut client, _) = rig.join("user").await;
        // Pongs nobody asked for: they are read and answered by nothing.
        let frames = client_frame(OpCode::Pong, &[0; 100], [1, 2, 3, 4]).repeat(2000);
        let MaybeTlsStream::Plain(flood) = flood.into_inner() else { unreachable!() };
        let mut flood = flood.into_std().unwrap();
        flood.set_nonblocking(false).unwrap();
        let flooding = std::thread::spawn(move || {
            let mut sent = 0_u64;
            while flood.write_all(&frames).is_ok() {
                sent += frames.len() as u64;
            }
            sent
        });
        rig.figures(|figures| figures.core.bytes_read > 10_000_000).await;
        for _ in 0..100 {
            let began = Instant::now();
            client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
            assert!(next(&mut client).await.to_text().unwrap().contains("pong"));
            assert!(began.elapsed() < Duration::from_secs(1));
        }
        assert!(!flooding.is_finished(), "session {flooder:?} was to flood all the time");
        rig.stop().await;
        assert!(flooding.join().unwrap() > 10_000_000);
    })
    .await;
}

#[tokio::test]
async fn two_shards_share_a_port() {
    on_both(true, async |rig| {
        let other = start(DriverChoice::Epoll, rig.listening, true).unwrap();
        let mut rounds = 0;
        while rig.stats.read().core.accepted == 0 || other.stats.read().core.accepted == 0 {
            rounds += 1;
            assert!(rounds < 1000, "one of them gets no client");
            assert!(rig.get("/health").await.starts_with("HTTP/1.1 200 "));
        }
        rig.stop().await;
        other.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_address_in_use_is_told_by_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = start(DriverChoice::Epoll, address, true).map(|rig| rig.listening).unwrap_err();
    assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
}
