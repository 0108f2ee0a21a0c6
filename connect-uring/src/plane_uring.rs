//! The plane over a ring of the shard's own, driven from the shard's loop.
//!
//! Owns: the ring, the eventfd that tells of its completions, and every write until its completion. Must not: be
//! touched by another thread (the ring allows one issuer). Talks to: the kernel.
//!
//! An idle socket has one multishot poll and no buffer. Writes are queued in the ring and handed over by one
//! `io_uring_enter` for all of a wake-up; most are complete when it returns. Completions of the kernel's own
//! making (a socket that became readable) wait as task work until an enter fetches them; the ring's flag says
//! whether there are any, so that the loop enters only when it is worth it.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use connect_core::Write;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use ringcast_proto::{SessionId, ShardId};

use crate::event_fd::EventFd;
use crate::plane::{Driver, MAX_PIECES, Plane, PlaneCounters, PlaneEvent, Received, Receiving, shut_down};
use crate::socket_table::SocketTable;

/// The most submissions that fit the ring; a fan-out to more sessions enters the kernel once for each so many.
const ENTRIES: u32 = 4096;

/// Sessions for which a submission is kept. A ring is memory that is there from the start, and a node of a million
/// sessions has many: each is as large as its sessions need, and no larger.
const SESSIONS_PER_ENTRY: u32 = 32;

/// Below this a ring is not worth having.
const MIN_ENTRIES: u32 = 256;

/// Completions for each submission: readiness of idle sockets needs no submission.
const COMPLETIONS_PER_ENTRY: u32 = 16;

/// Completions that one call of [`Plane::poll`] takes at most.
const COMPLETIONS_PER_POLL: usize = 8192;

/// Every enter fetches what waits as task work.
const GET_EVENTS: u32 = EnterFlags::GETEVENTS.bits();

/// A list of events or free places longer than this gives its memory back when it is empty.
const KEPT_CAPACITY: usize = 8192;

/// What a completion belongs to, in the highest eight bits of its user data; below are the session's generation
/// and slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Poll = 1,
    Send = 2,
    Cancel = 3,
}

const OPERATION_SHIFT: u32 = 56;
const SESSION_MASK: u64 = (1 << 48) - 1;

fn user_data(operation: Operation, session: SessionId) -> u64 {
    (operation as u64) << OPERATION_SHIFT | (session.as_u64() & SESSION_MASK)
}

/// The plane's state of a socket.
#[derive(Debug, Default)]
struct Socket {
    /// The place of the write under way in `writes`, plus one.
    write: Option<std::num::NonZeroU32>,
    /// A poll is with the kernel: its last completion is still to come.
    polled: bool,
    receiving: Receiving,
    /// Ended by us: the last completion closes it.
    ending: bool,
}

/// A write that the kernel may still read.
struct InFlight {
    /// Holds the bytes.
    _write: Write,
    /// Holds what SENDMSG points at.
    _gather: Option<Box<Gather>>,
}

/// A message header with its list of pieces, at an address that stays.
struct Gather {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
}

/// See the module.
pub(crate) struct UringPlane {
    shard: ShardId,
    // Before the fields that the kernel may read: dropped first.
    ring: IoUring,
    event: EventFd,
    sockets: SocketTable<Socket>,
    writes: Vec<Option<InFlight>>,
    free_writes: Vec<u32>,
    /// Submissions that did not fit the ring when the kernel was short of memory.
    unsubmitted: VecDeque<squeue::Entry>,
    /// Events that came about outside [`Plane::poll`].
    events: Vec<PlaneEvent>,
    completions: Vec<(u64, i32, u32)>,
    /// The eventfd is signalled: the loop sleeps.
    tells: bool,
    /// An error of the ring that the next call tells.
    failure: Option<io::Error>,
    counters: PlaneCounters,
}

impl UringPlane {
    /// Makes the ring for so many sessions at most, on the thread that will use it. Where locked memory does not
    /// suffice, halves it, down to 256 entries; `said` is given a line for each step.
    pub(crate) fn new(shard: ShardId, max_sessions: u32, said: &mut dyn FnMut(String)) -> io::Result<Self> {
        let wanted = (max_sessions / SESSIONS_PER_ENTRY).next_power_of_two().clamp(MIN_ENTRIES, ENTRIES);
        Self::with_entries(shard, wanted, wanted * COMPLETIONS_PER_ENTRY, said)
    }

