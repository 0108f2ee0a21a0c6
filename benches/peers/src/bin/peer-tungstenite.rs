//! The contestant `tungstenite`: tokio-tungstenite as most people write it.
//!
//! A task and an unbounded channel a client, rooms behind a mutex, the library's default settings. One thread, because
//! every contestant has one core. Usage: `peer-tungstenite PORT`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use peers::upgrade::{Role, role_and_room};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

type Rooms = Arc<Mutex<HashMap<String, Vec<UnboundedSender<Message>>>>>;

fn main() -> Result<()> {
    let port: u16 = std::env::args().nth(1).context("usage: peer-tungstenite PORT")?.parse()?;
    loadgen::raise_open_files();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(([127, 0, 0, 1], port).into())?;
        serve(socket.listen(4096)?).await
    })
}

async fn serve(listener: TcpListener) -> Result<()> {
    let rooms = Rooms::default();
    loop {
        let (stream, _) = listener.accept().await?;
        let rooms = Arc::clone(&rooms);
        tokio::spawn(async move {
            // A client that breaks ends its own task only.
            let _ = client(stream, rooms).await;
        });
    }
}

async fn client(stream: TcpStream, rooms: Rooms) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut place = None;
    #[allow(clippy::result_large_err)] // The type is tungstenite's.
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let target = request.uri().path_and_query().map(|target| target.as_str()).unwrap_or_default();
        place = role_and_room(target).map(|(role, room)| (role, room.to_owned()));
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
    let (mut sink, mut source) = socket.split();
    match place.context("no such path")? {
        (Role::Publisher, room) => {
            while let Some(message) = source.next().await {
                let message = message?;
                if !message.is_text() {
                    continue;
                }
                let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
                for member in rooms.get(&room).into_iter().flatten() {
                    let _ = member.send(message.clone());
                }
            }
        }
        (Role::Subscriber, room) => {
            let (sender, mut messages) = unbounded_channel();
            rooms.lock().unwrap_or_else(PoisonError::into_inner).entry(room).or_default().push(sender);
            loop {
                tokio::select! {
                    message = messages.recv() => match message {
                        Some(message) => sink.send(message).await?,
                        None => break,
                    },
                    message = source.next() => match message {
                        Some(Ok(_)) => {}
                        _ => break,
                    },
                }
            }
        }
    }
    Ok(())
}
