//! A small push server that does wrong on purpose. Its WebSockets are tungstenite's, its gRPC is tonic's, so that our
//! codec is not its own judge.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.
#![allow(dead_code)] // Not every test needs every door.

pub(crate) mod grpc;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It stands still once, for so many milliseconds.
    Stall(u64),
    /// Every seventh push does not reach the room's first member.
    Drop,
    /// Every seventh push reaches the room's first member twice.
    Duplicate,
    /// Every seventh push reaches the room after the next one.
    Reorder,
    /// Every seventh push has one letter changed.
    Corrupt,
    /// Every seventh push also reaches another room.
    WrongRoom,
}

/// How often it does wrong.
const EVERY: u64 = 7;

/// The push before which it stalls: well after what warms up.
const STALLS_AT: u64 = 60;

type Member = Arc<Mutex<WebSocket<TcpStream>>>;

/// The server; it lives until the test ends.
#[derive(Clone)]
pub(crate) struct Liar {
    pub(crate) addr: SocketAddr,
    fault: Fault,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rooms: HashMap<String, Vec<Member>>,
    pushes: u64,
    held: Option<(String, String)>,
}

impl Liar {
    pub(crate) fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let liar = Self { addr: listener.local_addr().unwrap(), fault, state: Arc::default() };
        let serving = liar.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let liar = serving.clone();
                std::thread::spawn(move || liar.serve(socket));
            }
        });
        liar
    }

    fn serve(&self, socket: TcpStream) {
        socket.set_nodelay(true).unwrap();
        let mut path = String::new();
        #[allow(clippy::result_large_err)] // The type is tungstenite's.
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            path = request.uri().to_string();
            Ok(response)
        };
        let Ok(copy) = socket.try_clone() else { return };
        // Registered only when the 101 is written: the member exists before it is told so in no server.
        let Ok(mut socket) = tungstenite::accept_hdr(socket, look) else { return };
        let room = path.rsplit_once("room=").map(|(_, room)| room.to_owned()).unwrap_or_default();
        if path.starts_with("/pub") {
            while let Ok(message) = socket.read() {
                if let Message::Text(text) = message {
                    self.push(&room, text.as_str());
                }
            }
            return;
        }
        let member = Arc::new(Mutex::new(WebSocket::from_raw_socket(copy, Role::Server, None)));
        self.state.lock().unwrap().rooms.entry(room.clone()).or_default().push(member.clone());
        while socket.read().is_ok() {}
        let mut state = self.state.lock().unwrap();
        state.rooms.get_mut(&room).unwrap().retain(|other| !Arc::ptr_eq(other, &member));
    }

    /// Pushes to a room; how many members it says got it.
    pub(crate) fn push(&self, room: &str, text: &str) -> u64 {
        let mut state = self.state.lock().unwrap();
        let number = state.pushes;
        state.pushes += 1;
        let wrong = number % EVERY == EVERY - 1;
        match self.fault {
            Fault::Stall(ms) if number == STALLS_AT => std::thread::sleep(Duration::from_millis(ms)),
            Fault::Reorder if wrong && state.held.is_none() => {
                state.held = Some((room.to_owned(), text.to_owned()));
                return state.rooms.get(room).map_or(0, Vec::len) as u64;
            }
            Fault::WrongRoom if wrong => {
                let other = state.rooms.keys().find(|other| *other != room).cloned();
                other.into_iter().for_each(|other| send(&state.rooms[&other], text, 0, 1));
            }
            _ => {}
        }
        let members = state.rooms.get(room).cloned().unwrap_or_default();
        match self.fault {
            Fault::Drop if wrong => send(&members, text, 1, 1),
            Fault::Duplicate if wrong => {
                send(&members, text, 0, 1);
                send(&members[..1], text, 0, 1);
            }
            Fault::Corrupt if wrong => {
                let (head, last) = text.split_at(text.len() - 1);
                send(&members, &format!("{head}{}", if last == "x" { "y" } else { "x" }), 0, 1);
            }
            _ => send(&members, text, 0, 1),
        }
        if let Some((held_room, held)) = state.held.take_if(|(held_room, _)| held_room == room) {
            let members = state.rooms.get(&held_room).cloned().unwrap_or_default();
            send(&members, &held, 0, 1);
        }
        members.len() as u64
    }
}

fn send(members: &[Member], text: &str, skip: usize, times: usize) {
    for member in members.iter().skip(skip) {
        for _ in 0..times {
            // A member may be gone.
            let _ = member.lock().unwrap().send(Message::text(text));
        }
    }
}