    /// [`new`](Self::new) with a ring of this size at most.
    pub(crate) fn with_entries(
        shard: ShardId,
        mut entries: u32,
        mut completions: u32,
        said: &mut dyn FnMut(String),
    ) -> io::Result<Self> {
        let ring = loop {
            match build_ring(entries, completions) {
                Ok(ring) => break ring,
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && completions > 2 * MIN_ENTRIES => {
                    let tried = entries;
                    entries = (entries / 2).max(MIN_ENTRIES);
                    completions =
                        if tried == MIN_ENTRIES { 2 * entries } else { entries * COMPLETIONS_PER_ENTRY };
                    said(format!(
                        "a ring of {tried} entries does not fit the locked memory (ulimit -l): trying \
                         {entries} entries with {completions} completions"
                    ));
                }
                Err(error) => return Err(error),
            }
        };
        let event = EventFd::new()?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            shard,
            ring,
            event,
            sockets: SocketTable::new(),
            writes: Vec::new(),
            free_writes: Vec::new(),
            unsubmitted: VecDeque::new(),
            events: Vec::new(),
            completions: Vec::new(),
            tells: true,
            failure: None,
            counters: PlaneCounters::default(),
        })
    }

    /// Queues a submission. A full ring is handed to the kernel first, and what that completed is taken, so that
    /// a large fan-out does not pile up in the completion queue.
    fn push(&mut self, entry: squeue::Entry) {
        if self.ring.submission().is_full() && self.unsubmitted.is_empty() {
            match self.enter() {
                Ok(_) => {
                    let mut events = std::mem::take(&mut self.events);
                    self.take_completions(&mut events);
                    self.events = events;
                }
                Err(error) => self.failure = Some(error),
            }
        }
        self.queue(entry);
    }

    /// Queues a submission without a system call; what does not fit waits for the next enter.
    fn queue(&mut self, entry: squeue::Entry) {
        // SAFETY: what a send points at is held in `writes` until its completion is in; polls and cancels point at
        // nothing.
        if !self.unsubmitted.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.unsubmitted.push_back(entry);
        }
    }

    /// Submits what is queued, fetches what the kernel has to tell, and says how many submissions it took. When it
    /// is short of memory or its completion queue is full, the others wait for the next enter.
    fn enter(&mut self) -> io::Result<usize> {
        let submitted = loop {
            if self.ring.submission().cq_overflow() {
                self.counters.completion_overflows += 1;
            }
            self.counters.enters += 1;
            // SAFETY: no argument is passed; what is submitted is valid, as `queue` says.
            let entered = unsafe {
                let submissions = self.ring.submission().len() as u32;
                self.ring.submitter().enter::<libc::sigset_t>(submissions, 0, GET_EVENTS, None)
            };
            match entered {
                Ok(submitted) => break submitted,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => break 0,
                    _ => return Err(error),
                },
            }
        };
        while let Some(entry) = self.unsubmitted.front() {
            // SAFETY: as in `queue`.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                break;
            }
            self.unsubmitted.pop_front();
        }
        Ok(submitted)
    }

    /// Whether an enter would bring something forward.
    fn needs_enter(&mut self) -> bool {
        let submission = self.ring.submission();
        !self.unsubmitted.is_empty()
            || !submission.is_empty()
            || submission.taskrun()
            || submission.cq_overflow()
    }

    fn has_work(&mut self) -> bool {
        !self.events.is_empty() || self.needs_enter() || !self.ring.completion().is_empty()
    }

    fn take_completions(&mut self, events: &mut Vec<PlaneEvent>) {
        let mut completions = std::mem::take(&mut self.completions);
        let queue = self.ring.completion();
        completions.extend(queue.take(COMPLETIONS_PER_POLL).map(|c| (c.user_data(), c.result(), c.flags())));
        for (user_data, result, flags) in completions.drain(..) {
            self.complete(user_data, result, flags, events);
        }
        self.completions = completions;
    }

    fn complete(&mut self, user_data: u64, result: i32, flags: u32, events: &mut Vec<PlaneEvent>) {
        let session =
            SessionId::from_u64(user_data & SESSION_MASK | SessionId::new(self.shard, 0, 0).as_u64());
        match user_data >> OPERATION_SHIFT {
            operation if operation == Operation::Poll as u64 => self.polled(session, result, flags, events),
            operation if operation == Operation::Send as u64 => self.sent(session, result, events),
            // A cancel only tells when it found nothing: the poll had ended by itself.
            _ => {}
        }
    }

    fn polled(&mut self, session: SessionId, result: i32, flags: u32, events: &mut Vec<PlaneEvent>) {
        let Some((fd, socket)) = self.sockets.get(session) else { return };
        let last = !cqueue::more(flags);
        if last {
            socket.polled = false;
        }
        if socket.ending {
            self.close_if_over(session, events);
            return;
        }
        let error = result < 0 || result & i32::from(libc::POLLNVAL) != 0;
        if error || socket.receiving.ended && result & i32::from(libc::POLLERR) != 0 {
            events.push(PlaneEvent::Broken { session });
        } else if !socket.receiving.ended {
            socket.receiving.end_told |= result & i32::from(ENDS) != 0;
            events.push(PlaneEvent::Readable { session });
        }
        if last && !error {
            let fd = types::Fd(fd.as_raw_fd());
            socket.polled = true;
            self.counters.polls_rearmed += 1;
            self.queue(poll_entry(fd, session));
        }
    }

    fn sent(&mut self, session: SessionId, result: i32, events: &mut Vec<PlaneEvent>) {
        let Some((_, socket)) = self.sockets.get(session) else { return };
        let Some(place) = socket.write.take() else { return };
        self.writes[place.get() as usize - 1] = None;
        self.free_writes.push(place.get() - 1);
        self.counters.writes_in_flight -= 1;
        // An interrupted write took nothing and may be tried again. Any other error, ENOBUFS too, ends the
        // socket: what the peer has is not known any more.
        let failed = result < 0 && result != -libc::EINTR;
        events.push(PlaneEvent::Wrote { session, bytes: result.max(0) as usize, failed });
        self.close_if_over(session, events);
    }

    fn close_if_over(&mut self, session: SessionId, events: &mut Vec<PlaneEvent>) {
        let Some((_, socket)) = self.sockets.get(session) else { return };
        if socket.ending && !socket.polled && socket.write.is_none() {
            self.sockets.close(session);
            events.push(PlaneEvent::Gone { session });
        }
    }

    fn hold(&mut self, in_flight: InFlight) -> std::num::NonZeroU32 {
        let at = match self.free_writes.pop() {
            Some(at) => {
                assert!(self.writes[at as usize].is_none(), "the place of a write under way was given away");
                self.writes[at as usize] = Some(in_flight);
                at
            }
            None => {
                self.writes.push(Some(in_flight));
                self.writes.len() as u32 - 1
            }
        };
        self.counters.writes_in_flight += 1;
        std::num::NonZeroU32::MIN.saturating_add(at)
    }
}

