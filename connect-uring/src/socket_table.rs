//! The sockets of a plane by the slot of their session.
//!
//! Owns: the descriptors, and the rule that a slot is used again only after its last completion. Must not: do I/O.
//! Talks to: `plane_uring` and `plane_epoll`, which keep their state of a socket in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ringcast_proto::SessionId;

/// Sockets with a state of the plane's own for each.
#[derive(Debug)]
pub(crate) struct SocketTable<S> {
    slots: Vec<Slot<S>>,
    open: usize,
    stale: u64,
}

/// One slot; 16 bytes beside the plane's state at most, for it is paid for every idle session.
#[derive(Debug)]
struct Slot<S> {
    socket: Option<OwnedFd>,
    generation: u32,
    state: S,
}

impl<S: Default> SocketTable<S> {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), open: 0, stale: 0 }
    }

    /// Takes a socket.
    ///
    /// # Panics
    ///
    /// When the slot still holds another: a completion for it is still to come, and would be taken for one of
    /// the new socket.
    pub(crate) fn insert(&mut self, session: SessionId, socket: OwnedFd) {
        let at = session.slot() as usize;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || Slot { socket: None, generation: 0, state: S::default() });
        }
        let slot = &mut self.slots[at];
        assert!(slot.socket.is_none(), "slot {at} is registered again before its last completion is in");
        *slot = Slot { socket: Some(socket), generation: session.generation(), state: S::default() };
        self.open += 1;
    }

    /// The socket and its state; where the session is gone, counts that and gives nothing.
    pub(crate) fn get(&mut self, session: SessionId) -> Option<(BorrowedFd<'_>, &mut S)> {
        match self.slots.get_mut(session.slot() as usize) {
            Some(Slot { socket: Some(socket), generation, state }) if *generation == session.generation() => {
                let socket: &OwnedFd = socket;
                Some((socket.as_fd(), state))
            }
            _ => {
                self.stale += 1;
                None
            }
        }
    }

    /// Closes a socket and sets its slot free.
    pub(crate) fn close(&mut self, session: SessionId) {
        if self.get(session).is_some() {
            let slot = &mut self.slots[session.slot() as usize];
            slot.socket = None;
            slot.state = S::default();
            self.open -= 1;
        }
    }

    /// Slots and generations of all sockets.
    pub(crate) fn open_slots(&self) -> Vec<(u32, u32)> {
        let open = self.slots.iter().enumerate().filter(|(_, slot)| slot.socket.is_some());
        open.map(|(at, slot)| (at as u32, slot.generation)).collect()
    }

    /// How many sockets it holds.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// How often it was asked for a session that was gone.
    pub(crate) fn stale(&self) -> u64 {
        self.stale
    }
}
