"""Pushes to Ringcast: by single calls, or by one stream that stays open.

Take this file into your own backend. It holds to one rule: nothing is pushed twice. A push is tried again, at the
next push manager, only where it surely was not taken: no connection came about, or a push manager said so. What was
handed over and never answered for is Unknown; whoever sends it again may deliver it twice.
"""

import itertools
import queue
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc import ChannelConnectivity
from grpc_status import rpc_status

from pubsub import push_manager_pb2 as pb
from pubsub import push_manager_pb2_grpc as pb_grpc

# Answers with one of these reasons were given before anything was pushed.
TRY_AGAIN = {"ROUTES_NOT_READY", "STOPPING", "TOO_MANY_OPEN_PUSHES"}

# Codes that say by themselves that a call never began, whoever on the way to the push manager answered them.
NEVER_BEGAN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}

# Seconds: a connection, the waits between attempts, and what a call may take beyond the push's own deadline. A call
# that ends before the report is there leaves its caller without knowing.
CONNECT_TIMEOUT = 1.0
WAITS = [0.1, 0.3, 0.6]
ANSWER_MARGIN = 5.0

# Pushes of a stream that wait for their results. A push manager reads on at 4096 only when results are taken.
IN_FLIGHT = 256

OPTIONS = [
    # A connection that a firewall has forgotten is noticed, rather than waited for.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A push manager that is back is found within this time.
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


@dataclass
class Answer:
    """The push was taken. `success`: at least one session was written or queued; else `message` says why not."""

    success: bool
    message: str
    report: pb.DeliveryReport


@dataclass
class Refused:
    """Nothing was pushed. `reason` is for programs, such as ROOM_ID_INVALID; `message` names the field."""

    code: str
    reason: str
    message: str


@dataclass
class Unreachable:
    """Nothing was pushed: no push manager could be reached."""


@dataclass
class Unknown:
    """It may have been pushed. It is not sent again."""

    why: str


class PushManagers:
    """Some push managers, which take turns; may be used by many threads."""

    def __init__(self, addresses):
        self._managers = [Manager(address) for address in addresses]
        self._turns = itertools.count(random.randrange(len(addresses)))

    def push(self, request):
        """Pushes to a room, a user or everyone, as the request's type says, and waits for the report."""
        for least in WAITS:
            outcome, wait = self._ask(request)
            if wait is None:
                return outcome
            time.sleep(max(wait, least))
        return self._ask(request)[0]

    def _ask(self, request):
        stub = self.connected()
        if stub is None:
            return Unreachable(), 0
        call = {
            pb.PushToRoomRequest: stub.PushToRoom,
            pb.PushToUserRequest: stub.PushToUser,
            pb.BroadcastMessageRequest: stub.BroadcastMessage,
        }[type(request)]
        try:
            return answer(call(request, timeout=request.deadline_ms / 1000 + ANSWER_MARGIN)), None
        except grpc.RpcError as error:
            return explain(error)

    def connected(self):
        """The next in turn that has a connection. Without one nothing can have been handed over."""
        first, count = next(self._turns), len(self._managers)
        in_turn = (self._managers[(first + ahead) % count] for ahead in range(count))
        return next((manager.stub for manager in in_turn if manager.is_ready()), None)

    def close(self):
        """Ends the connections."""
        for manager in self._managers:
            manager.channel.close()


class Manager:
    """One push manager, and whether there is a connection to it."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=OPTIONS)
        self.stub = pb_grpc.PushManagerServiceStub(self.channel)
        self._state = ChannelConnectivity.IDLE
        self._changed = threading.Condition()
        self.channel.subscribe(self._change, try_to_connect=True)

    def _change(self, state):
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def is_ready(self):
        """Whether there is a connection, or comes to be one in time."""
        # One that failed goes on trying by itself; others are asked meanwhile.
        decided = (ChannelConnectivity.READY, ChannelConnectivity.TRANSIENT_FAILURE)
        with self._changed:
            self._changed.wait_for(lambda: self._state in decided, CONNECT_TIMEOUT)
            return self._state == ChannelConnectivity.READY


class PushStream:
    """One PushStream, opened at the first push and held open, with many pushes in flight.

    Pushes are accepted in the order of the calls. Results come in the order in which they become known.
    """

    def __init__(self, managers):
        self._managers = managers
        self._room = threading.BoundedSemaphore(IN_FLIGHT)
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        # What is to be sent on the stream that is open, and what was and is not answered for, by push_id.
        self._requests = None
        self._open = {}
        self._reader = None

    def push(self, request):
        """Hands a push over; a future of its outcome. Waits while too many are in flight.

        A push that has to be sent again comes after those sent meanwhile.
        """
        self._room.acquire()
        push = Push(request, Future())
        push.outcome.add_done_callback(lambda _: self._room.release())
        self._hand_over([push])
        return push.outcome

    def _hand_over(self, pushes):
        with self._lock:
            if self._opened():
                for push in pushes:
                    push_id = next(self._ids)
                    self._open[push_id] = push
                    self._requests.put(pb.PushStreamRequest(pushes=[streamed(push_id, push.request)]))
                return
        self._settle(pushes, Unreachable(), 0)

    def _opened(self):
        """Whether there is a stream, or comes to be one."""
        if self._requests is None:
            stub = self._managers.connected()
            if stub is None:
                return False
            self._requests = queue.SimpleQueue()
            # The library takes from the queue until there is a None, which ends our side of the stream.
            results = stub.PushStream(iter(self._requests.get, None))
            self._reader = threading.Thread(target=self._read, args=(results,), daemon=True)
            self._reader.start()
        return True

    def _read(self, results):
        try:
            for response in results:
                for result in response.results:
                    with self._lock:
                        push = self._open.pop(result.push_id)
                    self._settle([push], *streamed_result(result))
            end = Unknown("the stream ended before the result"), None
        except grpc.RpcError as error:
            # A push manager that ends a stream itself has answered all that it took, and says so by its reason.
            end = explain(error)
        with self._lock:
            left, self._open = list(self._open.values()), {}
            self._requests.put(None)
            self._requests = None
        self._settle(left, *end)

    def _settle(self, pushes, outcome, wait):
        """All of them ended so; those that surely were not taken are handed over again, in their order."""
        again = []
        for push in pushes:
            push.attempts += 1
            if wait is None or push.attempts > len(WAITS):
                push.outcome.set_result(outcome)
            else:
                again.append(push)
        if again:
            least = WAITS[again[0].attempts - 1]
            threading.Timer(max(wait, least), self._hand_over, [again]).start()

    def close(self):
        """Ends the stream; call it when every outcome is there."""
        with self._lock:
            reader = self._reader
            if self._requests is not None:
                self._requests.put(None)
        if reader is not None:
            reader.join()


@dataclass
class Push:
    """A push of a stream."""

    request: object
    outcome: Future
    attempts: int = 0


def explain(error):
    """What an error says of a push, and after how many seconds it may be tried again; None: never."""
    reason, wait = "", 0.0
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == "ringcast":
            reason = info.reason
        elif detail.Unpack(retry):
            wait = retry.retry_delay.ToTimedelta().total_seconds()
    if not reason and error.code() not in NEVER_BEGAN:
        return Unknown(f"{error.code().name}: {error.details()}"), None
    refused = Refused(error.code().name, reason, error.details() or "")
    return refused, wait if reason in TRY_AGAIN else None


def answer(response):
    """The same of all three kinds of pushes."""
    return Answer(response.success, response.message, response.report)


def streamed(push_id, request):
    """A push as a stream carries it."""
    kind = {
        pb.PushToRoomRequest: "room",
        pb.PushToUserRequest: "user",
        pb.BroadcastMessageRequest: "broadcast",
    }[type(request)]
    return pb.StreamedPush(push_id=push_id, **{kind: request})


def streamed_result(result):
    """A result of a stream, and after how many seconds the push may be tried again; None: never."""
    kind = result.WhichOneof("result")
    if kind == "error":
        code = next((code.name for code in grpc.StatusCode if code.value[0] == result.error.code), "UNKNOWN")
        refused = Refused(code, result.error.reason, result.error.message)
        return refused, 0.25 if result.error.reason in TRY_AGAIN else None
    return answer(getattr(result, kind)), None