/// What tells that the peer's stream ends behind the bytes that are there.
const ENDS: i16 = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;

fn build_ring(entries: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(entries)
}

fn poll_entry(fd: types::Fd, session: SessionId) -> squeue::Entry {
    let events = libc::POLLIN | libc::POLLRDHUP;
    let poll = opcode::PollAdd::new(fd, events as u32).multi(true);
    poll.build().user_data(user_data(Operation::Poll, session))
}

/// Whether the kernel's setting of the task-work flag (`atomic_or` in its `io_ctx_mark_taskrun`) is ordered before its
/// look at the eventfd's switch: on x86 every locked instruction orders. Elsewhere only an enter tells for certain.
const FLAG_IS_SET_BEFORE_EVENTFD_IS_READ: bool = cfg!(target_arch = "x86_64");

const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// The submission of a write, with what it points at beside the write's own bytes.
fn send_entry(fd: types::Fd, write: &Write) -> (squeue::Entry, Option<Box<Gather>>) {
    let mut slices = write.slices().filter(|slice| !slice.is_empty());
    let first = slices.next().unwrap_or_default();
    let Some(second) = slices.next() else {
        let send = opcode::Send::new(fd, first.as_ptr(), first.len() as u32).flags(SEND_FLAGS);
        return (send.build(), None);
    };
    let all = [first, second].into_iter().chain(slices).take(MAX_PIECES);
    let pieces: Vec<_> = all
        .map(|slice| libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() })
        .collect();
    // SAFETY: a msghdr of zeros is a valid one: no address, no pieces, no control data.
    let header: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut gather = Box::new(Gather { header, pieces });
    gather.header.msg_iov = gather.pieces.as_mut_ptr();
    gather.header.msg_iovlen = gather.pieces.len() as _;
    let send = opcode::SendMsg::new(fd, &raw const gather.header).flags(SEND_FLAGS as u32);
    (send.build(), Some(gather))
}

