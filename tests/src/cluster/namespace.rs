//! A network that holds nothing but its own loopback, and the crossings between it and the one of this test.
//!
//! Owns: the thread that lives in that network and makes sockets there; a socket stays in the network in which it was
//! made, whoever uses it. Must not: touch what passes: what breaks connections stands on this side of a crossing.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a connection within the network may take: it is one machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What is asked of the thread in the network.
enum Order {
    Listen(SocketAddr, oneshot::Sender<io::Result<TcpListener>>),
    Connect(SocketAddr, oneshot::Sender<io::Result<TcpStream>>),
}

/// A network of its own. It ends with its last process and the last of these.
#[derive(Clone)]
pub(super) struct Namespace {
    orders: Sender<Order>,
    file: Arc<File>,
}

/// The way into a network, for a process that is about to start.
#[derive(Clone)]
pub(super) struct Entry(Arc<File>);

impl Namespace {
    /// Makes one, which takes the right to (CAP_SYS_ADMIN).
    pub(super) async fn make() -> io::Result<Self> {
        let (orders, taken) = channel();
        let (made, there) = oneshot::channel();
        std::thread::Builder::new().name("namespace".into()).spawn(move || live(made, &taken))?;
        let file = there.await.map_err(|_| io::Error::other("the thread of the network ended"))??;
        Ok(Self { orders, file: Arc::new(file) })
    }

    /// The way in.
    pub(super) fn entry(&self) -> Entry {
        Entry(Arc::clone(&self.file))
    }

    /// Who connects to this port inside reaches `target` on this side.
    pub(super) async fn lead_out(&self, inside: u16, target: SocketAddr) -> io::Result<Crossing> {
        let listener =
            self.ask(|answer| Order::Listen(SocketAddr::from(([127, 0, 0, 1], inside)), answer)).await?;
        Crossing::start(listener, move || async move { tokio::net::TcpStream::connect(target).await })
    }

    /// Who connects to the crossing's address on this side reaches this port inside.
    pub(super) async fn lead_in(&self, inside: u16) -> io::Result<Crossing> {
        let listener = TcpListener::bind(("127.0.0.1", crate::ports::free_port()))?;
        let (network, target) = (self.clone(), SocketAddr::from(([127, 0, 0, 1], inside)));
        Crossing::start(listener, move || {
            let network = network.clone();
            async move {
                let stream = network.ask(|answer| Order::Connect(target, answer)).await?;
                stream.set_nonblocking(true)?;
                tokio::net::TcpStream::from_std(stream)
            }
        })
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Order) -> io::Result<T> {
        let gone = || io::Error::other("the thread of the network ended");
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Entry {
    /// The command's process will be in the network.
    pub(super) fn enter(&self, command: &mut Command) {
        let file = Arc::clone(&self.0);
        // SAFETY: between fork and exec only one system call is made, on a descriptor that `file` keeps open.
        unsafe {
            command.pre_exec(move || enter(file.as_raw_fd()));
        }
    }
}

fn enter(network: RawFd) -> io::Result<()> {
    // SAFETY: the call takes no memory.
    match unsafe { libc::setns(network, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The life of the thread in the network.
fn live(made: oneshot::Sender<io::Result<File>>, orders: &Receiver<Order>) {
    let network = unshare();
    let failed = network.is_err();
    if made.send(network).is_err() || failed {
        return;
    }
    while let Ok(order) = orders.recv() {
        // Whoever asked may have given up.
        match order {
            Order::Listen(address, answer) => drop(answer.send(TcpListener::bind(address))),
            Order::Connect(address, answer) => {
                drop(answer.send(TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)));
            }
        }
    }
}

fn unshare() -> io::Result<File> {
    // SAFETY: the call takes no memory; it concerns this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if !up.success() {
        return Err(io::Error::other(format!("`ip link set lo up`: {up}")));
    }
    File::open("/proc/thread-self/ns/net")
}

/// Connections from one network to another, whole and unchanged.
pub(super) struct Crossing {
    /// Where it listens.
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Crossing {
    fn start<F>(listener: TcpListener, connect: impl Fn() -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = io::Result<tokio::net::TcpStream>> + Send + 'static,
    {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = connect();
                tokio::spawn(async move { cross(near, far.await).await });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn cross(mut near: tokio::net::TcpStream, far: io::Result<tokio::net::TcpStream>) {
    let Ok(mut far) = far else {
        // Nobody listens there: whoever connected gets a reset, as the nearest to a refusal.
        let _ = near.set_zero_linger();
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    if tokio::io::copy_bidirectional(&mut near, &mut far).await.is_err() {
        // A reset goes on as one.
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Greets whoever connects, and reads until the other side is done.
    fn greet(listener: TcpListener, word: &'static str) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(word.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
    }

    async fn greeting(mut stream: tokio::net::TcpStream) -> String {
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn connections_cross_both_ways_and_only_where_they_are_led() {
        let Ok(network) = Namespace::make().await else {
            return println!("left out: this user has no right to make a network");
        };
        let port = crate::ports::free_port();
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let inside = network.ask(|answer| Order::Listen(local, answer)).await.unwrap();
        greet(inside, "inside");
        // The same port on this side is another one.
        assert!(TcpStream::connect(local).is_err(), "nobody listens on this side");
        greet(TcpListener::bind(local).unwrap(), "outside");

        let inward = network.lead_in(port).await.unwrap();
        let stream = tokio::net::TcpStream::connect(inward.address).await.unwrap();
        assert_eq!(greeting(stream).await, "inside");

        let exit = crate::ports::free_port();
        let _outward = network.lead_out(exit, local).await.unwrap();
        let there = SocketAddr::from(([127, 0, 0, 1], exit));
        let stream = network.ask(|answer| Order::Connect(there, answer)).await.unwrap();
        stream.set_nonblocking(true).unwrap();
        assert_eq!(greeting(tokio::net::TcpStream::from_std(stream).unwrap()).await, "outside");

        let mut command = Command::new("cat");
        network.entry().enter(command.arg("/proc/net/tcp"));
        let table = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(table.contains(&format!(":{port:04X} ")), "a process that entered sees its sockets: {table}");
    }
}
