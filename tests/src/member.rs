//! Members of rooms: WebSocket clients of three libraries that nobody here wrote, behind one face.
//!
//! Owns: what a member has seen. Must not: know the server. Talks to: `script` for Python and Node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite;
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;

use crate::push_frame::PushFrame;
use crate::script::Script;

/// How long a member waits for what is to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// tokio-tungstenite, in the test itself.
    Tungstenite,
    /// The Python package `websockets`.
    Python,
    /// The Node package `ws`.
    Node,
}

/// What happened to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It has joined.
    Open,
    /// A text message.
    Text(String),
    /// It was closed with this code and reason.
    Closed(u16, String),
    /// Its upgrade was answered with this status.
    Refused(u16),
    /// Something else went wrong.
    Failed(String),
}

enum Order {
    Send(String),
    Close(u16),
}

enum Hands {
    Task(UnboundedSender<Order>),
    Script(Arc<Script>, u64),
}

/// A member.
pub struct Member {
    /// Its user.
    pub user: String,
    events: UnboundedReceiver<Event>,
    hands: Hands,
}

/// Opens members; the scripts start with the first member of their kind.
#[derive(Default)]
pub struct Members {
    python: Option<Arc<Script>>,
    node: Option<Arc<Script>>,
    opened: u64,
}

impl Members {
    /// Opens a member and waits until it has joined.
    pub async fn join(&mut self, kind: Kind, addr: std::net::SocketAddr, user: &str, room: &str) -> Member {
        let mut member =
            self.open(kind, &format!("ws://{addr}/ws?user_id={user}&user_name={user}&room_id={room}"));
        member.user = user.into();
        let opened = member.event().await;
        assert_eq!(opened.as_ref().ok(), Some(&Event::Open), "{user} on {addr} ({kind:?}): {opened:?}");
        member
    }

    /// Begins to open a member; its first event tells how that went.
    pub fn open(&mut self, kind: Kind, url: &str) -> Member {
        self.opened += 1;
        let (sender, events) = unbounded_channel();
        let slot = match kind {
            Kind::Tungstenite => {
                let (orders, taken) = unbounded_channel();
                tokio::spawn(live(url.to_owned(), sender, taken));
                return Member { user: String::new(), events, hands: Hands::Task(orders) };
            }
            Kind::Python => &mut self.python,
            Kind::Node => &mut self.node,
        };
        let script = slot.get_or_insert_with(|| Arc::new(Script::start(kind)));
        script.open(self.opened, url, sender);
        Member { user: String::new(), events, hands: Hands::Script(Arc::clone(script), self.opened) }
    }
}

impl Member {
    /// The next event.
    pub async fn event(&mut self) -> anyhow::Result<Event> {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event
            .with_context(|| format!("{}: nothing within {PATIENCE:?}", self.user))?
            .context("the member is gone")
    }

    /// The next event, which is to be a push.
    pub async fn push(&mut self) -> anyhow::Result<PushFrame> {
        match self.event().await? {
            Event::Text(text) => PushFrame::parse(&text),
            other => bail!("{}: {other:?} instead of a push", self.user),
        }
    }

    /// The next event, which is to be the close.
    pub async fn closed(&mut self) -> anyhow::Result<(u16, String)> {
        match self.event().await? {
            Event::Closed(code, reason) => Ok((code, reason)),
            other => bail!("{}: {other:?} instead of a close", self.user),
        }
    }

    /// All that came and was not asked for yet.
    pub fn unread(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Sends a text message.
    pub fn send(&self, text: &str) {
        match &self.hands {
            Hands::Task(orders) => drop(orders.send(Order::Send(text.into()))),
            Hands::Script(script, id) => script.tell(&serde_json::json!({"id": id, "send": text})),
        }
    }

    /// Closes with a code.
    pub fn close(&self, code: u16) {
        match &self.hands {
            Hands::Task(orders) => drop(orders.send(Order::Close(code))),
            Hands::Script(script, id) => script.tell(&serde_json::json!({"id": id, "close": code})),
        }
    }
}

/// The life of a tungstenite member.
async fn live(url: String, events: UnboundedSender<Event>, mut orders: UnboundedReceiver<Order>) {
    let tell = |event| drop(events.send(event));
    let mut socket = match tokio_tungstenite::connect_async(url).await {
        Ok((socket, _)) => socket,
        Err(tungstenite::Error::Http(response)) => return tell(Event::Refused(response.status().as_u16())),
        Err(error) => return tell(Event::Failed(error.to_string())),
    };
    tell(Event::Open);
    loop {
        let sent = tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Send(text)) => socket.send(Message::text(text)).await,
                Some(Order::Close(code)) => {
                    socket.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await
                }
                // The test has dropped the member.
                None => return,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => { tell(Event::Text(text.to_string())); Ok(()) }
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                        (frame.code.into(), frame.reason.to_string())
                    });
                    tell(Event::Closed(code, reason));
                    // The answer to the close goes out with the next read.
                    while let Some(Ok(_)) = socket.next().await {}
                    return;
                }
                Some(Ok(Message::Binary(_))) => return tell(Event::Failed("a binary message".into())),
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => return tell(Event::Failed(error.to_string())),
                None => return tell(Event::Closed(1006, String::new())),
            },
        };
        if let Err(error) = sent {
            tell(Event::Failed(error.to_string()));
        }
    }
}