impl Plane for UringPlane {
    fn driver(&self) -> Driver {
        Driver::IoUring
    }

    fn wants_nonblocking(&self) -> bool {
        false
    }

    fn register(&mut self, session: SessionId, socket: OwnedFd) {
        let fd = types::Fd(socket.as_raw_fd());
        self.sockets.insert(session, socket);
        if let Some((_, socket)) = self.sockets.get(session) {
            socket.polled = true;
        }
        self.push(poll_entry(fd, session));
    }

    fn receive(&mut self, session: SessionId, buffer: &mut [u8]) -> io::Result<Received> {
        let Some((fd, socket)) = self.sockets.get(session) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        if socket.ending {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.counters.receives += 1;
        socket.receiving.receive(fd, buffer)
    }

    fn send(&mut self, session: SessionId, write: Write) {
        let Some((fd, socket)) = self.sockets.get(session) else { return };
        assert!(socket.write.is_none(), "a write of this session is under way");
        if socket.ending || write.is_empty() {
            self.events.push(PlaneEvent::Wrote { session, bytes: 0, failed: socket.ending });
            return;
        }
        let (entry, gather) = send_entry(types::Fd(fd.as_raw_fd()), &write);
        let place = self.hold(InFlight { _write: write, _gather: gather });
        if let Some((_, socket)) = self.sockets.get(session) {
            socket.write = Some(place);
        }
        self.counters.sends += 1;
        self.push(entry.user_data(user_data(Operation::Send, session)));
    }

    fn finish(&mut self, session: SessionId) {
        if let Some((fd, _)) = self.sockets.get(session) {
            shut_down(&fd, Shutdown::Write);
        }
    }

    fn end(&mut self, session: SessionId) {
        let Some((fd, socket)) = self.sockets.get(session) else { return };
        if std::mem::replace(&mut socket.ending, true) {
            return;
        }
        shut_down(&fd, Shutdown::Both);
        if socket.polled {
            // A multishot poll tells of the shutdown and stays. A cancel always ends it; a poll's removal would
            // be refused while one of its events waits to be fetched.
            let cancel = opcode::AsyncCancel::new(user_data(Operation::Poll, session)).build();
            let cancel = cancel.user_data(user_data(Operation::Cancel, session));
            self.push(cancel.flags(squeue::Flags::SKIP_SUCCESS));
        }
        let mut events = std::mem::take(&mut self.events);
        self.close_if_over(session, &mut events);
        self.events = events;
    }

    fn end_all(&mut self) {
        for (slot, generation) in self.sockets.open_slots() {
            self.end(SessionId::new(self.shard, slot, generation));
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() && self.enter()? > 0 {}
        self.failure.take().map_or(Ok(()), Err)
    }

    fn poll(&mut self, events: &mut Vec<PlaneEvent>) -> io::Result<bool> {
        if std::mem::take(&mut self.tells) {
            // Awake, the loop looks by itself; each signal would only cost it another wake-up.
            self.ring.completion().disable_eventfd();
        }
        events.append(&mut self.events);
        if self.events.capacity() > KEPT_CAPACITY {
            self.events = Vec::new();
        }
        let before = events.len();
        loop {
            self.take_completions(events);
            if events.len() - before >= COMPLETIONS_PER_POLL || !self.needs_enter() {
                break;
            }
            if self.enter()? == 0 && self.ring.completion().is_empty() {
                break;
            }
        }
        if self.counters.writes_in_flight == 0 && self.writes.len() > KEPT_CAPACITY {
            self.writes = Vec::new();
            self.free_writes = Vec::new();
        }
        let more = self.has_work();
        self.failure.take().map_or(Ok(more), Err)
    }

    fn may_sleep(&mut self, listens: bool) -> bool {
        if self.failure.is_some() {
            return false;
        }
        if !listens {
            return self.events.is_empty()
                && self.unsubmitted.is_empty()
                && self.ring.submission().is_empty()
                && self.ring.completion().is_empty();
        }
        if self.has_work() {
            return false;
        }
        self.tells = true;
        self.ring.completion().enable_eventfd();
        // What came in before the eventfd was on has told nobody. It has set the ring's flag, though: the kernel adds
        // work, sets the flag, then looks whether the eventfd is on, and here it is on before the flag is looked at.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if !FLAG_IS_SET_BEFORE_EVENTFD_IS_READ {
            self.failure = self.enter().err();
        }
        self.failure.is_none() && !self.has_work()
    }

    fn woken(&mut self) {
        self.event.clear();
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn counters(&self) -> PlaneCounters {
        PlaneCounters {
            sockets: self.sockets.open() as u64,
            stale: self.sockets.stale(),
            ..self.counters.clone()
        }
    }
}

impl Drop for UringPlane {
    /// A ring that still has operations goes with its memory left in place: the kernel may read it after the
    /// ring is closed, for it ends them later.
    fn drop(&mut self) {
        if self.counters.writes_in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.writes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    /// Flushes and collects until every session has been told of as readable.
    fn all_readable(plane: &mut UringPlane, sessions: &[SessionId]) {
        let mut events = Vec::new();
        for _ in 0..1000 {
            plane.flush().unwrap();
            plane.poll(&mut events).unwrap();
            if sessions.iter().all(|&session| events.contains(&PlaneEvent::Readable { session })) {
                return;
            }
        }
        panic!("{} events for {} sessions", events.len(), sessions.len());
    }

    #[test]
    fn polls_that_end_for_want_of_room_are_armed_again() {
        crate::kernel_check::raise_open_files().unwrap();
        let shard = ShardId(3);
        let Ok(mut plane) = UringPlane::with_entries(shard, 256, 512, &mut |_| {}) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut sessions, mut clients) = (Vec::new(), Vec::new());
        for slot in 0..1000 {
            let session = SessionId::new(shard, slot, 1);
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            plane.register(session, listener.accept().unwrap().0.into());
            sessions.push(session);
        }
        plane.flush().unwrap();
        clients.iter_mut().for_each(|client| client.write_all(b"1").unwrap());
        // Nothing is taken out of the completion queue, which has room for half of them.
        while plane.ring.submission().taskrun() {
            plane.ring.submit().unwrap();
        }
        assert!(plane.ring.completion().is_full());
        all_readable(&mut plane, &sessions);
        let rearmed = plane.counters().polls_rearmed;
        assert!((400..=1000).contains(&rearmed), "{rearmed}");
        for session in &sessions {
            assert_eq!(plane.receive(*session, &mut [0; 8]).unwrap().bytes, 1);
        }
        clients.iter_mut().for_each(|client| client.write_all(b"2").unwrap());
        all_readable(&mut plane, &sessions);
    }

    #[test]
    fn a_socket_stays_while_the_kernel_may_read_its_write() {
        let shard = ShardId(3);
        let Ok(mut plane) = UringPlane::with_entries(shard, 256, 512, &mut |_| {}) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let session = SessionId::new(shard, 0, 1);
        plane.register(session, listener.accept().unwrap().0.into());
        let piece = connect_core::Piece::Own(std::rc::Rc::from(vec![0; 30_000_000]));
        plane.send(session, Write { pieces: [piece].into_iter().collect(), skip: 0 });
        plane.flush().unwrap();
        plane.end(session);
        // The poll's last completion, as if it came before that of the write.
        let mut events = Vec::new();
        plane.complete(user_data(Operation::Poll, session), -libc::ECANCELED, 0, &mut events);
        assert_eq!((events.as_slice(), plane.counters().sockets), (&[][..], 1));
        while plane.counters().sockets > 0 {
            plane.poll(&mut events).unwrap();
        }
        assert!(
            matches!(events[..], [PlaneEvent::Wrote { .. }, PlaneEvent::Gone { .. }]),
            "the write is answered before the slot is free: {events:?}"
        );
    }
}
